"""NWB 2 files through plain h5py.

The layout on disk (tables, ragged columns, time series) is that of NWB 2.0 to this day, while each pynwb refuses some
files of other years. So data are read here, by one path for old files and new ones; whether pynwb opens a file too is
told by the doctor (:mod:`nwb_doctor`), and the tests hold what is read against it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from neurobridge.data.cells import is_number
from neurobridge.data.guard import dangling, read_dataset
from neurobridge.data.heap import text_can_be_read
from neurobridge.data.importing import refuse_pointer
from neurobridge.errors import UserError, why

AGAIN = "download or export the file again"
ELECTRODES = "general/extracellular_ephys/electrodes"
BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError, OverflowError)  # by h5py


class Unreadable(UserError):
    """What ``key`` of a file (or the file itself) is instead of what it should be; ``reason`` completes "it is"."""

    def __init__(self, path: Path, reason: str, *, key: str = "", mend: str = AGAIN) -> None:
        super().__init__(f"{path}{f': {key!r}' if key else ''} is {reason}; {mend}")
        self.reason, self.key, self.mend = reason, key, mend


@dataclass(kw_only=True)
class Ragged:
    """A list a row: ``values`` [S, ...] of all rows, one after the other; row i ends before ``ends[i]``."""

    values: np.ndarray
    ends: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


@dataclass(kw_only=True)
class Series:
    """``times`` [T] in s, ``values`` [T] or [T, D] in ``unit``."""

    times: np.ndarray
    values: np.ndarray
    unit: str


class Nwb:
    """An open NWB file. Every method raises :class:`Unreadable`, with the key, for what is not there or not right."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self.file = path, file

    def has(self, key: str) -> bool:
        with self._guard(key):
            return self.file.get(key) is not None

    def members(self, key: str) -> list[str]:
        """Names in a group; none where it is absent."""
        with self._guard(key):
            group = self.file.get(key)
            return sorted(group) if isinstance(group, h5py.Group) else []

    def numbers(self, key: str, *, dimensions: int = 1, rows: int | None = None) -> np.ndarray:
        """A numeric column; ``rows`` is how many it must have."""
        values = self._read(key)
        if values.dtype.kind not in "iufb":
            raise self._error(key, f"{kind_of(values)}, not numbers")
        return self._shaped(values, key, dimensions, rows)

    def texts(self, key: str, *, rows: int | None = None) -> np.ndarray:
        """A column as text; numbers as they print."""
        values = self._shaped(self._read(key), key, 1, rows)
        with self._guard(key):
            return _texts(values)

    def cells(self, key: str, *, rows: int | None = None) -> np.ndarray:
        """A column of one text (as an object) or one number a row; of what links to a group, the group's name."""
        values = self._shaped(self._read(key), key, 1, rows)
        if values.dtype.kind not in "OS":
            return values
        with self._guard(key):
            named = [self.file[v].name.rpartition("/")[2] if isinstance(v, h5py.Reference) else v for v in values]
            return np.array([v.decode() if isinstance(v, bytes) else v for v in named], dtype=object)

    def floats(self, key: str, *, rows: int | None = None) -> np.ndarray:
        """A column of numbers that may have been written as text; '' and 'N/A' are NaN."""
        column = self._shaped(self._read(key), key, 1, rows)
        if column.dtype.kind in "iufb":
            return column.astype(np.float64)
        values = np.full(len(column), np.nan)
        for row, text in enumerate(self.texts(key, rows=rows).tolist()):
            if text.strip().lower() not in ("", "n/a", "nan", "none"):
                if not is_number(text):
                    raise self._error(key, f"text, with '{text}' in row {row}, not a number")
                values[row] = float(text)
        return values

    def ragged(self, key: str, *, rows: int | None = None, dimensions: int = 1) -> Ragged:
        """A column with a list a row."""
        return self._ragged(key, self.numbers(key, dimensions=dimensions), rows)

    def ragged_cells(self, key: str, *, rows: int | None = None) -> Ragged:
        """As :meth:`ragged`, of numbers or text."""
        if self.has(f"{key}_index_index"):
            raise self._error(key, "a list of lists in each row, not a list")
        return self._ragged(key, self.cells(key), rows)

    def _ragged(self, key: str, values: np.ndarray, rows: int | None) -> Ragged:
        ends = self.numbers(f"{key}_index", rows=rows)
        if ends.dtype.kind not in "iu":
            raise self._error(f"{key}_index", f"{ends.dtype}, not whole numbers")
        ends = ends.astype(np.int64)
        if len(ends) and ((np.diff(ends, prepend=0) < 0).any() or ends[-1] != len(values)):
            raise self._error(key, f"of {len(values)} values, but its index ends at {ends[-1]} or falls")
        return Ragged(values=values, ends=ends)

    def of_first_electrode(self, table: str, column: str) -> np.ndarray:
        """A column of the electrode table at the first electrode of each row of ``table``."""
        key = f"{table}/electrodes"
        values = self.cells(f"{ELECTRODES}/{column}")
        rows = self.numbers(key)
        if self.has(f"{key}_index"):
            ragged = self._ragged(key, rows, None)
            bare = np.flatnonzero(ragged.counts == 0)
            if len(bare):
                raise self._error(key, f"without an electrode in row {bare[0]}")
            rows = rows[ragged.ends - ragged.counts]
        bad = np.flatnonzero((rows < 0) | (rows >= len(values)))
        if len(bad) or rows.dtype.kind not in "iu":
            told = f"{rows[bad[0]]} in row {bad[0]}" if len(bad) else str(rows.dtype)
            raise self._error(key, f"{told}, but the electrodes are 0 to {len(values) - 1}")
        return values[rows.astype(np.int64)]

    def series(self, key: str) -> Series:
        """A time series; its timestamps may be given, shared with another series (a link), or follow from a rate."""
        if not self.has(key):
            raise self._error(key, "absent")
        data, start = f"{key}/data", f"{key}/starting_time"
        values = self.numbers(data, dimensions=0)
        scale, offset = self._number(data, "conversion", 1.0), self._number(data, "offset", 0.0)
        if scale != 1 or offset != 0:
            values = values * scale + offset
        if self.has(f"{key}/timestamps"):
            times = self.numbers(f"{key}/timestamps").astype(np.float64)
        elif self.has(start):
            rate, first = self._number(start, "rate", 0.0), self.numbers(start, dimensions=0)
            if not rate > 0 or first.size != 1:
                raise self._error(start, "not one time with a positive rate")
            times = float(first.item()) + np.arange(values.shape[0] if values.ndim else 0) / rate
        else:
            raise self._error(key, "without timestamps and without a starting time")
        if values.ndim == 0 or len(values) != len(times):
            raise self._error(data, f"of shape {values.shape} for {len(times)} timestamps (transposed?)")
        return Series(times=times, values=values, unit=self._word(data, "unit"))

    def word(self, key: str, default: str = "") -> str:
        """A single text such as the identifier; ``default`` where there is no such thing."""
        with self._guard(key):
            if not isinstance(self.file.get(key), h5py.Dataset):
                return default
        return _word(self._read(key), default)

    def species(self, default: str) -> str:
        """Latin name of the subject in capitals; ``default`` where the file gives none, or a link."""
        told = self.word("general/subject/species")
        return told.upper().replace(" ", "_") if re.fullmatch(r"[A-Za-z]+ [a-z]+", told) else default

    @property
    def version(self) -> str:
        """The schema's version; empty for what is no NWB 2 file."""
        told = self._word("/", "nwb_version")
        return told if re.match(r"2\.\d", told) else ""

    def _attribute(self, key: str, name: str, default: object) -> np.ndarray:
        with self._guard(key):
            return np.asarray(self.file[key].attrs.get(name, default))

    def _word(self, key: str, name: str) -> str:
        return _word(self._attribute(key, name, ""), "")

    def _number(self, key: str, name: str, default: float) -> float:
        value = self._attribute(key, name, default)
        if value.dtype.kind not in "iuf" or value.size != 1 or not np.isfinite(value).all():
            raise self._error(key, f"with '{name}' not one number")
        return float(value.item())

    def _read(self, key: str) -> np.ndarray:
        with self._guard(key):
            item = self.file.get(key)
            if item is None and (where := dangling(self.file, key)):
                raise Unreadable(self.path, f"a link to {where}, which is not there", key=key, mend="put it there")
            if item is None:
                raise self._error(key, "absent")
            if not isinstance(item, h5py.Dataset):
                raise self._error(key, "a group, not a column")
            return read_dataset(item)

    def _shaped(self, values: np.ndarray, key: str, dimensions: int, rows: int | None) -> np.ndarray:
        if dimensions and values.ndim != dimensions:
            raise self._error(key, f"of shape {values.shape}, not of {dimensions} dimension{'s' * (dimensions > 1)}")
        if rows is not None and len(values) != rows:
            raise self._error(key, f"of {len(values)} rows in a table of {rows}")
        return values

    def _error(self, key: str, reason: str) -> Unreadable:
        return Unreadable(self.path, reason, key=key)

    @contextmanager
    def _guard(self, key: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except BROKEN as error:
            found, mend = why(error)
            reason = found.removeprefix("is ") or f"unreadable ({first_line(error)})"
            raise Unreadable(self.path, reason, key=key, mend=mend or AGAIN) from error


@contextmanager
def open_nwb(path: Path) -> Iterator[Nwb]:
    """Open an NWB 2 file. Raises Unreadable if it is missing, a pointer, truncated, or something else."""
    path = Path(path)
    if not path.is_file():
        raise Unreadable(path, "not there", mend="check the path")
    refuse_pointer(path)
    if path.stat().st_size == 0:
        raise Unreadable(path, "empty")
    if not text_can_be_read(path):
        raise Unreadable(path, "damaged where it keeps its text (a hole in the file?)")
    try:
        file = h5py.File(path, "r")
    except BROKEN as error:
        found, mend = why(error)
        reason = found.removeprefix("is ") or f"no whole HDF5 file ({first_line(error)})"
        raise Unreadable(path, reason, mend=mend or AGAIN) from error
    with file:
        nwb = Nwb(path, file)
        if not nwb.version:
            raise Unreadable(path, "HDF5 but not NWB 2 (no 'nwb_version' of 2)", mend="give the NWB file of a session")
        yield nwb


def some_file(path: Path, holds: Callable[[Nwb], bool]) -> bool:
    """Whether ``holds`` is true of the NWB file at ``path``, or of one in that folder, at any depth; never raises."""
    path = Path(path)
    try:
        files = sorted(path.rglob("*.nwb")) if path.is_dir() else [path]
    except OSError:
        return False
    for file in files:
        try:
            with open_nwb(file) as nwb:
                if holds(nwb):
                    return True
        except (UserError, OSError):
            continue
    return False


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()], dtype=str)


def _word(value: np.ndarray, default: str) -> str:
    told = value.item() if value.size == 1 else default
    text = told.decode(errors="replace") if isinstance(told, bytes) else str(told)
    return " ".join(text.split())


def kind_of(values: np.ndarray) -> str:
    """The type in words: 'text' for strings of any width."""
    return "text" if values.dtype.kind in "OSU" else str(values.dtype)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
