"""Behaviour at given moments: the mean over a short while where samples are dense, in between where they are not.

Letters: T samples, D dimensions, I moments.
"""

from __future__ import annotations

import numpy as np

from neurobridge.data.recording import TimeSeries

GAP = 3.0  # of the usual step between samples: what lies further apart has a gap in between


def described(series: TimeSeries) -> str:
    """A series in words: dimensions, samples, rate, how much is missing, how many gaps."""
    values, step = columns_of(series), np.diff(series.timestamps)
    usual = float(np.median(step)) if len(step) else 0.0
    told = [f"{values.shape[1]} dimension{'s' * (values.shape[1] > 1)}", f"{len(values)} samples"]
    if usual > 0:
        told.append(f"{1 / usual:.4g} Hz")
    if missing := float(np.isnan(values).mean()):
        told.append(f"{missing:.1%} missing")
    if gaps := int((step > GAP * usual).sum()) if usual > 0 else 0:
        told.append(f"{gaps} gap{'s' * (gaps > 1)} of {step[step > GAP * usual].sum():.4g} s")
    return ", ".join(told)


def defect_of(series: TimeSeries) -> str:
    """What makes a series unusable, as a half sentence; empty if nothing does."""
    if not len(series.timestamps):
        return "has no sample"
    if not np.isfinite(series.timestamps).all() or (np.diff(series.timestamps) < 0).any():
        return "has times that are not finite, or not in order"
    if series.values.dtype.kind not in "fiub" or np.isnan(columns_of(series)).all():
        return "has no known value"
    return ""


def columns_of(series: TimeSeries) -> np.ndarray:
    """Values [T, D] float64 of a series [T] or [T, D, ...]."""
    return series.values.reshape(len(series.timestamps), -1).astype(np.float64)


def behaviour_at(series: TimeSeries, times: np.ndarray, *, width_s: float) -> np.ndarray:
    """Values [I, D] at ``times`` [I] s, NaN where they are not known.

    The mean of the finite samples within half of ``width_s`` to either side; where there is none, the line between the
    two samples around, if both are finite and no gap (:data:`GAP`) lies in between. ``series`` is in order of time.
    """
    at, values = series.timestamps, columns_of(series)
    first, last = np.searchsorted(at, times - width_s / 2), np.searchsorted(at, times + width_s / 2, side="right")
    known = np.isfinite(values)
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(np.where(known, values, 0.0), axis=0)])
    count = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(known, axis=0)])
    inside = count[last] - count[first]
    mean = (total[last] - total[first]) / np.maximum(inside, 1)
    return np.where(inside > 0, mean, _between(at, values, times))


def _between(at: np.ndarray, values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[I, D]: on the line between the samples before and after each moment; NaN over a gap and beyond the ends."""
    if len(at) < 2:
        return np.full((len(times), values.shape[1]), np.nan)
    after = np.clip(np.searchsorted(at, times), 1, len(at) - 1)
    step = at[after] - at[after - 1]
    share = ((times - at[after - 1]) / np.where(step > 0, step, 1.0))[:, None]
    line = (1 - share) * values[after - 1] + share * values[after]
    outside = (times < at[0]) | (times > at[-1]) | (step > GAP * np.median(np.diff(at)))
    return np.where(outside[:, None], np.nan, line)
