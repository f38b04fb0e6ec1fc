"""Which units are good enough: thresholds, what each of them dropped, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from neurobridge.data.checks import check
from neurobridge.data.recording import Recording
from neurobridge.errors import UserError

REFRACTORY_S = 1.5e-3
MINUTE_S = 60.0
COLUMNS = ("rate_hz", "isi_below_1_5_ms", "presence_minutes")


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


def select_units(recording: Recording, settings: QualitySettings) -> Recording:
    """``recording`` without the units that miss a threshold; ``provenance['quality']`` says what each one dropped.

    A threshold is inclusive, and looks at every unit: one unit can be dropped by several. Rate, intervals and presence
    need spikes, so they are left out for counts and envelopes; intervals are judged for sorted units alone. A unit
    whose SNR (column ``snr``) is NaN stays. What was measured (:data:`COLUMNS`) joins the unit columns.

    Raises UserError if the recording is not sound, or if no unit is left, with the counts and the mend.
    """
    check(recording, f"session {recording.session}")
    measured = unit_quality(recording) if recording.spike_values is None else {}
    rate, isi, presence = (measured.get(name) for name in COLUMNS)
    snr = next((column for name, column in recording.unit_columns.items() if name.lower() == "snr"), None)
    keep = np.ones(len(recording.unit_ids), dtype=bool)
    told = []

    def judge(name: str, sense: str, threshold: float | None, values: np.ndarray | None, unjudged: str) -> None:
        if threshold is None or values is None:
            told.append(f"{name}: {'off' if threshold is None else unjudged}")
            return
        missed = values < threshold if sense == "at least" else values > threshold  # False for NaN
        keep[missed] = False
        told.append(f"{name} {sense} {threshold:g}: dropped {int(missed.sum())}")

    kind = recording.signal_kind
    spikeless = f"not judged ({kind} holds no spikes)"
    judge("rate in Hz", "at least", settings.min_rate, rate, spikeless)
    unsorted = f"not judged (for sorted units only, not {kind})"
    isi = isi if kind == "sorted" else None
    judge("share of intervals below 1.5 ms", "at most", settings.max_isi_violations, isi, unsorted)
    judge("share of minutes with a spike", "at least", settings.min_presence, presence, spikeless)
    if snr is not None and settings.min_snr is not None:
        snr = _numbers(snr, recording)
    judge("SNR", "at least", settings.min_snr, snr, "not judged (the source knows none)")
    summary = f"kept {int(keep.sum())} of {len(keep)} units; {'; '.join(told)}"
    if not keep.any():
        raise UserError(
            f"session {recording.session}: no unit is left after the quality filters ({summary}); relax the thresholds "
            "(--quality.min_rate and its neighbours, null switches one off) or leave this session out"
        )
    return _with_units(recording, keep, measured, summary)


def unit_quality(recording: Recording) -> dict[str, np.ndarray]:
    """:data:`COLUMNS` [N] of a recording of spikes: rate in Hz, share of intervals below 1.5 ms, share of minutes.

    The last, incomplete minute belongs to the one before it. A unit with fewer than two spikes violates nothing.
    """
    units = len(recording.unit_ids)
    start, end = recording.duration
    order = np.lexsort((recording.spike_times, recording.spike_units))
    times, rows = recording.spike_times[order], recording.spike_units[order]
    counts = np.bincount(rows, minlength=units)
    same = rows[1:] == rows[:-1]
    short = np.bincount(rows[1:][same & (np.diff(times) < REFRACTORY_S)], minlength=units)
    minutes = max(1, int((end - start) // MINUTE_S))
    minute = np.clip(((times - start) // MINUTE_S).astype(np.int64), 0, minutes - 1)
    seen = np.zeros((units, minutes), dtype=bool)
    seen[rows, minute] = True
    values = (counts / max(end - start, REFRACTORY_S), short / np.maximum(counts - 1, 1), seen.mean(1))
    return dict(zip(COLUMNS, values, strict=True))


def _with_units(recording: Recording, keep: np.ndarray, measured: dict[str, np.ndarray], summary: str) -> Recording:
    columns = {**measured, **recording.unit_columns}
    row = np.cumsum(keep) - 1
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
        provenance={**recording.provenance, "quality": summary},
    )


def _numbers(column: np.ndarray, recording: Recording) -> np.ndarray:
    try:
        return np.asarray(column, dtype=np.float64).reshape(len(recording.unit_ids))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"session {recording.session}: the unit column 'snr' is not one number a unit ({error}); mend it, or set "
            "--quality.min_snr to null"
        ) from error
