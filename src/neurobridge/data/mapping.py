"""Events of a session straight from its file: contiguous data sets are memory-mapped, and hardly anything stays open.

A process keeps few files mapped and little of them resident, however many sessions there are and however long they are:
the files used longest ago are closed, and pages that were read are handed back to the operating system, which keeps
them in its cache. What cannot be mapped as it is (chunked, compressed, unsorted, other number types) is unpacked once
into the hidden folder ``.mapped`` beside the file.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from neurobridge.data.checks import check_events
from neurobridge.data.hdf5 import has, read_array
from neurobridge.data.recording import CHECKED
from neurobridge.errors import UserError, atomic_path

MOST_OPEN = 128
MOST_RESIDENT = 64 * 2**20
BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class Column:
    """One array in a file: bytes from its start, numpy type, length."""

    offset: int
    dtype: str
    length: int


@dataclass(frozen=True, kw_only=True)
class MappedEvents:
    """times [S] float64 s, ascending; units [S] integer rows; values [S] or None: views of the file, made when asked.

    Holds a path and numbers alone, so it costs nothing to keep and to send to a worker. ``stamp``: size and time of
    change of the file when it was opened; a file that changed since is refused.
    """

    path: Path
    stamp: tuple[int, int]
    columns: dict[str, Column]

    def __len__(self) -> int:
        return self.columns["timestamps"].length

    @property
    def times(self) -> np.ndarray:
        return self._array("timestamps")

    @property
    def units(self) -> np.ndarray:
        return self._array("unit_index")

    @property
    def values(self) -> np.ndarray | None:
        return self._array("value") if "value" in self.columns else None

    def _array(self, name: str) -> np.ndarray:
        column = self.columns[name]
        return np.frombuffer(
            _maps.of(self.path, self.stamp), dtype=column.dtype, count=column.length, offset=column.offset
        )

    def was_read(self, events: int) -> None:
        """Tell how many events were just looked at, so that their pages can be given back in time."""
        _maps.was_read(events * sum(np.dtype(column.dtype).itemsize for column in self.columns.values()))


class Maps:
    """The files that this process has mapped, those used last at the end."""

    def __init__(self) -> None:
        self.open: OrderedDict[tuple[Path, tuple[int, int]], mmap.mmap] = OrderedDict()
        self.resident = 0

    def of(self, path: Path, stamp: tuple[int, int]) -> mmap.mmap:
        key = (path, stamp)
        found = self.open.get(key)
        if found is not None:
            self.open.move_to_end(key)
            return found
        try:
            with path.open("rb") as file:
                if _stamp(os.fstat(file.fileno())) != stamp:
                    raise UserError(f"{path} has changed since it was opened: start again")
                self.open[key] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise UserError(f"{path} has gone since it was opened: start again") from error
        while len(self.open) > MOST_OPEN:
            self.open.popitem(last=False)  # unmapped when the last view of it is gone
        return self.open[key]

    def was_read(self, size: int) -> None:
        self.resident += size
        if self.resident > MOST_RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self.open.values():
                mapped.madvise(mmap.MADV_DONTNEED)
            self.resident = 0


_maps = Maps()


def map_events(path: Path, file: h5py.File, unit_count: int) -> MappedEvents:
    """The events of the session ``file``, open at ``path``. A file not of ours is checked whole, once.

    Raises UserError for spikes that cannot be used (see :mod:`checks`).
    """
    names = [name for name in ("timestamps", "unit_index", "value") if has(file, f"spikes/{name}")]
    datasets = {name: h5py.h5d.open(file.id, f"spikes/{name}".encode()) for name in names}
    sizes = {name: dataset.shape[0] for name, dataset in datasets.items()}
    if sizes["timestamps"] != sizes["unit_index"]:
        raise UserError(f"{path}: {sizes['timestamps']} spike times but {sizes['unit_index']} unit indices")
    if len(set(sizes.values())) > 1:
        raise UserError(f"{path}: {sizes['timestamps']} spike times but {sizes['value']} values")
    if sizes["timestamps"] == 0:
        raise UserError(f"{path} holds no spikes: the file is empty or the import went wrong; import it again")
    stamp = _stamp(path.stat())
    found = {
        name: _contiguous(dataset, np.float64 if name == "timestamps" else None) for name, dataset in datasets.items()
    }
    columns = {name: column for name, column in found.items() if column is not None}
    mapped = MappedEvents(path=path, stamp=stamp, columns=columns)
    whole = len(columns) == len(names)
    if whole and h5py.h5a.exists(file.id, CHECKED.encode(), obj_name=b"spikes"):
        return mapped
    note = path.parent / ".mapped" / f"{path.stem}-{stamp[0]}-{stamp[1]}"
    if whole and (note.with_suffix(".sound").is_file() or _is_sound(mapped, unit_count)):
        _write_note(note.with_suffix(".sound"))
        return mapped
    return _unpacked(file, names, note.with_suffix(".events"), unit_count, path)


def _contiguous(dataset: h5py.h5d.DatasetID, wanted: type | None) -> Column | None:
    """Where a data set lies, None if it is not one piece of plain numbers (of the type ``wanted``)."""
    offset, dtype = dataset.get_offset(), dataset.dtype
    if offset is None or not dtype.isnative or dtype.kind not in "iuf" or (wanted and dtype != wanted):
        return None
    if dataset.get_create_plist().get_external_count():
        return None
    return Column(offset=offset, dtype=dtype.str, length=dataset.shape[0])


def _is_sound(events: MappedEvents, unit_count: int) -> bool:
    """True if the times ascend. Raises UserError for events that cannot be used. A block at a time."""
    last = -np.inf
    for first in range(0, len(events), BLOCK):
        times = events.times[first : first + BLOCK]
        check_events(times, events.units[first : first + BLOCK], unit_count, str(events.path), first=first)
        if times[0] < last or (times[1:] < times[:-1]).any():
            return False
        last = times[-1]
        events.was_read(len(times))
    return True


def _write_note(path: Path) -> None:
    """Remember that a file was checked; where its folder cannot be written to, it is checked again next time."""
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    except OSError:
        return


def _unpacked(file: h5py.File, names: list[str], copy: Path, unit_count: int, source: Path) -> MappedEvents:
    """The events as plain sorted arrays, one after the other, in the file ``copy``, which is written if need be."""
    length, columns, offset = file["spikes/timestamps"].shape[0], {}, 0
    for name, dtype in zip(names, (np.float64, np.int64, np.float32), strict=False):
        columns[name] = Column(offset=offset, dtype=np.dtype(dtype).str, length=length)
        offset += length * np.dtype(dtype).itemsize
    if not copy.is_file():
        times = read_array(file, "spikes/timestamps")
        check_events(times, read_array(file, "spikes/unit_index"), unit_count, str(source))
        order = np.argsort(times, kind="stable")
        try:
            with atomic_path(copy) as temporary, temporary.open("wb") as output:
                for name in names:
                    array = read_array(file, f"spikes/{name}")[order].astype(columns[name].dtype)
                    output.write(array.tobytes())
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise UserError(
                f"{source} is compressed, chunked or unsorted and {source.parent} cannot be written to, where it would "
                "be unpacked: copy the data folder to a place of your own, or import it again"
            ) from error
    return MappedEvents(path=copy, stamp=_stamp(copy.stat()), columns=columns)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
