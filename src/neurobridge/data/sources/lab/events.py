"""The events of a session: spikes with their times, or values in bins after each onset.

Letters: S events, N units, P presentations, T bins.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurobridge.data.sources.lab.columns import Frame, read_arrays, read_frame, read_train_frame, seconds
from neurobridge.data.sources.lab.manifest import MIX_UP, TIGHT, VALUED, Manifest, per_second
from neurobridge.data.sources.lab.presentations import Presentations
from neurobridge.errors import UserError

FASTEST_HZ = 1000.0
SLOWEST_HZ = 0.01
LONG_S = 86_400.0
FEWEST = 50
BRIEF_S, MANY = 1e-3, 200.0  # of counting windows: a shorter one counts nothing; a longer one, in presentations


def event_columns(manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that the declared layout needs, and those it may have."""
    if manifest.spikes.layout in ("binned", "continuous"):
        return ("values", "bin_edges"), ()
    if manifest.spikes.layout == "trains":
        return ("spike_times",), ("unit_id",)
    names = ("time", "unit_id") if manifest.spikes.layout == "labels" else ("spike_times", "spike_units")
    return ((*names, "value"), ()) if manifest.signal_kind in VALUED else (names, ("value",))


def event_frame(manifest: Manifest) -> Frame:
    """The rows of the session in the table of spikes. Raises UserError for what it lacks or should not have."""
    valued = manifest.signal_kind in VALUED
    if manifest.spikes.layout == "trains":
        if valued:
            raise UserError(
                f"{manifest.file}: the layout trains holds times only, but {manifest.signal_kind} needs values"
            )
        return read_train_frame(manifest)
    needed, optional = event_columns(manifest)
    frame = read_frame(manifest, manifest.spikes, needed, optional)
    if "value" in frame and not valued:
        raise UserError(
            f"{frame.file} has values but the signal_kind {manifest.signal_kind}: declare {' or '.join(VALUED)}, or "
            "remove the column"
        )
    if frame.sampling_rate is not None and frame.sampling_rate != manifest.sampling_rate:
        raise UserError(
            f"{frame.file} was sampled at {frame.sampling_rate:g} Hz but {manifest.file.name} declares "
            f"{manifest.sampling_rate:g}; mend sampling_rate"
        )
    if not len(frame):
        raise UserError(f"{frame.file} holds no spikes of session {manifest.session_id}: export it again")
    return frame


def read_events(
    manifest: Manifest, frame: Frame, unit_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Times [S] in s, unit rows [S] and values [S] (None for spikes) of the rows of ``frame``."""
    labels = manifest.spikes.layout != "indices"
    needed = ("spike_times",) if not labels else ("time",)
    raw = frame.times(needed[0], manifest.time_unit, manifest)
    times = seconds(raw, manifest.time_unit, manifest)
    rows = _labelled(frame, unit_ids, manifest) if labels else _indexed(frame, len(unit_ids), manifest)
    _check_times(frame, needed[0], raw, times, rows, unit_ids, manifest)
    return times, rows, frame.numbers("value") if manifest.signal_kind in VALUED else None


def units_of(manifest: Manifest) -> Path:
    """The file that lists the units."""
    return (manifest.units or manifest.spikes).path


def _labelled(frame: Frame, unit_ids: np.ndarray, manifest: Manifest) -> np.ndarray:
    labels, inverse = np.unique(frame.text("unit_id"), return_inverse=True)
    row_of = {unit: row for row, unit in enumerate(unit_ids.tolist())}
    rows = np.array([row_of.get(label, -1) for label in labels.tolist()], dtype=np.int64)[inverse]
    frame.refuse(
        rows < 0,
        lambda row: (
            f"unit_id '{labels[inverse[row]]}' is not in {units_of(manifest)}; add the unit there, or mend the row"
        ),
    )
    return rows


def _indexed(frame: Frame, units: int, manifest: Manifest) -> np.ndarray:
    index, base = frame.integers("spike_units"), manifest.index_base
    rows = index - base
    frame.refuse(
        (rows < 0) | (rows >= units),
        lambda row: (
            f"spike_units is {index[row]}, but with index_base {base} the {units} units of "
            f"{units_of(manifest)} are {base} to {units - 1 + base}; mend the row, or declare index_base: {1 - base}"
        ),
    )
    return rows


def _check_times(
    frame: Frame,
    name: str,
    raw: np.ndarray,
    times: np.ndarray,
    rows: np.ndarray,
    unit_ids: np.ndarray,
    manifest: Manifest,
) -> None:
    start, end = manifest.duration
    frame.refuse(
        times < 0,
        lambda row: (
            f"{name} is {raw[row]:g}, before the first moment"
            + (f" (with index_base {manifest.index_base})" if manifest.time_unit == "samples" else "")
            + f", of unit '{unit_ids[rows[row]]}'; times count from 0: shift the clock, or remove the row"
        ),
    )
    order = np.argsort(rows, kind="stable")
    back = np.zeros(len(times), dtype=bool)
    back[order[1:]] = (np.diff(times[order]) < 0) & (np.diff(rows[order]) == 0)
    frame.refuse(
        back, lambda row: f"{name} {raw[row]:g} comes after a later spike of unit '{unit_ids[rows[row]]}'; sort by time"
    )
    frame.refuse(
        (times < start) | (times > end),
        lambda row: (
            f"{name} is {raw[row]:g} ({times[row]:g} s, unit '{unit_ids[rows[row]]}'), outside the duration of "
            f"{start:g} to {end:g} s; {MIX_UP}"
        ),
    )
    if manifest.signal_kind not in VALUED:
        check_rates(frame.file, times, rows, unit_ids, manifest)


def check_rates(file: Path, times: np.ndarray, rows: np.ndarray, unit_ids: np.ndarray, manifest: Manifest) -> None:
    """Refuse what only a mix-up of units explains: 1 kHz, all spikes in 0.2 % of the time, or 0.01 Hz for days."""
    start, end = manifest.duration
    count = np.bincount(rows, minlength=len(unit_ids))
    first, last = np.full(len(unit_ids), np.inf), np.full(len(unit_ids), -np.inf)
    np.minimum.at(first, rows, times)
    np.maximum.at(last, rows, times)
    fast = np.flatnonzero((count >= FEWEST) & (count > FASTEST_HZ * np.maximum(last - first, 0)))
    if len(fast):
        unit = fast[count[fast].argmax()]
        raise UserError(
            f"{file}: unit '{unit_ids[unit]}' has {count[unit]} spikes in {last[unit] - first[unit]:g} s, more than "
            f"{FASTEST_HZ:g} a second; {MIX_UP}"
        )
    span = float(np.ptp(times))
    if len(times) >= FEWEST and span < TIGHT * (end - start):
        raise UserError(
            f"{file}: all {len(times)} spikes lie within {span:g} s of a recording of {end - start:g} s; {MIX_UP}"
        )
    if end - start > LONG_S and np.median(count) < SLOWEST_HZ * (end - start):
        raise UserError(
            f"{file}: a recording of {(end - start) / 3600:.0f} h with {np.median(count):g} spikes a unit; {MIX_UP} "
            f"(the duration in {manifest.file.name} is always in s)"
        )


def read_binned(manifest: Manifest, shown: Presentations, units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One event a (trial, bin, unit), at the bin's centre after the onset, whose value is the count or envelope."""
    file, raw = read_arrays(manifest, manifest.spikes, ("values", "bin_edges"))
    values, edges = raw.columns["values"], raw.columns["bin_edges"].ravel()
    values = values.astype(np.uint8) if values.dtype.kind == "b" else values  # a raster of spikes, in MATLAB logical
    if values.dtype.kind not in "iuf" or edges.dtype.kind not in "iuf":
        raise UserError(f"{file}: values have type {values.dtype} and bin_edges {edges.dtype}, expected numbers")
    if manifest.spikes.format == "mat" and values.ndim == 2:
        values = values[:, :, None]  # MATLAB drops a last axis of length 1
    expected = (len(shown.frame), len(edges) - 1, units)
    if values.shape != expected:
        raise UserError(
            f"{file}: values have shape {values.shape}, expected {expected}: presentations of {shown.frame.file.name}, "
            "bins between bin_edges, units"
        )
    if not len(edges) > 1 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise UserError(f"{file}: bin_edges have to be two or more finite, ascending times after the onset")
    with np.errstate(over="ignore", invalid="ignore"):
        kept = values.astype(np.float32)
    bad = np.argwhere(~np.isfinite(kept) | ((kept < 0) & (manifest.signal_kind == "binned_count")))
    if len(bad):
        trial, time, unit = bad[0]
        raise UserError(
            f"{file}: values[{trial}, {time}, {unit}] is {values[trial, time, unit]} ({len(bad)} such values); counts "
            "are finite and not negative, envelopes finite: mend it, or leave the trial or unit out"
        )
    edges = edges.astype(np.float64)
    rate = per_second(manifest)
    centre = (edges[1:] + edges[:-1]) / 2 / rate
    span, longest = float(edges[-1] - edges[0]) / rate, float((shown.end - shown.start).max())
    if span < BRIEF_S or span > MANY * longest:
        raise UserError(
            f"{file}: the bins span {span:g} s beside presentations of up to {longest:g} s; {MIX_UP} (bin_edges have "
            f"the time_unit {manifest.time_unit})"
        )
    times = shown.start[:, None] + centre
    outside = np.argwhere((times < manifest.duration[0]) | (times > manifest.duration[1]))
    if len(outside):
        trial, time = outside[0]
        raise UserError(
            f"{shown.frame.place(int(trial))}: bin {time} of this presentation lies at {times[trial, time]:g} s, "
            f"outside the duration of {manifest.duration[0]:g} to {manifest.duration[1]:g} s; {MIX_UP}"
        )
    return np.repeat(times.ravel(), units), np.tile(np.arange(units), times.size), kept.ravel()
