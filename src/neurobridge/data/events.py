"""Events of a session straight from its file: stretches of contiguous data sets, found through an index of seconds.

Nothing is held but a path and a few numbers; a process keeps few files open, however many sessions there are, and reads
no more of them than its windows need, however long they are. Plain reads, not a memory map: what a mapped page brings
along (up to two megabytes, as the kernel likes) would count as the process's own. Files that cannot be read like this
(chunked, compressed, unsorted, without index) are unpacked once, into the hidden folder ``.unpacked`` beside the file.

Letters: W windows, S events.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from torch_brain.data import IrregularTimeSeries

from neurobridge.data.checks import check_events, check_values
from neurobridge.data.hdf5 import atomic_hdf5, has, read_array
from neurobridge.data.recording import CHECKED, Recording
from neurobridge.errors import UserError

MOST_OPEN = 128
BLOCK = 2**20
GRID_ERROR = 1e-7  # s; the grid of the index is a sum of floats
INDEX = "timestamp_indices_1s"  # number of events before each whole second, as torch_brain writes it

Events = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


class HeldEvents:
    """The events of a recording in memory, as :class:`FileEvents` gives those of a file."""

    def __init__(self, recording: Recording) -> None:
        order = np.argsort(recording.spike_times, kind="stable")
        self.times = recording.spike_times[order].astype(np.float64)
        self.units = recording.spike_units[order]
        self.values = None if recording.spike_values is None else recording.spike_values[order]

    def counts(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.times, high) - np.searchsorted(self.times, low)

    def read(self, low: np.ndarray, high: np.ndarray) -> Events:
        first, last = np.searchsorted(self.times, low), np.searchsorted(self.times, high)
        counts = last - first
        event = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        tick = ((self.times[event] - np.repeat(low, counts)) * 1000).astype(np.int64)
        return counts, tick, self.units[event], None if self.values is None else self.values[event]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One array in a file: bytes from its start, numpy type, length."""

    offset: int
    dtype: str
    length: int

    def fill(self, array: np.ndarray, number: int, first: int) -> None:
        """Read ``array`` from element ``first`` on, of the open file ``number``."""
        view, place = memoryview(array).cast("B"), self.offset + first * array.itemsize
        while len(view):
            got = os.preadv(number, [view], place)
            if got <= 0:
                raise UserError("a recording ends early: it has changed since it was opened; start again")
            view, place = view[got:], place + got


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
        ends = np.empty(2)
        for place, first in enumerate((0, len(self) - 1)):
            self.columns["timestamps"].fill(ends[place : place + 1], _files.of(self).number, first)
        return float(ends[0]), float(ends[1])

    def counts(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """[W] how many events lie in each window from low to high [W] s, the latter excluded."""
        return np.array([len(times) for _, times in self._times(low, high)], dtype=np.int64)

    def read(self, low: np.ndarray, high: np.ndarray) -> Events:
        """Counts [W]; whole milliseconds since ``low``, units and values [S], in order of window, then time."""
        first, ticks = [], []
        for (place, times), start in zip(self._times(low, high), low.tolist(), strict=True):
            times -= start
            times *= 1000
            first.append(place)
            ticks.append(times.astype(np.int64))
        counts = [len(tick) for tick in ticks]
        columns = [self._gathered(name, first, counts) for name in ("unit_index", "value")]
        return np.array(counts, dtype=np.int64), joined([np.empty(0, np.int64), *ticks]), *columns

    def _times(self, low: np.ndarray, high: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first event, times of the events) of each window; the array is used again for the next."""
        file, column = _files.of(self), self.columns["timestamps"]
        after = len(file.index) - 1
        # the last whole second before each window and the first one after it
        before = np.floor(low - self.origin).astype(np.int64)
        before -= self.origin + before > low - GRID_ERROR
        behind = np.ceil(high - self.origin).astype(np.int64)
        behind += self.origin + behind < high + GRID_ERROR
        start = np.where(before < 0, 0, file.index[np.clip(before, 0, after)])
        stop = np.where(behind > after, len(self), file.index[np.clip(behind, 0, after)])
        scratch = np.empty(int((stop - start).max(initial=0)))
        for first, last, *window in zip(start.tolist(), stop.tolist(), low.tolist(), high.tolist(), strict=True):
            times = scratch[: last - first]
            column.fill(times, file.number, first)
            begin, end = times.searchsorted(window).tolist()
            yield first + begin, times[begin:end]

    def _gathered(self, name: str, first: list[int], counts: list[int]) -> np.ndarray | None:
        """A column of the windows that begin at event ``first``, one after the other; None where there is none."""
        column, at = self.columns.get(name), 0
        if column is None:
            return None
        array, number = np.empty(sum(counts), dtype=column.dtype), _files.of(self).number
        for place, count in zip(first, counts, strict=True):
            column.fill(array[at : at + count], number, place)
            at += count
        return array


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array of several, a lone one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


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
    if "value" in names:
        check_values(h5py.Dataset(datasets["value"]), str(path))
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


def _is_sound(events: FileEvents, unit_count: int) -> bool:
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
