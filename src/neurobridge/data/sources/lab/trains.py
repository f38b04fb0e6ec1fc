"""Spike trains that lie one a unit: MATLAB cells (nested, or of structs), lists in a Parquet table, arrays in an NPZ.

Letters: S events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobridge.data import matfile, tables
from neurobridge.data.matvalues import Unread
from neurobridge.data.tables import Raw
from neurobridge.errors import UserError

NUMBERED = re.compile(r"(.*?)\(:,\s*([0-9]+)\)")  # spikes.data(:,1): a column of a matrix


def read_trains(file: Path, form: str, name: str, ids: str) -> Raw:
    """``time`` and ``unit_id`` of every event; ``units`` the units, those without a spike too.

    ``name`` is where the trains are, ``ids`` a list of unit ids beside them. Without one, units are called by their
    number from 1, or by the numbers that lead to them through nested cells (``4.2``); in an NPZ by the array's name.
    """
    columns: dict[str, np.ndarray] = {}
    if form == "mat":
        labels, trains, names = _of_mat(file, name)
        known, _ = matfile.read_mat(file, [ids])
        given = known.get(ids)
        if given is not None:
            labels = _given(file, ids, given, labels)
    elif form == "parquet":
        raw = tables.read_parquet(file)
        names = raw.names
        if name not in raw.columns:
            raise UserError(f"{file} has no column '{name}'; it holds {', '.join(names[:20])}: name it under columns")
        trains = [_train(file, f"row {row}", cell) for row, cell in enumerate(raw.columns[name].tolist())]
        labels = [str(row + 1) for row in range(len(trains))]
        columns = {other: column for other, column in raw.columns.items() if other not in (name, ids)}
        if ids in raw.columns:
            labels = [str(cell) for cell in raw.columns[ids].tolist()]
    else:
        with_names = tables.read_npz(file, ())
        names = with_names.names
        held = tables.read_npz(file, names).columns
        labels, trains = list(names), [_train(file, one, held[one]) for one in names]
    if not trains:
        raise UserError(f"{file}: '{name}' holds no spike train: mend the column, or the layout")
    if len(set(labels)) != len(labels):
        twice = next(one for one in labels if labels.count(one) > 1)
        raise UserError(f"{file}: two spike trains are called '{twice}': give every unit an id of its own")
    counts = [len(train) for train in trains]
    events = {
        "time": np.concatenate([np.zeros(0), *trains]),
        "unit_id": np.repeat(np.array(labels, dtype=object), counts),
    }
    rows = np.concatenate([np.arange(count) for count in counts])
    return Raw(columns=events, names=names, rows=rows, units={"unit_id": np.array(labels, dtype=object), **columns})


def _of_mat(file: Path, name: str) -> tuple[list[str], list[np.ndarray], list[str]]:
    found = NUMBERED.fullmatch(name)
    path, column = (found[1], int(found[2])) if found else (name, None)
    first, *parts = re.split(r"[./]", path)
    values, names = matfile.read_mat(file, [first])
    if first not in values:
        raise UserError(f"{file} has no variable '{first}'; it holds {', '.join(names[:20]) or 'none'}: mend columns")
    leaves = list(_leaves(file, values[first], parts, name, (), column))
    steps = [step for step, _ in leaves]
    depth = max((len(step) for step in steps), default=0)
    told = [at for at in range(depth) if len({step[at] if at < len(step) else "" for step in steps}) > 1]
    labels = [".".join(step[at] for at in told if at < len(step)) or "1" for step in steps]
    return labels, [train for _, train in leaves], names


def _leaves(
    file: Path, value: Any, parts: Sequence[str], name: str, step: tuple[str, ...], column: int | None
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(numbers that lead there, train) of every unit, through cells and along the fields ``parts`` of structs."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        cells = value.ravel(order="F").tolist() if value.ndim else [value.item()]
        for number, cell in enumerate(cells, start=1):
            yield from _leaves(file, cell, parts, name, (*step, str(number)), column)
    elif isinstance(value, dict):
        if not parts:
            inside = ", ".join(list(value)[:8]) or "nothing"
            raise UserError(f"{file}: '{name}' leads to a struct with the fields {inside}: name one, as {name}.FIELD")
        if parts[0] not in value:
            inside = ", ".join(list(value)[:8]) or "nothing"
            raise UserError(f"{file}: a struct on the way of '{name}' has no field '{parts[0]}'; it has {inside}")
        yield from _leaves(file, value[parts[0]], parts[1:], name, step, column)
    elif isinstance(value, np.ndarray) and not value.size and step and (parts or not _is_list(value)):
        return  # [] in a nested cell: no unit there
    elif parts and isinstance(value, np.ndarray):
        raise UserError(f"{file}: '{name}' wants the field '{parts[0]}' of an array of numbers: name the array itself")
    else:
        place = f"'{name}'" + (f", cell {'.'.join(step)}" if step else "")
        yield step, _train(file, place, value, column)


def _is_list(value: np.ndarray) -> bool:
    """An empty train, 0 x 1 or 1 x 0, and not MATLAB's [] of 0 x 0."""
    return max(value.shape, default=0) > 0


def _train(file: Path, place: str, value: Any, column: int | None = None) -> np.ndarray:
    """The times of one unit as one list [S]."""
    if isinstance(value, Unread):
        raise UserError(f"{file}, {place} is {value.what}, which is not read; save it as a list of numbers")
    if isinstance(value, str) or value is None:
        raise UserError(f"{file}, {place} is {'text' if value else 'empty'}, expected the times of a unit; mend it")
    try:
        train = np.asarray(value)
        if train.dtype.kind not in "iuf":
            raise ValueError(f"of the type {train.dtype}")
    except ValueError as error:
        raise UserError(f"{file}, {place} is no list of numbers ({error}); mend it, or the layout") from error
    if column is not None and train.ndim == 2 and train.size:
        if not 1 <= column <= train.shape[1]:
            raise UserError(f"{file}, {place} has {train.shape[1]} columns, and column {column} is asked for: mend it")
        train = train[:, column - 1]
    if train.size and train.size != max(train.shape):
        raise UserError(
            f"{file}, {place} has the shape {train.shape}, and a train is one list: name a column of it, as "
            "'spikes.data(:,1)'"
        )
    return train.ravel()


def _given(file: Path, name: str, value: Any, labels: Sequence[str]) -> list[str]:
    """The unit ids that a list beside the trains gives."""
    cells = [] if isinstance(value, (str, dict, Unread)) else np.ravel(value, order="F").tolist()
    while cells and all(isinstance(cell, np.ndarray) and cell.size == 1 for cell in cells):
        cells = [cell.item() for cell in cells]
    if len(cells) != len(labels):
        raise UserError(
            f"{file}: '{name}' holds {len(cells)} unit ids for {len(labels)} spike trains; mend one of them"
        )
    return [str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell) for cell in cells]
