"""Sets of time intervals [K, 2] in s: sorted, disjoint, closed at both ends.

Edges that are less than :data:`TOLERANCE` apart are the same moment: clocks on a 1 ms grid are not exact in binary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TOLERANCE = 1e-6


def merged(intervals: np.ndarray) -> np.ndarray:
    """``intervals`` [K, 2] in any order as a set: sorted, and joined where they touch or overlap."""
    intervals = np.asarray(intervals, dtype=np.float64).reshape(-1, 2)
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    if len(intervals) == 0:
        return intervals
    reached = np.maximum.accumulate(intervals[:, 1])
    first = np.flatnonzero(np.concatenate([[True], intervals[1:, 0] > reached[:-1] + TOLERANCE]))
    return np.stack([intervals[first, 0], np.maximum.reduceat(intervals[:, 1], first)], axis=1)


def complement(intervals: np.ndarray, start: float, end: float) -> np.ndarray:
    """What the set leaves of ``start`` to ``end``."""
    inner = np.clip(merged(intervals), start, end)
    gaps = np.concatenate([[start], inner.ravel(), [end]]).reshape(-1, 2)
    return gaps[gaps[:, 1] - gaps[:, 0] > TOLERANCE]


def intersection(sets: Sequence[np.ndarray], start: float, end: float) -> np.ndarray:
    """What all ``sets`` share between ``start`` and ``end``."""
    return complement(np.concatenate([complement(each, start, end) for each in sets]), start, end)


def length_of(intervals: np.ndarray) -> float:
    """How long the set lasts in s."""
    return float(np.diff(intervals, axis=1).sum())


def elapsed(times: np.ndarray, intervals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which interval each of ``times`` [S] lies in, -1 outside; how much of the set is over by then in s, 0 outside).

    ``intervals`` is a set as :func:`merged` gives it.
    """
    at = np.searchsorted(intervals[:, 0], times + TOLERANCE, side="right") - 1
    ends = np.concatenate([intervals[:, 1], [-np.inf]])  # at is -1 before the first interval
    at = np.where(ends[at] >= times - TOLERANCE, at, -1)
    before = np.concatenate([np.cumsum(intervals[:, 1] - intervals[:, 0]) - (intervals[:, 1] - intervals[:, 0]), [0.0]])
    start = np.concatenate([intervals[:, 0], [0.0]])
    return at, np.where(at < 0, 0.0, before[at] + times - start[at])


def overlaps(start: np.ndarray, end: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """[W] bool: which of the windows ``start`` to ``end`` share more than a moment with the set."""
    intervals = merged(intervals)
    next_end = np.searchsorted(intervals[:, 1], start + TOLERANCE, side="right")
    return np.concatenate([intervals[:, 0], [np.inf]])[next_end] < end - TOLERANCE


def contains(start: np.ndarray, end: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """[W] bool: which of the windows ``start`` to ``end`` lie within one interval of the set."""
    intervals = merged(intervals)
    at = np.searchsorted(intervals[:, 0], start + TOLERANCE, side="right") - 1
    reached = np.concatenate([intervals[:, 1], [-np.inf]])  # at is -1 before the first interval
    return reached[at] >= end - TOLERANCE
