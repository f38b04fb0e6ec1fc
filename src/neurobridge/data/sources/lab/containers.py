"""Columns out of the containers that a lab saves its session in: MATLAB, NWB, pynapple, SpikeInterface.

A reader takes the file and the column names that are wanted and returns :class:`tables.Raw`. What a library raises on a
broken file becomes one UserError.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobridge.data import matfile
from neurobridge.data.matvalues import Unread
from neurobridge.data.nwb import Unreadable, open_nwb
from neurobridge.data.tables import Raw, read_npz
from neurobridge.errors import UserError, reading

SORTING_FILES = ("numpysorting_info.json", "spikes.npy")
SORTING_ARCHIVE = "sorting_cached.npz"


def read_mat(file: Path, wanted: Sequence[str]) -> Raw:
    """Arrays of numbers, char matrices, and cell arrays with one text or number a cell, of versions 5 and 7.3.

    ``session.spikes.time`` is a field within structs.
    """
    values, names = matfile.read_mat(file, wanted)
    return Raw(columns={name: _column(file, name, value) for name, value in values.items()}, names=names)


def _column(file: Path, name: str, value: Any) -> np.ndarray:
    if isinstance(value, str):
        return np.array([value], dtype=object)
    if isinstance(value, dict):
        inside = ", ".join(f"{name}.{field}" for field in list(value)[:8]) or "nothing"
        raise UserError(f"{file}: '{name}' is a struct, expected a column; name a field of it ({inside})")
    if isinstance(value, Unread):
        raise UserError(
            f"{file}: '{name}' is {value.what}, which is not read; save it as numbers or as a cell array of text "
            "(cellstr, table2cell)"
        )
    if value.dtype != object:
        return value
    cells = np.empty(value.shape, dtype=object)
    for at, cell in np.ndenumerate(value):
        cells[at] = _cell(file, name, at, cell)
    return cells


def _cell(file: Path, name: str, at: tuple[int, ...], cell: Any) -> str | float | bool:
    """One text or one number; an empty array is no text."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, np.ndarray) and cell.dtype != object and cell.size < 2:
        return cell.item() if cell.size else ""
    if isinstance(cell, np.ndarray):
        kind = f"a cell array of {cell.size}" if cell.dtype == object else f"{cell.size} numbers"
    else:
        kind = "a struct" if isinstance(cell, dict) else cell.what
    place = ", ".join(str(index + 1) for index in at)
    raise UserError(
        f"{file}: '{name}' holds {kind} in its cell ({place}), and a cell is one text or one number; lay it out flat, "
        "one entry a row"
    )


def read_nwb(file: Path, wanted: Sequence[str], table: str, *, flat: bool, usual: Sequence[str] = ()) -> Raw:
    """Columns of the table ``table``. ``electrodes.NAME`` is a column of the electrode table, at the first electrode of
    each row. A ragged column is laid out ``flat``, one entry an event (spike times), or else has one entry a row.
    Those of ``usual`` may be absent, or not what they should be."""
    with open_nwb(file) as nwb:
        names = nwb.members(table)
        if not names:
            near = ", ".join(nwb.members(table.rpartition("/")[0] or "/")) or "none"
            raise UserError(f"{file} has no table '{table}'; beside it there are {near}; mend 'table'")
        count = len(nwb.numbers(f"{table}/id")) if "id" in names else None
        columns: dict[str, np.ndarray] = {}
        counts, long = None, set()
        for name in wanted:
            key = f"{table}/{name}"
            if name.startswith("electrodes.") and "electrodes" in names:
                try:
                    columns[name] = nwb.of_first_electrode(table, name.partition(".")[2])
                except Unreadable:
                    if name not in usual:
                        raise
            elif f"{name}_index" in names:
                ragged = nwb.ragged_cells(key, rows=count)
                many = np.flatnonzero(ragged.counts != 1)
                if flat:
                    if counts is not None and not np.array_equal(counts, ragged.counts):
                        raise Unreadable(file, "not of the lengths of the other lists a row", key=key)
                    counts = ragged.counts
                    long.add(name)
                elif len(many):
                    raise UserError(
                        f"{file}, row {many[0]} (from 0): '{name}' holds {ragged.counts[many[0]]} values "
                        f"({len(many)} such rows), and a cell is one text or one number; name another column"
                    )
                columns[name] = ragged.values
            elif name in names:
                columns[name] = nwb.cells(key, rows=count)
    if counts is None:
        return Raw(columns=columns, names=names)
    columns = {name: c if name in long else np.repeat(c, counts, axis=0) for name, c in columns.items()}
    return Raw(columns=columns, names=names, rows=np.repeat(np.arange(len(counts)), counts))


def read_tsgroup(file: Path) -> Raw:
    """``time`` and ``unit_id`` (and ``value``, of a group of Tsd) of what ``pynapple.TsGroup.save`` wrote."""
    raw = read_npz(file, ("type", "t", "index", "d"))
    kind = "".join(np.ravel(raw.columns.get("type", "")).astype(str))
    if kind != "TsGroup" or not {"t", "index"} <= set(raw.columns):
        raise UserError(f"{file} is not a saved TsGroup (type '{kind}'): write it with TsGroup.save, or mend 'format'")
    ours = {"time": raw.columns["t"], "unit_id": raw.columns["index"]}
    keys = read_npz(file, ("keys",)).columns.get("keys", np.unique(raw.columns["index"]))
    if "d" in raw.columns:
        ours["value"] = raw.columns["d"]
    return Raw(columns=ours, names=list(ours), units={"unit_id": keys.ravel()})


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
            time, index = spikes["sample_index"], spikes["unit_index"].astype(np.int64)
            if "segment_index" in (spikes.dtype.names or ()):
                segments = max(segments, int(spikes["segment_index"].max(initial=0)) + 1)
        bad = np.flatnonzero((index < 0) | (index >= len(units)))
        if len(bad):
            raise UserError(
                f"{spikes_file}, row {bad[0]} (from 0): the unit_index is {index[bad[0]]}, but {info_file.name} has "
                f"units 0 to {len(units) - 1} ({len(bad)} such rows); save the sorting again"
            )
        label = units[index]
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
