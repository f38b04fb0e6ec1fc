"""Columns out of files: CSV, Parquet, NPZ, MATLAB, NWB, a saved pynapple TsGroup, a saved SpikeInterface sorting.

A reader takes the file and the column names that are wanted (a CSV or Parquet file gives all of its columns) and
returns :class:`Raw`. What a library raises on a broken file becomes one UserError.
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from neurobridge.data.guard import open_hdf5
from neurobridge.errors import UserError, needs, reading

SORTING_FILES = ("numpysorting_info.json", "spikes.npy")
SORTING_ARCHIVE = "sorting_cached.npz"


@dataclass(kw_only=True)
class Raw:
    """``columns`` name -> array; ``names`` all that the file offers; ``rows`` the file's row of each entry (or None:
    in order); ``sampling_rate`` in Hz where the file itself knows one."""

    columns: dict[str, np.ndarray]
    names: list[str]
    rows: np.ndarray | None = None
    sampling_rate: float | None = None


def read_csv(file: Path) -> Raw:
    """All columns as text. The header is the first line, the separator a comma, the encoding UTF-8."""
    import pandas as pd

    with reading(file, "CSV table"):
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
        table = pd.read_csv(
            file, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig", skip_blank_lines=False
        )
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{file} has two columns named '{twice}': rename or remove one")
    if not isinstance(table.index, pd.RangeIndex) or len(header) != table.shape[1]:
        raise UserError(
            f"{file} has {len(header)} column names but more values a line (decimal commas?): mend the header or the "
            "lines"
        )
    return Raw(columns={name: table.iloc[:, i].to_numpy(dtype=object) for i, name in enumerate(header)}, names=header)


def read_parquet(file: Path) -> Raw:
    """All columns of numbers, truth values and text; a null is None, or NaN among numbers."""
    with needs("data"):
        import pyarrow.parquet as pq
    with reading(file, "Parquet table"):
        table = pq.read_table(file)
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    return Raw(columns=columns, names=list(columns))


def read_npz(file: Path, wanted: Sequence[str]) -> Raw:
    """The arrays ``wanted``; pickled objects are refused."""
    if not zipfile.is_zipfile(file):
        raise UserError(
            f"{file} is not an NPZ archive, or not all of it: mend 'format', or save it again with np.savez"
        )
    with reading(file, "NPZ archive"), np.load(file, allow_pickle=False) as archive:
        return Raw(columns={name: archive[name] for name in wanted if name in archive.files}, names=archive.files)


def read_mat(file: Path, wanted: Sequence[str]) -> Raw:
    """Numeric arrays and cell arrays of text, of version 5 (scipy) and 7.3 (HDF5, whose axes are reversed)."""
    with reading(file, "MATLAB file"):
        if h5py.is_hdf5(file):
            with open_hdf5(file) as opened:
                names = [name for name in opened if not name.startswith("#")]
                return Raw(columns={n: _mat73(opened, opened[n]) for n in wanted if n in names}, names=names)
        import scipy.io

        names = [name for name, _, _ in scipy.io.whosmat(file)]
        loaded = scipy.io.loadmat(file, variable_names=[n for n in wanted if n in names])
        return Raw(columns={name: _mat5(loaded[name]) for name in wanted if name in loaded}, names=names)


def _mat73(file: h5py.File, item: h5py.Dataset | h5py.Group) -> np.ndarray:
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"'{item.name}' is a struct, expected an array")
    kind = item.attrs.get("MATLAB_class", b"double").decode()
    if kind == "cell":
        return np.array(["".join(map(chr, file[ref][()].ravel())) for ref in item[()].T.ravel()], dtype=object)
    if kind not in ("double", "single", "logical") and "int" not in kind:
        raise ValueError(f"'{item.name}' has the class {kind}, expected numbers or a cell array of text")
    return item[()].T


def _mat5(value: np.ndarray) -> np.ndarray:
    if value.dtype.kind != "O":
        return value
    return np.array(["".join(np.asarray(cell, dtype=str).ravel()) for cell in value.ravel(order="F")], dtype=object)


def read_nwb(file: Path, wanted: Sequence[str], table: str) -> Raw:
    """Columns of the table ``table`` of any NWB version. ``electrodes.NAME`` is a column of the electrode table, at the
    first electrode of each row; a ragged column (spike times) is laid out flat, one entry an event."""
    with reading(file, "NWB file"), open_hdf5(file) as opened:
        if not isinstance(opened.get(table), h5py.Group):
            near = opened.get(table.rpartition("/")[0] or "/", {})
            raise UserError(
                f"{file} has no table '{table}'; beside it there are {', '.join(near) or 'none'}; mend 'table'"
            )
        group = opened[table]
        names = list(group)
        columns: dict[str, np.ndarray] = {}
        rows = counts = None
        for name in wanted:
            if name.startswith("electrodes.") and "electrodes" in group:
                columns[name] = _electrode_column(opened, group, name.partition(".")[2])
            elif f"{name}_index" in group:
                ends = group[f"{name}_index"][()].astype(np.int64)
                found = np.diff(ends, prepend=0)
                if (found < 0).any() or (counts is not None and not np.array_equal(counts, found)):
                    raise ValueError(f"'{name}_index' does not ascend, or not as the other ragged columns")
                counts, columns[name] = found, group[name][: ends[-1] if len(ends) else 0]
            elif name in group:
                columns[name] = _decoded(group[name][()])
        if counts is not None:
            rows = np.repeat(np.arange(len(counts)), counts)
            columns = {n: c if f"{n}_index" in group else np.repeat(c, counts) for n, c in columns.items()}
    return Raw(columns=columns, names=names, rows=rows)


def _electrode_column(file: h5py.File, group: h5py.Group, name: str) -> np.ndarray:
    electrodes = file["general/extracellular_ephys/electrodes"]
    row = group["electrodes"][()].astype(np.int64)
    if "electrodes_index" in group:
        ends = group["electrodes_index"][()].astype(np.int64)
        first = np.concatenate([[0], ends[:-1]])
        if (first >= ends).any():
            raise ValueError(f"row {np.flatnonzero(first >= ends)[0]} of '{group.name}' has no electrode")
        row = row[first]
    return _decoded(electrodes[name][()])[row]


def _decoded(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "OS":
        return values
    return np.array([x.decode() if isinstance(x, bytes) else x for x in values.tolist()], dtype=object)


def read_tsgroup(file: Path) -> Raw:
    """``time`` and ``unit_id`` (and ``value``, of a group of Tsd) of what ``pynapple.TsGroup.save`` wrote."""
    raw = read_npz(file, ("type", "t", "index", "d"))
    kind = "".join(np.ravel(raw.columns.get("type", "")).astype(str))
    if kind != "TsGroup" or not {"t", "index"} <= set(raw.columns):
        raise UserError(f"{file} is not a saved TsGroup (type '{kind}'): write it with TsGroup.save, or mend 'format'")
    ours = {"time": raw.columns["t"], "unit_id": raw.columns["index"]}
    if "d" in raw.columns:
        ours["value"] = raw.columns["d"]
    return Raw(columns=ours, names=list(ours))


def read_sorting(path: Path) -> Raw:
    """``time`` (in samples) and ``unit_id`` of a SpikeInterface sorting of one segment.

    Takes what ``sorting.save(folder=...)`` writes (``numpysorting_info.json`` and ``spikes.npy``; before version 0.99
    ``sorting_cached.npz``), and what ``NpzSortingExtractor.write_sorting`` writes (one .npz).
    """
    if path.is_dir() and not (path / SORTING_ARCHIVE).is_file():
        info_file, spikes_file = (path / name for name in SORTING_FILES)
        with reading(path, "SpikeInterface sorting", "save it again with sorting.save(folder=...)"):
            info = json.loads(info_file.read_text())
            spikes = np.load(spikes_file, allow_pickle=False)
            units, rate, segments = np.array(info["unit_ids"]), float(info["sampling_frequency"]), info["num_segments"]
            time, label = spikes["sample_index"], units[spikes["unit_index"]]
    else:
        file = path / SORTING_ARCHIVE if path.is_dir() else path
        names = ("num_segment", "sampling_frequency", "spike_indexes_seg0", "spike_labels_seg0")
        raw = read_npz(file, names)
        if missing := [name for name in names if name not in raw.columns]:
            raise UserError(
                f"{file} has no '{missing[0]}': it is no SpikeInterface sorting; save it again, or mend 'format'"
            )
        segment, rate_array, time, label = (raw.columns[name] for name in names)
        with reading(file, "SpikeInterface sorting"):
            segments, rate = int(segment.ravel()[0]), float(rate_array.ravel()[0])
    if segments != 1:
        raise UserError(f"{path} has {segments} segments: save each with sorting.select_segments([k]) as a session")
    return Raw(columns={"time": time, "unit_id": label}, names=["time", "unit_id"], sampling_rate=rate)
