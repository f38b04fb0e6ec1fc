"""Events to counts on a grid of bins, a block of windows at a time. Letters: W windows, N units, T bins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

CELLS_AT_ONCE = 2**18  # what stays in the processor's cache


def bin_events(
    window: np.ndarray,
    column: np.ndarray,
    tick: np.ndarray,
    value: np.ndarray | None,
    shape: tuple[int, int, int],
    bin_ms: int,
) -> np.ndarray:
    """Counts (or summed values) [W, N, T] float32 of events in order of window; T = shape[2] bins of ``bin_ms``."""
    windows, units, bins = shape
    grid = np.empty(windows * units * bins, dtype=np.float32)
    ends = np.searchsorted(window, np.arange(windows), side="right")
    size = units * bins
    for low, high in _blocks(np.arange(1, windows + 1) * size, CELLS_AT_ONCE):
        part = slice(ends[low - 1] if low else 0, ends[high - 1])
        cell = np.minimum(tick[part] // bin_ms, bins - 1)
        cell += column[part] * bins
        cell += window[part] * size
        grid[low * size : high * size] = 0
        np.add.at(grid, cell, np.float32(1) if value is None else value[part])
    return grid.reshape(shape)


def _blocks(ends: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Consecutive windows (low, high) that hold about ``most`` together; ``ends`` [W]: the running total."""
    if len(ends) == 0:
        return []
    cuts = np.searchsorted(ends, np.arange(most, ends[-1] + most, most))
    cuts = np.unique(np.concatenate([[0], np.minimum(cuts + 1, len(ends)), [len(ends)]])).tolist()
    return list(pairwise(cuts))
