"""What every metric does first: refuse what is not finite, and centre what varies, in whatever unit it comes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

ROUNDING = 1e-12  # deviations below this share of the largest value are rounding, not variation


def finite(values: ArrayLike, what: str) -> np.ndarray:
    """``values`` as float64. Raises ValueError, by the name ``what``, if one is NaN or infinite."""
    values = np.asarray(values, np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{what} must be finite, {bad} of {values.size} values are NaN or infinite")
    return values


def centred(
    values: np.ndarray, valid: np.ndarray | bool = True, *, axis: int, rounding: float = ROUNDING
) -> tuple[np.ndarray, np.ndarray]:
    """Deviations from the mean over ``valid`` cells along ``axis``, in units of the largest of them, and that unit.

    Multiplying ``values`` changes the unit alone. Cells that are not valid have no deviation; where nothing varies
    (by more than ``rounding`` of the largest value) all are 0 and the unit is NaN.
    """
    valid = np.broadcast_to(valid, values.shape)
    values = np.where(valid, values, 0.0)
    peak = np.abs(values).max(axis=axis, keepdims=True, initial=0.0)
    shares = divide(values, peak, empty=0.0)
    deviation = np.where(valid, shares - divide(shares.sum(axis, keepdims=True), valid.sum(axis, keepdims=True)), 0.0)
    largest = np.abs(deviation).max(axis=axis, keepdims=True, initial=0.0)
    largest = np.where(largest > rounding, largest, 0.0)
    unit = np.where(largest > 0, largest * peak, np.nan)
    return divide(deviation, largest, empty=0.0), unit


def divide(a: ArrayLike, b: ArrayLike, *, empty: float = np.nan) -> np.ndarray:
    """a / b, and ``empty`` where b is 0."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), empty), where=b != 0)
