"""Windows that begin on any millisecond: where they may lie, and what fixed windows leave out. Times in s.

Letters: K stretches, W windows.
"""

from __future__ import annotations

import numpy as np

from neurobridge.data.intervals import complement

TICK = 1e-3
EPSILON = 1e-6


def free_time(observed: np.ndarray, start: np.ndarray, end: np.ndarray, *, offset: float, length: float) -> np.ndarray:
    """[K, 2]: stretches of ``observed`` [., 2] that hold a window of ``length`` and no presentation that is held out.

    Held out is each presentation from ``start`` to ``end`` [P], and the window from ``offset`` after its start.
    Stretches begin on a whole millisecond.
    """
    first, last = start + offset, start + offset + length
    taken = np.stack([np.minimum(first, start), np.maximum(last, end)], axis=1)
    low, high = float(observed.min()), float(observed.max())
    free = complement(np.concatenate([complement(observed, low, high), taken]), low, high)
    free[:, 0] = np.ceil((free[:, 0] - EPSILON) / TICK) * TICK
    return free[free[:, 1] - free[:, 0] >= length - EPSILON]


def left_out(free: np.ndarray, starts: np.ndarray, length: float) -> float:
    """Share of the time ``free`` [K, 2] in none of the windows of ``length`` from ``starts`` [W]; 0 without any."""
    if not len(free):
        return 0.0
    low, high = float(free.min()), float(free.max())
    seen = np.stack([starts, starts + length], axis=1)
    left = complement(np.concatenate([complement(free, low, high), seen]), low, high)
    return float(np.diff(left).sum() / np.diff(free).sum())


def any_millisecond(first: np.ndarray, last: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count] starts from stretches of allowed starts ``first`` to ``last`` [K], every millisecond as likely."""
    choices = np.floor((last - first + EPSILON) / TICK).astype(np.int64) + 1
    until = np.cumsum(choices)
    drawn = rng.integers(until[-1], size=count)
    stretch = np.searchsorted(until, drawn, side="right")
    return first[stretch] + (drawn - until[stretch] + choices[stretch]) * TICK
