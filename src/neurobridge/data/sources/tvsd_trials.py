"""Raw trials of TVSD to one number a channel and trial, read by slabs: the 55 GB are never in memory.

As the release makes normMUA: the mean over the window of the channel's area, minus the mean and over the standard
deviation of a day's pool, whose samples are *not* averaged over time first. The release pools the test trials; our
default is the train trials.

Letters: P trials, C channels in recording order, T samples of 1 ms, D days.
"""

from __future__ import annotations

from collections.abc import Callable

import h5py
import numpy as np

WINDOWS = {"V1": (25, 125), "V4": (50, 150), "IT": (75, 175)}  # ms after onset, the first excluded, the last included
SLAB_BYTES = 128 * 2**20


def normalised(
    mua: h5py.Dataset,
    *,
    tb: np.ndarray,
    regions: np.ndarray,
    day: np.ndarray,
    pool: np.ndarray,
    advance: Callable[[int], None] = lambda trials: None,
    slab_bytes: int = SLAB_BYTES,
) -> np.ndarray:
    """Normalised responses [P, C] float32 of ``mua`` [T, P, C]; NaN where a sample is, or where a pool has no spread.

    tb: [T] ms after onset. regions: area of each channel [C]. day: [P] integers. pool: [P] True for the trials whose
    samples give the mean and standard deviation of their day. advance: told how many trials were read.
    """
    _, trials, channels = mua.shape
    windows = {area: np.flatnonzero((tb > first) & (tb <= last)) for area, (first, last) in WINDOWS.items()}
    begin, end = min(w[0] for w in windows.values()), max(w[-1] for w in windows.values()) + 1
    days, day_row = np.unique(day, return_inverse=True)
    sums, squares, counts = (np.zeros((len(days), channels)) for _ in range(3))
    responses = np.empty((trials, channels), dtype=np.float32)
    step, width = _slab(mua, end - begin, slab_bytes)
    for at in range(0, trials, step):
        rows = np.arange(at, min(at + step, trials))
        for left in range(0, channels, width):
            slab = mua[begin:end, at : at + step, left : left + width]
            for area, window in windows.items():
                inside = np.flatnonzero(regions[left : left + width] == area)
                if len(inside) == 0:
                    continue
                columns = left + inside
                samples = slab[window[0] - begin : window[-1] + 1 - begin][:, :, inside].astype(np.float64)
                responses[at : at + step, columns] = samples.mean(0)
                known = np.isfinite(samples)
                samples[~known] = 0.0
                total, square = samples.sum(0), (samples**2).sum(0)
                for d in np.unique(day_row[rows]):
                    chosen = pool[rows] & (day_row[rows] == d)
                    sums[d, columns] += total[chosen].sum(0)
                    squares[d, columns] += square[chosen].sum(0)
                    counts[d, columns] += known[:, chosen].sum((0, 1))
        advance(len(rows))
    many = counts > 1
    mean = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=many)
    variance = np.divide(squares - sums * mean, counts - 1, out=np.full_like(sums, np.nan), where=many)
    deviation = np.sqrt(np.where(variance > 1e-12 * mean**2, variance, np.nan))
    for d in range(len(days)):
        here = day_row == d
        responses[here] = (responses[here] - mean[d]) / deviation[d]
    return responses


def _slab(mua: h5py.Dataset, samples: int, most: int) -> tuple[int, int]:
    """Trials and channels to read at once: whole chunks of the file, about ``most`` bytes."""
    _, trials, channels = mua.shape
    tall, wide = mua.chunks[1:] if mua.chunks else (1, channels)
    cell = samples * mua.dtype.itemsize
    width = channels if cell * tall * channels <= most else max(wide, most // (cell * tall) // wide * wide)
    step = max(tall, most // (cell * min(width, channels)) // tall * tall)
    return min(step, trials), min(width, channels)
