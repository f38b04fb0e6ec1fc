"""The behaviour of a session: series by name, each with times of its own, NaN and gaps where nothing was measured.

Letters: T samples, D dimensions.
"""

from __future__ import annotations

import numpy as np

from neurobridge.data import cells
from neurobridge.data.behaviour import columns_of, described
from neurobridge.data.nwb import open_nwb
from neurobridge.data.recording import TimeSeries
from neurobridge.data.sources.lab.columns import Frame, of_session, read_arrays, seconds
from neurobridge.data.sources.lab.manifest import MIX_UP, TIGHT, BehaviourTable, Manifest, resolve
from neurobridge.errors import UserError

MISSING = ("", "na", "n/a", "nan", "null", "none")
FEWEST = 50
SHORT = 0.9  # share of the recording: a series that covers less says so


def read_behaviour(manifest: Manifest) -> tuple[dict[str, TimeSeries], str]:
    """Every series that the manifest declares, and all of them in words. Raises UserError for what cannot be right."""
    series, told = {}, []
    for name, table in manifest.behaviour.items():
        frame, times, values = _series(manifest, name, table) if table.format != "nwb" else _nwb(manifest, name, table)
        series[name], outside = _within(manifest, frame, name, times, values)
        left = f", {outside} samples outside the duration left out" if outside else ""
        told.append(f"{name}: {described(series[name])}{_extent(series[name], manifest)}{left}")
    return series, "; ".join(told)


def _extent(series: TimeSeries, manifest: Manifest) -> str:
    """What would show a missing value that is a number (-9999), a clock of another unit, or a time given twice."""
    times, values = series.timestamps, columns_of(series)
    (start, end), span = manifest.duration, float(np.ptp(times))
    told = f", from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}"
    told += f", over {span:.4g} of {end - start:.4g} s" if span < SHORT * (end - start) else ""
    twice = int((np.diff(times) == 0).sum())
    return told + (f", {twice} at the very time of the one before" if twice else "")


def behaviour_columns(table: BehaviourTable) -> tuple[str, ...]:
    """The columns that a behaviour is read from."""
    return tuple(table.values) if table.sampling_rate is not None else ("time", *table.values)


def _series(manifest: Manifest, name: str, table: BehaviourTable) -> tuple[Frame, np.ndarray, np.ndarray]:
    """Times [T] in s and values [T, D] of a table."""
    needed = behaviour_columns(table)
    foreign = sorted(set(table.columns) - {*needed, "session_id"})
    if foreign:
        raise UserError(
            f"{manifest.file}: columns of the behaviour '{name}' name '{foreign[0]}', which nothing reads; known are "
            f"{', '.join(needed)}"
        )
    file, raw = read_arrays(manifest, table, needed, ("session_id",))
    columns: dict[str, np.ndarray] = {}
    for key in ("time", "session_id", *table.values):
        if key not in raw.columns or (key == "time" and table.sampling_rate is not None):
            continue
        column = np.atleast_1d(raw.columns[key])
        column = column.ravel() if column.ndim == 2 and 1 in column.shape else column
        if column.ndim > 2 or (column.ndim == 2 and key not in table.values):
            raise UserError(f"{file}: '{key}' has the shape {column.shape}, expected a list, or [time, dimension]")
        parts = [column] if column.ndim == 1 else list(column.T)
        columns |= {key if len(parts) == 1 else f"{key}, column {i}": part for i, part in enumerate(parts)}
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} of '{key}'" for key, length in lengths.items())
        raise UserError(f"{file}: the behaviour '{name}' has {told}; each time needs one value (transposed?)")
    frame = Frame(file=file, columns=columns, rows=np.arange(max(lengths.values())), lines=table.format == "csv")
    if "session_id" in frame:
        frame = of_session(frame, manifest)
    if not len(frame):
        raise UserError(f"{file} holds no sample of the behaviour '{name}': fill it, or remove it from the manifest")
    values = np.stack([_numbers(frame, key) for key in columns if key not in ("time", "session_id")], axis=1)
    if table.sampling_rate is not None:
        return frame, table.start + np.arange(len(frame)) / table.sampling_rate, values
    unit = table.time_unit or manifest.time_unit
    return frame, seconds(frame.times("time", unit, manifest), unit, manifest), values


def _nwb(manifest: Manifest, name: str, table: BehaviourTable) -> tuple[Frame, np.ndarray, np.ndarray]:
    """The same of a time series in an NWB file, which has its times, in s, and its values in itself."""
    file = resolve(manifest, table.path)
    if not file.exists():
        raise UserError(f"{manifest.file} names {file}, which is not there: mend the path")
    with open_nwb(file) as nwb:
        found = nwb.series(table.table)
    values = found.values.reshape(len(found.times), -1).astype(np.float64)
    return Frame(file=file, columns={}, rows=np.arange(len(values)), lines=False), found.times, values


def _numbers(frame: Frame, key: str) -> np.ndarray:
    """A column as float64 with NaN for what is missing: an empty cell, NaN, NA, null."""
    column = frame.columns[key]
    if column.dtype.kind in "iufb":
        values = column.astype(np.float64)
    else:
        text = [cell.decode(errors="replace") if isinstance(cell, bytes) else cell for cell in column.tolist()]
        none = [cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING) for cell in text]
        found = [np.nan if empty else cells.number(cell) for cell, empty in zip(text, none, strict=True)]
        frame.refuse(
            np.array([one is None for one in found], dtype=bool),
            lambda row: f"'{key}' is {cells.shown(column[row])}, expected a number (empty or NaN: not known); mend it",
        )
        values = np.array(found, dtype=np.float64)
    frame.refuse(np.isinf(values), lambda row: f"'{key}' is {values[row]}; leave the cell empty, or mend it")
    return values


def _within(
    manifest: Manifest, frame: Frame, name: str, times: np.ndarray, values: np.ndarray
) -> tuple[TimeSeries, int]:
    """The samples within the duration, and how many others there were. Raises UserError for times that cannot be."""
    where, (start, end) = f"{frame.file}: the behaviour '{name}'", manifest.duration
    frame.refuse(
        ~np.isfinite(times), lambda row: f"the time of '{name}' is {times[row]}; every sample needs a time: mend it"
    )
    back = np.concatenate([[False], np.diff(times) < 0])
    frame.refuse(
        back, lambda row: f"the time of '{name}' ({times[row]:g} s) is before that of the row above; sort by time"
    )
    inside = (times >= start) & (times <= end)
    if not inside.any():
        raise UserError(
            f"{where} runs from {times[0]:g} to {times[-1]:g} s, all outside the duration of {start:g} to {end:g} s; "
            f"{MIX_UP}"
        )
    if inside.sum() == 1 and len(times) >= FEWEST:
        raise UserError(
            f"{where} runs from {times[0]:g} to {times[-1]:g} s, and one of its {len(times)} samples lies within the "
            f"duration of {start:g} to {end:g} s; {MIX_UP}"
        )
    if len(times) >= FEWEST and np.ptp(times) < TIGHT * (end - start):
        raise UserError(
            f"{where} lies within {np.ptp(times):g} s of a recording of {end - start:g} s; {MIX_UP} "
            "('time_unit' of the behaviour declares another)"
        )
    if np.isnan(values[inside]).all():
        raise UserError(f"{where} has no known value, all are NaN or empty: mend the columns, or remove it")
    kept = values[inside, 0] if values.shape[1] == 1 else values[inside]
    return TimeSeries(timestamps=times[inside], values=kept), int((~inside).sum())
