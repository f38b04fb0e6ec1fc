"""A Wiener filter: behaviour from the counts around it by ridge, the classical decoder of motor cortex.

Letters: N units, T bins of a recording, I rows (bins that are decoded), Y targets, L lags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurobridge.baselines.ridge import ALPHAS, LinearMap, ridge

REACHES = (0, 1, 2, 4, 6, 9, 13)


def lagged(counts: np.ndarray, rows: np.ndarray, reach: int) -> np.ndarray:
    """Counts [N, T] in the ``reach`` bins before each of ``rows`` [I], in it and after it: [I, (2 reach + 1) * N].

    Beyond the ends of the recording its first and last bin go on.
    """
    at = np.asarray(rows)[:, None] + np.arange(-reach, reach + 1)
    return counts[:, np.clip(at, 0, counts.shape[1] - 1)].transpose(1, 2, 0).reshape(len(at), -1).astype(np.float64)


@dataclass(kw_only=True)
class WienerFilter:
    """What :func:`fit_wiener` chose: ``reach`` bins to either side, and the weights."""

    reach: int
    map: LinearMap

    def predict(self, counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Targets [I, Y] at the bins ``rows`` [I] of counts [N, T]."""
        return self.map.predict(lagged(counts, rows, self.reach))


def fit_wiener(
    counts: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    *,
    reaches: Sequence[int] = REACHES,
    alphas: np.ndarray = ALPHAS,
    folds: int = 5,
) -> WienerFilter:
    """Ridge from the counts [N, T] around the bins ``rows`` [I], in order of time, to ``targets`` [I, Y].

    How far it reaches (one of ``reaches``, in bins before and after) and its penalty are what predicts ``folds``
    contiguous blocks of rows, held out in turn, best. A reach of 0 alone is ridge on plain counts.
    """
    assert (np.diff(rows) > 0).all(), "the rows of a Wiener filter are bins in order of time"
    maps = [ridge(lagged(counts, rows, reach), targets, alphas=alphas, folds=folds, blocks=True) for reach in reaches]
    variance = np.maximum(np.var(targets, axis=0), 1e-12)
    unexplained = [(((found.out_of_fold - targets) ** 2).mean(0) / variance).mean() for found in maps]
    best = int(np.argmin(unexplained))
    return WienerFilter(reach=reaches[best], map=maps[best])
