"""A Wiener filter: behaviour from the counts around it by ridge, the classical decoder of motor cortex.

Letters: N units, T bins of a recording, I rows (bins that are decoded), Y targets, L lags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurobridge.baselines.ridge import ALPHAS, LinearMap, ridge

REACHES = (0, 1, 2, 4, 6, 9, 13, 20)


def lagged(counts: np.ndarray, rows: np.ndarray, reach: int, step: int = 1) -> np.ndarray:
    """Counts [N, T] around each of ``rows`` [I], summed over lags of ``step`` bins: [I, (2 reach + 1) * N].

    The middle lag is centred on the row. Beyond the ends of the recording its first and last bin go on.
    """
    total = np.zeros(counts.shape)
    for bin_ in np.arange(step) - step // 2:
        total += counts[:, np.clip(np.arange(counts.shape[1]) + bin_, 0, counts.shape[1] - 1)]
    at = np.asarray(rows)[:, None] + step * np.arange(-reach, reach + 1)
    return total[:, np.clip(at, 0, counts.shape[1] - 1)].transpose(1, 2, 0).reshape(len(at), -1)


@dataclass(kw_only=True)
class WienerFilter:
    """What :func:`fit_wiener` chose: ``reach`` lags of ``step`` bins to either side, and the weights."""

    reach: int
    step: int
    map: LinearMap

    def predict(self, counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Targets [I, Y] at the bins ``rows`` [I] of counts [N, T]."""
        return self.map.predict(lagged(counts, rows, self.reach, self.step))


def fit_wiener(
    counts: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    *,
    reaches: Sequence[int] = REACHES,
    step: int = 1,
    alphas: np.ndarray = ALPHAS,
    folds: int = 5,
) -> WienerFilter:
    """Ridge from the counts [N, T] around the bins ``rows`` [I], in order of time, to ``targets`` [I, Y].

    How far it reaches (one of ``reaches``, in lags of ``step`` bins to either side) and its penalty are what predicts
    ``folds`` contiguous blocks of rows, held out in turn, best. A reach of 0 alone is ridge on plain counts.
    """
    assert (np.diff(rows) > 0).all(), "the rows of a Wiener filter are bins in order of time"
    inputs = (lagged(counts, rows, reach, step) for reach in reaches)
    maps = [ridge(x, targets, alphas=alphas, folds=folds, blocks=True) for x in inputs]
    variance = np.maximum(np.var(targets, axis=0), 1e-12)
    unexplained = [(((found.out_of_fold - targets) ** 2).mean(0) / variance).mean() for found in maps]
    best = int(np.argmin(unexplained))
    return WienerFilter(reach=reaches[best], step=step, map=maps[best])
