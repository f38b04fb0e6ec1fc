"""A declared table as checked columns: every sentence names the file, the row and the column."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurobridge.data import cells, tables
from neurobridge.data.importing import refuse_pointer
from neurobridge.data.sources.lab import containers, phy
from neurobridge.data.sources.lab.manifest import Manifest, SpikeTable, Table, TimeUnit, resolve
from neurobridge.data.sources.lab.trains import read_trains
from neurobridge.data.tables import Raw
from neurobridge.errors import UserError

MOST_WHOLE = 2**53
COARSEST_S = 1e-3  # step between the times that a type can hold
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
NWB_NAMES = {
    "time": "spike_times",
    "unit_id": "id",
    "electrode_id": "electrodes.id",
    "area": "electrodes.location",
    "onset": "start_time",
    "offset": "stop_time",
}  # what NWB calls our columns, where a manifest names none and the table has none of our name
TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(kw_only=True)
class Frame:
    """Columns of one session by our names, all of one length, and the file's number of each row."""

    file: Path
    columns: dict[str, np.ndarray]
    rows: np.ndarray
    lines: bool
    sampling_rate: float | None = None
    units: dict[str, np.ndarray] | None = None  # a table of units that came with the spikes
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def place(self, row: int) -> str:
        """'spikes.csv, line 7' (the header is line 1), or 'spikes.npz, row 5 (from 0)'."""
        number = int(self.rows[row])
        return f"{self.file}, line {number + 2}" if self.lines else f"{self.file}, row {number} (from 0)"

    def refuse(self, bad: np.ndarray, sentence: Callable[[int], str]) -> None:
        """Raise UserError at the first row of the mask ``bad``: its place and what ``sentence`` says of it."""
        rows = np.flatnonzero(bad)
        if len(rows):
            more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
            raise UserError(f"{self.place(rows[0])}: {sentence(int(rows[0]))}{more}")

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, exact and finite."""
        column = self.columns[name]
        if column.dtype.kind not in "iufOUS":
            raise UserError(f"{self.file}: '{name}' has type {column.dtype}, expected numbers")
        if column.dtype.kind in "iu":
            large = (column > MOST_WHOLE) | (column < -MOST_WHOLE if column.dtype.kind == "i" else False)
            self.refuse(large, lambda row: f"'{name}' is {column[row]}, too large to be exact; mend the row")
        values = cells.numbers(column) if column.dtype.kind in "OUS" else column.astype(np.float64)
        if values is None:
            found = [cells.number(cell) for cell in column.tolist()]
            self.refuse(
                np.array([one is None for one in found], dtype=bool),
                lambda row: f"'{name}' is {cells.shown(column[row])}, expected a number; {_mend(column[row])}",
            )
            values = np.array(found, dtype=np.float64)
        self.refuse(~np.isfinite(values), lambda row: f"'{name}' is {values[row]}; mend or remove the row")
        return values

    def integers(self, name: str) -> np.ndarray:
        """A column as int64; whole floats (MATLAB's) are integers."""
        values = self.numbers(name)
        wrong = (values != np.round(values)) | (np.abs(values) >= 2.0**53)
        self.refuse(wrong, lambda row: f"'{name}' is {values[row]:g}, expected a whole number; mend the row")
        return values.astype(np.int64)

    def text(self, name: str, *, empty: bool = False) -> np.ndarray:
        """A column as text, printable and (unless ``empty``) never empty; whole numbers lose their decimal point.

        Blanks around a text are no part of it, and of the two ways to write an accent there is one (NFC): ids that look
        alike are alike.
        """
        column = self.columns[name]
        if column.dtype.kind not in "iufOUS":
            raise UserError(f"{self.file}: '{name}' has type {column.dtype}, expected text or numbers")
        many = [isinstance(cell, cells.MANY) for cell in column.tolist()]
        self.refuse(
            np.array(many, dtype=bool),
            lambda row: f"'{name}' is {cells.shown(column[row])}, and a cell is one text or one number; mend the row",
        )
        texts = np.array([_text(cell).strip() for cell in column.tolist()], dtype=object)
        if not empty:
            none = np.array([not text for text in texts.tolist()], dtype=bool)
            self.refuse(none, lambda row: f"'{name}' is empty; fill it in, or name another column of the table")
        bad = np.array([not text.isprintable() for text in texts.tolist()], dtype=bool)
        self.refuse(bad, lambda row: f"'{name}' is {texts[row]!r}, expected printable text; mend the row")
        return np.array([unicodedata.normalize("NFC", text) for text in texts.tolist()], dtype=str)

    def times(self, name: str, unit: TimeUnit, manifest: Manifest) -> np.ndarray:
        """A column of times as they are written, whole numbers of samples among them; :func:`seconds` follows."""
        column = self.columns[name]
        if column.dtype.kind == "f" and column.size and np.isfinite(column).any():
            largest = np.nanmax(np.abs(column[np.isfinite(column)]))
            step = float(np.spacing(largest)) / {"s": 1.0, "ms": 1000.0, "samples": manifest.sampling_rate}[unit]
            if step > COARSEST_S:
                raise UserError(
                    f"{self.file}: '{name}' is {column.dtype}, which at {largest:g} knows steps of {step:.2g} s only; "
                    "save times as float64 or whole numbers"
                )
        return self.integers(name).astype(np.float64) if unit == "samples" else self.numbers(name)

    def truths(self, name: str) -> np.ndarray:
        """A column of true and false, or 1 and 0."""
        column = self.columns[name]
        if column.dtype.kind == "b":
            return column
        texts = [_text(cell).lower() for cell in column.tolist()]
        bad = np.array([t not in TRUTH for t in texts], dtype=bool)
        self.refuse(bad, lambda row: f"'{name}' is '{texts[row][:40]}', expected true or false; mend the row")
        return np.array([TRUTH[t] for t in texts], dtype=bool)


def _mend(cell: object) -> str:
    if isinstance(cell, str) and DECIMAL_COMMA.fullmatch(cell):
        return "write decimal points, not commas"
    return "lay it out flat, one entry a row" if isinstance(cell, cells.MANY) else "mend the row"


def _text(cell: object) -> str:
    if isinstance(cell, bytes):
        return cell.decode(errors="surrogateescape")  # what is no UTF-8 is not printable, and so refused
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None or cell != cell else str(cell)


def read_arrays(
    manifest: Manifest, table: Table, needed: Sequence[str], optional: Sequence[str] = ()
) -> tuple[Path, Raw]:
    """The file's arrays under our names, as they are. Raises UserError for a column that is needed and not there."""
    file = resolve(manifest, table.path)
    if not file.exists():
        raise UserError(f"{manifest.file} names {file}, which is not there: mend the path")
    refuse_pointer(file)
    theirs = {name: table.columns.get(name, name) for name in (*needed, *optional, *table.columns)}
    usual = {name: NWB_NAMES[name] for name in theirs if name in NWB_NAMES and name not in table.columns}
    if table.format == "csv":
        raw = tables.read_csv(file)
    elif table.format == "parquet":
        raw = tables.read_parquet(file)
    elif table.format == "npz":
        raw = tables.read_npz(file, list(theirs.values()))
    elif table.format == "mat":
        raw = containers.read_mat(file, list(theirs.values()))
    elif table.format == "nwb":
        flat = isinstance(table, SpikeTable)
        inside = table.table or ("units" if flat or table is manifest.units else "")
        asked = list(usual.values())
        raw = containers.read_nwb(file, [*theirs.values(), *asked], inside, flat=flat, usual=asked)
        theirs |= {name: other for name, other in usual.items() if name not in raw.columns and other in raw.columns}
    elif table.format == "tsgroup":
        raw = containers.read_tsgroup(file)
    elif table.format == "phy":
        raw = phy.read_phy(file, table.groups if isinstance(table, SpikeTable) else ())
    else:
        raw = containers.read_sorting(file)
    for name in (*needed, *table.columns):
        if theirs[name] not in raw.columns:
            known = "" if name == theirs[name] else f" (our '{name}')"
            raise UserError(
                f"{file} has no column '{theirs[name]}'{known}; it holds {', '.join(raw.names[:20]) or 'none'}: add "
                f"it, or name yours under columns in {manifest.file.name}"
            )
    ours = {name: raw.columns[theirs[name]] for name in theirs if theirs[name] in raw.columns}
    raw.columns = {**{n: c for n, c in raw.columns.items() if n not in theirs.values()}, **ours}
    return file, raw


def read_frame(
    manifest: Manifest, table: Table, needed: Sequence[str], optional: Sequence[str] = (), *, extra: bool = False
) -> Frame:
    """The rows of the manifest's session. Where the table has a ``session_id``, the others' rows are left out.

    With ``extra``, further columns (all those of a CSV or Parquet file; else those named under ``columns``) come too.
    """
    foreign = set(table.columns) - {*needed, *optional, "session_id"}
    if foreign and not extra:
        raise UserError(
            f"{manifest.file}: columns of {table.path} name '{sorted(foreign)[0]}', which nothing reads; known are "
            f"{', '.join((*needed, *optional))}"
        )
    file, raw = read_arrays(manifest, table, needed, (*optional, "session_id"))
    named = {*needed, *optional, "session_id"}
    columns = {name: column for name, column in raw.columns.items() if extra or name in named}
    columns = {n: c.ravel() if c.ndim == 2 and (1 in c.shape or not c.size) else c for n, c in columns.items()}
    lengths = {name: column.shape for name, column in columns.items()}
    first = next(iter(lengths))
    for name, shape in lengths.items():
        if len(shape) != 1:
            raise UserError(f"{file}: '{name}' has the shape {shape}, and a column is a list: lay it out flat")
        if shape != lengths[first]:
            raise UserError(
                f"{file}: the columns '{first}' and '{name}' have shapes {lengths[first]} and {shape}; they have to be "
                "lists of one length"
            )
    rows = np.arange(lengths[first][0]) if raw.rows is None else raw.rows
    frame = Frame(
        file=file,
        columns=columns,
        rows=rows,
        lines=table.format == "csv",
        sampling_rate=raw.sampling_rate,
        units=raw.units,
        left_out=raw.left_out,
    )
    return of_session(frame, manifest) if "session_id" in frame else frame


def of_session(frame: Frame, manifest: Manifest) -> Frame:
    """The rows whose ``session_id`` is the manifest's, without that column. Raises UserError where there is none."""
    names = frame.text("session_id")
    mine = names == manifest.session_id
    near = np.array([name.strip().lower() == manifest.session_id.lower() for name in names.tolist()], dtype=bool)
    frame.refuse(
        near & ~mine,
        lambda row: f"session_id is '{names[row]}', beside '{manifest.session_id}' of the manifest; write them alike",
    )
    if not mine.any():
        found = ", ".join(sorted(set(names.tolist()))[:5]) or "none"
        raise UserError(
            f"{frame.file} has no row of session '{manifest.session_id}' (session_ids there: {found}): mend "
            f"session_id in {manifest.file.name}"
        )
    columns = {name: column[mine] for name, column in frame.columns.items() if name != "session_id"}
    return Frame(
        file=frame.file,
        columns=columns,
        rows=frame.rows[mine],
        lines=frame.lines,
        sampling_rate=frame.sampling_rate,
        units=frame.units,
        left_out=frame.left_out,
    )


def read_train_frame(manifest: Manifest) -> Frame:
    """``time`` and ``unit_id`` of every event of the layout trains."""
    table = manifest.spikes
    file = resolve(manifest, table.path)
    if not file.exists():
        raise UserError(f"{manifest.file} names {file}, which is not there: mend the path")
    refuse_pointer(file)
    names = [table.columns.get(name, name) for name in ("spike_times", "unit_id")]
    raw = read_trains(file, table.format, *names)
    rows = np.arange(len(raw.columns["time"]))
    return Frame(file=file, columns=raw.columns, rows=rows, lines=False, units=raw.units)


def seconds(raw: np.ndarray, unit: TimeUnit, manifest: Manifest) -> np.ndarray:
    """Times of a file in s: exact for s; sample ``index_base`` is time 0."""
    if unit == "s":
        return raw
    return raw / 1000.0 if unit == "ms" else (raw - manifest.index_base) / manifest.sampling_rate


def first_of_each(values: np.ndarray) -> np.ndarray:
    """True where a value appears for the first time."""
    mask = np.zeros(len(values), dtype=bool)
    mask[np.unique(values, return_index=True)[1]] = True
    return mask
