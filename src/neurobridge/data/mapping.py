"""Events of a session straight from its file: contiguous data sets are memory-mapped, and hardly anything stays open.

A process keeps few files mapped and little of them resident, however many sessions there are and however long they are:
the files used longest ago are closed, pages that were read are handed back to the operating system, which keeps them in
its cache, and a time is looked up through the file's index of whole seconds, for a search from end to end would touch
pages everywhere. What cannot be mapped as it is (chunked, compressed, unsorted, other number types) is unpacked once,
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
from torch_brain.data import IrregularTimeSeries

from neurobridge.data.checks import check_events
from neurobridge.data.hdf5 import atomic_hdf5, has, read_array
from neurobridge.data.recording import CHECKED
from neurobridge.errors import UserError

MOST_OPEN = 128
MOST_RESIDENT = 64 * 2**20
AROUND = 2**17  # bytes that come with every stretch that is read: the kernel maps 64 kB around each page
BLOCK = 2**20
SHORT = 2**16  # events that are searched from end to end
INDEX, SPACING = "timestamp_indices_1s", 1.0


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
    change of the file when it was opened; a file that changed since is refused. ``origin``: where the index of seconds
    starts.
    """

    path: Path
    stamp: tuple[int, int]
    columns: dict[str, Column]
    origin: float = 0.0

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

    def search(self, moments: np.ndarray) -> np.ndarray:
        """For each moment in s the number of events before it, as ``np.searchsorted(times, moments)``."""
        times = self.times
        if INDEX not in self.columns or len(times) <= SHORT:
            return np.searchsorted(times, moments)
        index = self._array(INDEX)
        second = np.floor((moments - self.origin) / SPACING).astype(np.int64)
        before, after = second - 1, second + 2  # a second more on both sides: the grid is rounded, too
        low = np.where(before < 0, 0, index[np.clip(before, 0, len(index) - 1)])
        high = np.where(after >= len(index), len(times), index[np.clip(after, 0, len(index) - 1)])
        span = high - low
        while span.any():
            middle = low + (span >> 1)
            later = (times[np.minimum(middle, len(times) - 1)] < moments) & (span > 0)
            low = np.where(later, middle + 1, low)
            span = np.where(later, span - (span >> 1) - 1, span >> 1)
        return low

    def was_read(self, stretches: int, events: int) -> None:
        """Tell how many stretches and events were just looked at, so that their pages can be given back in time."""
        width = sum(np.dtype(column.dtype).itemsize for name, column in self.columns.items() if name != INDEX)
        _maps.was_read((self.path, self.stamp), events * width + stretches * AROUND * len(self.columns))


class Maps:
    """The files that this process has mapped, those used last at the end, and about how much of each is resident."""

    def __init__(self) -> None:
        self.open: OrderedDict[tuple[Path, tuple[int, int]], mmap.mmap] = OrderedDict()
        self.read: dict[tuple[Path, tuple[int, int]], int] = {}

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
            oldest, _ = self.open.popitem(last=False)  # unmapped when the last view of it is gone
            self.read.pop(oldest, None)
        return self.open[key]

    def was_read(self, key: tuple[Path, tuple[int, int]], size: int) -> None:
        self.read[key] = min(self.read.get(key, 0) + size, key[1][0])
        if sum(self.read.values()) > MOST_RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self.open.values():
                mapped.madvise(mmap.MADV_DONTNEED)
            self.read.clear()


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
    whole = len(columns) == len(names)
    origin = 0.0
    if has(file, f"spikes/{INDEX}") and has(file, "spikes/domain/start"):
        index = _contiguous(h5py.h5d.open(file.id, f"spikes/{INDEX}".encode()), np.int64)
        if index is not None:
            columns[INDEX], origin = index, float(read_array(file, "spikes/domain/start")[0])
    mapped = MappedEvents(path=path, stamp=stamp, columns=columns, origin=origin)
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
    """True if the times ascend and the index is theirs; read a block at a time.

    Raises UserError for events that cannot be used.
    """
    last = -np.inf
    for first in range(0, len(events), BLOCK):
        times = events.times[first : first + BLOCK]
        check_events(times, events.units[first : first + BLOCK], unit_count, str(events.path), first=first)
        if times[0] < last or (times[1:] < times[:-1]).any():
            return False
        last = times[-1]
        events.was_read(1, len(times))
    if INDEX not in events.columns:
        return True
    index = events._array(INDEX)
    grid = events.origin + SPACING * np.arange(len(index))
    return bool((np.abs(np.searchsorted(events.times, grid) - index) <= 1).all())


def _write_note(path: Path) -> None:
    """Remember that a file was checked; where its folder cannot be written to, it is checked again next time."""
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    except OSError:
        return


def _unpacked(file: h5py.File, names: list[str], copy: Path, unit_count: int, source: Path) -> MappedEvents:
    """The events as a file of ours, ``copy``, which is written if need be: sorted, contiguous, with an index."""
    if not copy.is_file():
        arrays = {name: read_array(file, f"spikes/{name}") for name in names}
        check_events(arrays["timestamps"], arrays["unit_index"], unit_count, str(source))
        order = np.argsort(arrays["timestamps"], kind="stable")
        times = arrays.pop("timestamps")[order].astype(np.float64)
        try:
            with atomic_hdf5(copy) as output:
                spikes = IrregularTimeSeries(timestamps=times, **{name: array[order] for name, array in arrays.items()})
                spikes.to_hdf5(output.create_group("spikes"))
                output["spikes"].attrs[CHECKED] = 1
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise UserError(
                f"{source} is compressed, chunked or unsorted and {source.parent} cannot be written to, where it would "
                "be unpacked: copy the data folder to a place of your own, or import it again"
            ) from error
    with h5py.File(copy, "r") as unpacked:
        return map_events(copy, unpacked, unit_count)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
