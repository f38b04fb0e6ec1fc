"""Columns out of table files, the same for every source: CSV in any usual dialect, Parquet, NPZ.

What a library raises on a broken file becomes one UserError.
"""

from __future__ import annotations

import codecs
import csv
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurobridge.errors import UserError, needs, reading

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
OTHERS = {
    b"PK\x03\x04": "an Excel file or a zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"\x1f\x8b": "a gzip archive, which has to be unpacked",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "a NumPy array",
}
SEPARATORS = (",", ";", "\t", "|")


@dataclass(kw_only=True)
class Raw:
    """``columns`` name -> array; ``names`` all that the file offers; ``rows`` the file's row of each entry (or None:
    in order); ``sampling_rate`` in Hz where the file itself knows one; ``units`` the columns of a table of units that
    comes with spikes; ``left_out`` in words what of them is not here."""

    columns: dict[str, np.ndarray]
    names: list[str]
    rows: np.ndarray | None = None
    sampling_rate: float | None = None
    units: dict[str, np.ndarray] | None = None
    left_out: str = ""


def read_csv(file: Path) -> Raw:
    """All columns as text.

    The header is the first line (after Excel's ``sep=;``, if there is one). Columns are separated by commas or, where
    the header has none, semicolons, tabs or bars; blanks around names mean blanks around cells. UTF-8, or what the byte
    order mark says. Lines at the end without anything in them are no rows.
    """
    import pandas as pd

    with reading(file, "CSV table"):
        _refuse_kind(file)
        encoding = _encoding(file)
        with file.open(encoding=encoding, newline="") as lines:
            first = _line(lines.readline())
            declared = first[4:5] if first.lower().startswith("sep=") else ""
            head = _line(lines.readline()) if declared else first
        separator = declared or next((one for one in SEPARATORS if one in head), ",")
        header = next(csv.reader([head], delimiter=separator), [])
        try:
            table = pd.read_csv(
                file,
                sep=separator,
                skiprows=1 if declared else 0,
                dtype=str,
                keep_default_na=False,
                na_filter=False,
                encoding=encoding,
                skip_blank_lines=False,
            )
        except pd.errors.ParserError as error:
            told = str(error).strip().rpartition("C error: ")[2]
            raise UserError(f"{file} is a CSV table with a line unlike its header ({told}): mend the line") from error
    if any("\0" in name for name in header):
        raise UserError(
            f"{file} holds null characters, so it is no text, or UTF-16 without its mark: save it as CSV in UTF-8"
        )
    names = [name.strip() for name in header]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{file} has two columns named '{twice}': rename or remove one")
    if not isinstance(table.index, pd.RangeIndex) or len(header) != table.shape[1]:
        raise UserError(
            f"{file} has {len(header)} column names but more values a line (decimal commas?): mend the header or the "
            "lines"
        )
    columns = [table.iloc[:, i].to_numpy(dtype=object) for i in range(len(names))]
    if names != header:
        columns = [np.array([str(cell).strip() for cell in column.tolist()], dtype=object) for column in columns]
    kept = _filled(columns)
    if columns and "" in columns[-1][:kept].tolist():
        _refuse_short(file, encoding, separator, skip=bool(declared))
    rows = np.arange(kept) + bool(declared)
    return Raw(columns=dict(zip(names, (c[:kept] for c in columns), strict=True)), names=names, rows=rows)


def _refuse_kind(file: Path) -> None:
    """Raise UserError for what is no text at all, a web page, or a table under lines of another kind."""
    with file.open("rb") as content:
        head = content.read(256)
    kind = next((told for start, told in OTHERS.items() if head.startswith(start)), "")
    if not kind and head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        kind = "a web page (a download that failed?)"
    if kind:
        raise UserError(f"{file} is no CSV table, but {kind}: save it as CSV in UTF-8, or mend path or format")
    if head.startswith((b"#", b"%", b"//")):
        line = head.splitlines()[0][:40].decode("utf-8", "replace")
        raise UserError(f"{file} begins with the comment '{line}': remove what stands above the header")


def _encoding(file: Path) -> str:
    with file.open("rb") as content:
        head = content.read(4)
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")


def _line(text: str) -> str:
    """The first line of ``text``, whatever ends it (a lone carriage return too)."""
    return re.split(r"[\r\n]", text, maxsplit=1)[0]


def _filled(columns: list[np.ndarray]) -> int:
    """Rows up to the last with something in it."""
    count = len(columns[0]) if columns else 0
    while count and not any(str(column[count - 1]).strip() for column in columns):
        count -= 1
    return count


def _refuse_short(file: Path, encoding: str, separator: str, *, skip: bool) -> None:
    """Raise UserError for a line with fewer values than the header, of which pandas makes empty cells."""
    with reading(file, "CSV table"), file.open(encoding=encoding, newline="") as lines:
        rows = csv.reader(lines, delimiter=separator)
        width = len([next(rows) for _ in range(1 + skip)][-1])
        for row in rows:
            if 0 < len(row) < width:
                raise UserError(
                    f"{file}, line {rows.line_num} has {len(row)} values, and the header {width} names: mend the line"
                )


def read_parquet(file: Path) -> Raw:
    """All columns of a file, or of a folder of its parts: numbers, truth values, text, dates, lists.

    A null is None, or NaN among floats; whole numbers stay whole beside nulls.
    """
    with needs("data"):
        import pyarrow.parquet as pq
    if file.is_file() and file.stat().st_size > 4:
        with reading(file, "Parquet table"), file.open("rb") as content:
            head = content.read(4)
            content.seek(-4, 2)
            tail = content.read(4)
        if head != b"PAR1":
            raise UserError(f"{file} is no Parquet file, but of another kind: mend 'format', or save it as Parquet")
        if tail != b"PAR1":
            raise UserError(f"{file} is cut off, a Parquet file without its end: fetch it again")
        with reading(file, "Parquet table"):
            names = pq.read_schema(file).names
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{file} has two columns named '{twice}': rename or remove one")
    with reading(file, "Parquet table"):
        if file.is_dir():
            _refuse_unlike_parts(file, [part.path for part in pq.ParquetDataset(file).fragments])
        table = pq.read_table(file)
        named = [name for name in table.column_names if not name.startswith("__index_level_")]  # pandas' own
        columns = {name: _of_arrow(table[name]) for name in named}
    return Raw(columns=columns, names=list(columns))


def _refuse_unlike_parts(folder: Path, parts: Sequence[str]) -> None:
    """Raise UserError for parts that have other columns than the first, which would be filled with nothing."""
    import pyarrow.parquet as pq

    names = {part: set(pq.read_schema(part).names) for part in parts}
    for part, held in names.items():
        if differing := sorted(held ^ names[parts[0]]):
            raise UserError(
                f"{part} has other columns than {Path(parts[0]).name} (such as '{differing[0]}'), and all parts of "
                f"{folder} make one table: write them alike"
            )


def _of_arrow(column) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count and not pa.types.is_floating(column.type) and not pa.types.is_temporal(column.type):
        return _objects(column.to_pylist())
    if pa.types.is_nested(column.type) or pa.types.is_decimal(column.type):
        return _objects(column.to_pylist())
    return column.to_numpy()


def _objects(cells: list) -> np.ndarray:
    array = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        array[row] = cell
    return array


def read_npz(file: Path, wanted: Sequence[str]) -> Raw:
    """The arrays ``wanted``; pickled objects are refused."""
    with reading(file, "NPZ archive"), file.open("rb") as content:
        head = content.read(6)
    if head == b"\x93NUMPY":
        raise UserError(f"{file} is a single .npy array: save it with np.savez, each array by its name")
    if head and not head.startswith(b"PK"):
        raise UserError(f"{file} is no NPZ archive, but of another kind: mend 'format', or save it with np.savez")
    if head and not zipfile.is_zipfile(file):
        raise UserError(f"{file} is cut off, an NPZ archive without its end: fetch it again")
    with reading(file, "NPZ archive"), np.load(file, allow_pickle=False) as archive:
        names, columns = archive.files, {}
        for name in [name for name in wanted if name in names]:
            try:
                columns[name] = archive[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                raise UserError(
                    f"{file}: '{name}' holds Python objects (lists of unequal length?), which are not read: save "
                    "numbers or text, one entry a row"
                ) from error
            if not isinstance(columns[name], np.ndarray):
                raise UserError(f"{file}: '{name}' is no array: save the archive with np.savez")
        return Raw(columns=columns, names=names)
