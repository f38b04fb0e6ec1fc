"""Which units are good enough: thresholds, what each of them dropped, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from neurobridge.data.checks import check
from neurobridge.data.intervals import elapsed, length_of, merged
from neurobridge.data.recording import Recording
from neurobridge.errors import UserError

REFRACTORY_S = 1.5e-3
MINUTE_S = 60.0
COLUMNS = ("rate_hz", "isi_below_1_5_ms", "presence_minutes")
TWICE = "twice"  # spikes at the very time of another of their unit: a table, or a sorter, has them twice
SPIKES_AT_ONCE = 2**24


@dataclass(kw_only=True)
class QualitySettings:
    """Thresholds of unit quality; None switches one off.

    Args:
        min_rate: Lowest mean firing rate in Hz.
        max_isi_violations: Largest share of inter-spike intervals below 1.5 ms (sorted units only).
        min_presence: Lowest share of the recording's minutes with a spike.
        min_snr: Lowest signal-to-noise ratio, where the source knows one.
    """

    min_rate: float | None = 0.5
    max_isi_violations: float | None = 0.01
    min_presence: float | None = None
    min_snr: float | None = None


DEFAULTS = QualitySettings()


def select_units(recording: Recording, settings: QualitySettings) -> Recording:
    """``recording`` without the units that miss a threshold; ``provenance['quality']`` says what each one dropped,
    ``provenance['kept']`` the same in a line for the user.

    A threshold is inclusive, and looks at every unit: one unit can be dropped by several. Rate, intervals and presence
    need spikes, so they are left out for counts and envelopes; intervals are judged for sorted units alone. A unit
    whose SNR (column ``snr``) is NaN stays. What was measured (:data:`COLUMNS`) joins the unit columns.

    Raises UserError if the recording is not sound, or if no unit is left, with the counts and the mend.
    """
    check(recording, f"session {recording.session}")
    measured = _measured(recording) if recording.spike_values is None else {}
    twice = int(measured.pop(TWICE, np.zeros(1)).sum())
    rate, isi, presence = (measured.get(name) for name in COLUMNS)
    snr = next((column for name, column in recording.unit_columns.items() if name.lower() == "snr"), None)
    keep = np.ones(len(recording.unit_ids), dtype=bool)
    told, dropped, beside = [], {}, []

    def judge(option: str, name: str, missing: str, values: np.ndarray | None, unjudged: str) -> None:
        threshold, sense = getattr(settings, option), "at most" if option.startswith("max") else "at least"
        if threshold is None or values is None:
            told.append(f"{name}: {'off' if threshold is None else unjudged}")
            if threshold is not None and threshold != getattr(DEFAULTS, option):  # asked for, and not done
                beside.append(f"{name} {unjudged}")
            return
        if (unknown := np.isnan(values)).any():
            beside.append(f"{int(unknown.sum())} without {name} stay")
        missed = values < threshold if sense == "at least" else values > threshold  # False for NaN
        keep[missed] = False
        told.append(f"{name} {sense} {threshold:g}: dropped {int(missed.sum())}")
        if missed.any():
            dropped[f"`--quality.{option} null`"] = f"{int(missed.sum())} {missing.format(threshold)}"

    kind = recording.signal_kind
    spikeless = f"not judged ({kind} holds no spikes)"
    judge("min_rate", "rate in Hz", "below {:g} Hz", rate, spikeless)
    unsorted = f"not judged (for sorted units only, not {kind})"
    isi = isi if kind == "sorted" else None
    short = "with more than {:.3g} of their intervals below 1.5 ms"
    judge("max_isi_violations", "share of intervals below 1.5 ms", short, isi, unsorted)
    rare = "with a spike in less than {:.3g} of the minutes"
    judge("min_presence", "share of minutes with a spike", rare, presence, spikeless)
    if snr is not None and settings.min_snr is not None:
        snr = _numbers(snr, recording)
    judge("min_snr", "SNR", "with an SNR below {:g}", snr, "not judged (the source knows none)")
    kept = f"kept {int(keep.sum())} of {len(keep)} units"
    if twice:
        beside.append(f"{twice} spikes at the very time of another of their unit")
    summary = "; ".join([kept, *told])
    if dropped:
        verb = "keeps" if len(dropped) == 1 else "keep"
        kept += f": {', '.join(dropped.values())}; {' and '.join(dropped)} {verb} them"
    kept = "; ".join([kept, *beside])
    if not keep.any():
        why = "; ".join([summary, *beside])
        raise UserError(
            f"session {recording.session}: no unit is left after the quality filters ({why}); relax the "
            "thresholds (--quality.min_rate and its neighbours, null switches one off) or leave this session out"
        )
    return _with_units(recording, keep, measured, {"quality": summary, "kept": kept})


def unit_quality(recording: Recording) -> dict[str, np.ndarray]:
    """:data:`COLUMNS` [N] of a recording of spikes: rate in Hz, share of intervals below 1.5 ms, share of minutes.

    All of observed time alone: spikes outside do not count, no interval spans a gap, and minutes are those of a clock
    that stands still in gaps. The last, incomplete minute belongs to the one before it. A unit with fewer than two
    spikes violates nothing.
    """
    return {name: column for name, column in _measured(recording).items() if name in COLUMNS}


def _measured(recording: Recording) -> dict[str, np.ndarray]:
    """:func:`unit_quality` and :data:`TWICE`, of as many units at a time as have :data:`SPIKES_AT_ONCE` spikes."""
    units = len(recording.unit_ids)
    observed = merged(recording.observed_time)
    group = np.cumsum(np.bincount(recording.spike_units, minlength=units)) // SPIKES_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), units]
    parts = []
    for first, last in pairwise(edges):
        inside = slice(None)
        if last - first < units:
            inside = (recording.spike_units >= first) & (recording.spike_units < last)
        parts.append(
            _measure(recording.spike_times[inside], recording.spike_units[inside] - first, last - first, observed)
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in (*COLUMNS, TWICE)}


def _measure(times: np.ndarray, rows: np.ndarray, units: int, observed: np.ndarray) -> dict[str, np.ndarray]:
    """:func:`_measured` [N] of ``units`` by the times [S] and rows [S] of their spikes, in any order."""
    order = np.lexsort((times, rows))
    times, rows = times[order], rows[order]
    same = np.bincount(rows[1:][(np.diff(times) == 0) & (np.diff(rows) == 0)], minlength=units)
    part, clock = elapsed(times, observed)
    times, rows, clock, part = (column[part >= 0] for column in (times, rows, clock, part))
    counts = np.bincount(rows, minlength=units)
    follows = (rows[1:] == rows[:-1]) & (part[1:] == part[:-1])
    intervals = np.bincount(rows[1:][follows], minlength=units)
    short = np.bincount(rows[1:][follows & (np.diff(times) < REFRACTORY_S)], minlength=units)
    minutes = max(1, int(length_of(observed) // MINUTE_S))
    minute = np.clip((clock // MINUTE_S).astype(np.int64), 0, minutes - 1)
    seen = np.zeros((units, minutes), dtype=bool)
    seen[rows, minute] = True
    values = (counts / max(length_of(observed), REFRACTORY_S), short / np.maximum(intervals, 1), seen.mean(1), same)
    return dict(zip((*COLUMNS, TWICE), values, strict=True))


def _with_units(
    recording: Recording, keep: np.ndarray, measured: dict[str, np.ndarray], told: dict[str, str]
) -> Recording:
    columns = {**measured, **recording.unit_columns}
    if keep.all():
        return replace(recording, unit_columns=columns, provenance={**recording.provenance, **told})
    row = (np.cumsum(keep) - 1).astype(np.int32)
    of_kept = keep[recording.spike_units]
    values = recording.spike_values
    return replace(
        recording,
        spike_times=recording.spike_times[of_kept],
        spike_units=row[recording.spike_units[of_kept]],
        spike_values=None if values is None else values[of_kept],
        unit_ids=recording.unit_ids[keep],
        regions=recording.regions[keep],
        unit_columns={name: column[keep] for name, column in columns.items()},
        provenance={**recording.provenance, **told},
    )


def _numbers(column: np.ndarray, recording: Recording) -> np.ndarray:
    try:
        return np.asarray(column, dtype=np.float64).reshape(len(recording.unit_ids))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"session {recording.session}: the unit column 'snr' is not one number a unit ({error}); mend it, or set "
            "--quality.min_snr to null"
        ) from error
