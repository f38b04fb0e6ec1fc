"""Events of a session straight from its file: stretches of contiguous data sets, found through an index of seconds.

Nothing is held but a path and a few numbers; a process keeps few files open, however many sessions there are, and reads
no more of them than its windows need, however long they are. Plain reads, not a memory map: what a mapped page brings
along (up to two megabytes, as the kernel likes) would count as the process's own. Files that cannot be read like this
(chunked, compressed, unsorted, without index) are unpacked once, into the hidden folder ``.unpacked`` beside the file.

Letters: W windows, S events, M stretches.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from torch_brain.data import IrregularTimeSeries

from neurobridge.data.checks import check_events
from neurobridge.data.hdf5 import atomic_hdf5, has, read_array
from neurobridge.data.recording import CHECKED, Recording
from neurobridge.errors import UserError

MOST_OPEN = 128
BLOCK = 2**20
GRID_ERROR = 1e-7  # s; the grid of the index is a sum of floats
GAP = 512  # events between two stretches that are rather read than skipped
INDEX = "timestamp_indices_1s"  # number of events before each whole second, as torch_brain writes it

Window = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


class HeldEvents:
    """The events of a recording in memory, as :class:`FileEvents` gives those of a file."""

    def __init__(self, recording: Recording) -> None:
        order = np.argsort(recording.spike_times, kind="stable")
        self.times = recording.spike_times[order].astype(np.float64)
        self.units = recording.spike_units[order]
        self.values = None if recording.spike_values is None else recording.spike_values[order]

    def __len__(self) -> int:
        return len(self.times)

    def counts(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.times, high) - np.searchsorted(self.times, low)

    def read(self, low: np.ndarray, high: np.ndarray) -> Window:
        first, last = np.searchsorted(self.times, low), np.searchsorted(self.times, high)
        arrays = (None if a is None else gathered(a, first, last) for a in (self.times, self.units, self.values))
        return last - first, *arrays


@dataclass(frozen=True, kw_only=True)
class Column:
    """One array in a file: bytes from its start, numpy type, length."""

    offset: int
    dtype: str
    length: int

    def bytes(self, first: int) -> int:
        """Where element ``first`` lies in the file."""
        return self.offset + first * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class FileEvents:
    """Events in a file: times float64 s, ascending; units integer rows; values, where there are any.

    ``stamp``: size and time of change of the file when it was opened; a file that changed since is refused.
    ``origin``: the second at which the index starts.
    """

    path: Path
    stamp: tuple[int, int]
    columns: dict[str, Column]
    origin: float

    def __len__(self) -> int:
        return self.columns["timestamps"].length

    @property
    def times(self) -> np.ndarray:
        """[S] all of them, as a memory map."""
        return self._mapped("timestamps")

    @property
    def units(self) -> np.ndarray:
        """[S] all of them, as a memory map."""
        return self._mapped("unit_index")

    @property
    def values(self) -> np.ndarray | None:
        """[S] all of them, as a memory map; None for spikes."""
        return self._mapped("value") if "value" in self.columns else None

    def _mapped(self, name: str) -> np.ndarray:
        _files.of(self)  # refuses a file that has changed
        column = self.columns[name]
        return np.memmap(self.path, column.dtype, "r", offset=column.offset, shape=(column.length,))

    def bounds(self) -> tuple[float, float]:
        """Times of the first and the last event in s."""
        ends = np.array([0, len(self) - 1])
        first, last = self._array("timestamps", ends, ends + 1).tolist()
        return first, last

    def counts(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """[W] how many events lie in each window low..high [W] s."""
        stretches = self._stretches(low, high)
        return stretches.last - stretches.first

    def read(self, low: np.ndarray, high: np.ndarray) -> Window:
        """Events of each window low..high [W] s, the latter excluded: counts [W]; times, units, values [S] in order."""
        found = self._stretches(low, high)
        times = gathered(found.times, found.first, found.last)
        narrow = found.narrowed()
        columns = []
        for name in ("unit_index", "value"):
            if name in self.columns:
                array = self._array(name, narrow.start, narrow.stop)
                columns.append(gathered(array, narrow.first, narrow.last))
            else:
                columns.append(None)
        return found.last - found.first, times, *columns

    def _stretches(self, low: np.ndarray, high: np.ndarray) -> Stretches:
        index = _files.of(self).index
        after = len(index) - 1
        # the last whole second before each window and the first one after it
        before = np.floor(low - self.origin).astype(np.int64)
        before -= self.origin + before > low - GRID_ERROR
        behind = np.ceil(high - self.origin).astype(np.int64)
        behind += self.origin + behind < high + GRID_ERROR
        start = np.where(before < 0, 0, index[np.clip(before, 0, after)])
        stop = np.where(behind > after, len(self), index[np.clip(behind, 0, after)])
        order = np.argsort(start, kind="stable")
        start, stop = start[order], np.maximum.accumulate(stop[order])
        fresh = np.flatnonzero(np.concatenate([[True], start[1:] > stop[:-1] + GAP])) if len(start) else start
        start, stop = start[fresh], stop[np.concatenate([fresh[1:], [len(stop)]]) - 1] if len(fresh) else stop
        times = self._array("timestamps", start, stop)
        return Stretches(
            start=start, stop=stop, times=times, order=order, fresh=fresh,
            first=np.searchsorted(times, low), last=np.searchsorted(times, high),
        )  # fmt: skip

    def _array(self, name: str, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The stretches start..stop [M] of a column, one after the other."""
        number, column = _files.of(self).number, self.columns[name]
        array = np.empty(int((stop - start).sum()), dtype=column.dtype)
        view, at = memoryview(array).cast("B"), 0
        for first, length in zip(start.tolist(), ((stop - start) * array.itemsize).tolist(), strict=True):
            place, end = column.bytes(first), at + length
            while at < end:
                got = os.preadv(number, [view[at:end]], place)
                if got <= 0:
                    raise UserError(f"{self.path} ends early: it has changed since it was opened; start again")
                at, place = at + got, place + got
        return array


@dataclass(kw_only=True)
class Stretches:
    """What was read for W windows: M stretches of the file, start..stop, whose times follow each other in ``times``.

    first, last [W]: each window in ``times``. order [W]: the windows by time, of which fresh [M] begin a stretch.
    """

    start: np.ndarray
    stop: np.ndarray
    times: np.ndarray
    order: np.ndarray
    fresh: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def narrowed(self) -> Stretches:
        """The same without what lies before the first and behind the last window of each stretch."""
        if not len(self.fresh):
            return self
        lengths = self.stop - self.start
        at = np.cumsum(lengths) - lengths
        first = np.minimum.reduceat(self.first[self.order], self.fresh)
        last = np.maximum.reduceat(self.last[self.order], self.fresh)
        start, stop = self.start + first - at, self.start + last - at
        moved = np.cumsum(stop - start) - (stop - start) - first
        shift = np.empty_like(self.first)
        shift[self.order] = np.repeat(moved, np.diff([*self.fresh.tolist(), len(self.order)]))
        return Stretches(
            start=start, stop=stop, times=self.times, order=self.order, fresh=self.fresh,
            first=self.first + shift, last=self.last + shift,
        )  # fmt: skip


def gathered(array: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The stretches first..last [W] of ``array``, one after the other."""
    if len(first) and (first[1:] == last[:-1]).all():
        return array[first[0] : last[-1]]
    return np.concatenate([array[:0], *(array[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True))])


@dataclass(kw_only=True)
class OpenFile:
    """A file descriptor and the index of seconds behind it."""

    number: int
    index: np.ndarray


class Files:
    """The files that this process has open, those used last at the end."""

    def __init__(self) -> None:
        self.open: OrderedDict[tuple[Path, tuple[int, int]], OpenFile] = OrderedDict()

    def of(self, events: FileEvents) -> OpenFile:
        key = (events.path, events.stamp)
        found = self.open.get(key)
        if found is not None:
            self.open.move_to_end(key)
            return found
        try:
            number = os.open(events.path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise UserError(f"{events.path} has gone since it was opened: start again") from error
        if _stamp(os.fstat(number)) != events.stamp:
            os.close(number)
            raise UserError(f"{events.path} has changed since it was opened: start again")
        index = events.columns[INDEX]
        read = os.pread(number, 8 * index.length, index.offset)
        self.open[key] = OpenFile(number=number, index=np.frombuffer(read, np.int64))
        while len(self.open) > MOST_OPEN:
            _, oldest = self.open.popitem(last=False)
            os.close(oldest.number)
        return self.open[key]


_files = Files()


def file_events(path: Path, file: h5py.File, unit_count: int) -> FileEvents:
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
    columns = {
        name: _contiguous(dataset, np.float64 if name == "timestamps" else None) for name, dataset in datasets.items()
    }
    if has(file, f"spikes/{INDEX}") and has(file, "spikes/domain/start"):
        index = h5py.h5d.open(file.id, f"spikes/{INDEX}".encode())
        columns[INDEX] = _contiguous(index, np.int64)
    note = path.parent / ".unpacked" / f"{path.stem}-{stamp[0]}-{stamp[1]}"
    whole = {name: column for name, column in columns.items() if column is not None}
    if len(whole) == len(names) + 1:
        origin = float(read_array(file, "spikes/domain/start")[0])
        events = FileEvents(path=path, stamp=stamp, columns=whole, origin=origin)
        if h5py.h5a.exists(file.id, CHECKED.encode(), obj_name=b"spikes") or note.with_suffix(".sound").is_file():
            return events
        if _is_sound(events, unit_count):
            _write_note(note.with_suffix(".sound"))
            return events
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
    last, times, units = -np.inf, events.times, events.units
    for first in range(0, len(events), BLOCK):
        block = times[first : first + BLOCK]
        check_events(block, units[first : first + BLOCK], unit_count, str(events.path), first=first)
        if block[0] < last or (block[1:] < block[:-1]).any():
            return False
        last = block[-1]
    index = _files.of(events).index
    grid = np.arange(events.origin, events.origin + len(index) - 0.5, 1.0)
    return bool((np.searchsorted(times, grid) == index).all())


def _write_note(path: Path) -> None:
    """Remember that a file was checked; where its folder cannot be written to, it is checked again next time."""
    try:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    except OSError:
        return


def _unpacked(file: h5py.File, names: list[str], copy: Path, unit_count: int, source: Path) -> FileEvents:
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
        return file_events(copy, unpacked, unit_count)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
