"""Behaviour out of any features over time: ridge and nearest neighbours in blocked folds, the rest from inner folds.

Letters: I moments in order of time, F features, K lags, Y targets, A penalties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from neurobridge.baselines.ridge import RidgePath

ALPHAS = np.logspace(0, 6, 13)
NEIGHBOURS = (5, 15, 45)
COMPONENTS = 30  # of the features in which neighbours are looked for
BLOCKS = 4  # a fold
DRAWS = 2000

Method = Literal["ridge", "k-NN"]


@dataclass(kw_only=True)
class Decoding:
    """Out-of-fold ``prediction`` and ``truth`` [I, Y], each moment's at the lag that its fold's inner folds chose.

    r2: mean over targets that vary, with its 95 % interval over blocks of time. by_target [Y]: NaN where constant.
    lags: index of the lag of each fold; features: index of the candidate of each fold.
    """

    prediction: np.ndarray
    truth: np.ndarray
    r2: tuple[float, float, float]
    by_target: np.ndarray
    lags: list[int]
    features: list[int]


def blocks_of(count: int, folds: int) -> np.ndarray:
    """[I] block of each of ``count`` moments, ``folds * BLOCKS`` stretches of equal length; fold = block % folds."""
    return np.arange(count) * folds * BLOCKS // count


def decode(
    features: Sequence[np.ndarray],
    targets: np.ndarray,
    times: np.ndarray,
    *,
    guard_s: float,
    method: Method = "ridge",
    folds: int = 5,
    inner: int = 3,
    seed: int = 0,
) -> Decoding:
    """Predict ``targets`` [I, K, Y], behaviour at K lags, from one of the candidates ``features`` [I, F] each.

    Every fold is some blocks of time; it is predicted from the others, without the moments that lie within
    ``guard_s`` of it (a quarter of a block at most). Candidate, lag, and penalty or number of neighbours are what
    predicts best in ``inner`` folds of the training moments, which are made likewise. ``times`` [I] s ascend. Raises
    ValueError for fewer moments than blocks, and for features or targets that are not finite.
    """
    if len(times) < folds * BLOCKS * 2:
        raise ValueError(f"{folds} folds of {BLOCKS} blocks need {folds * BLOCKS * 2} moments, got {len(times)}")
    if not np.isfinite(targets).all() or not all(np.isfinite(x).all() for x in features):
        raise ValueError("features and targets are finite numbers: leave the other moments out")
    block = blocks_of(len(times), folds)
    guard_s = min(guard_s, float(np.median(np.diff(times))) * len(times) / (folds * BLOCKS) / 4)
    prediction, truth = np.zeros((2, len(times), targets.shape[2]))
    lags, chosen = [], []
    for train, test in _splits(times, block % folds, folds, guard_s):
        prediction[test], lag, candidate = predict_from(
            features, targets, times, train, test, guard_s=guard_s, method=method, inner=inner
        )
        truth[test] = targets[test, lag]
        lags.append(lag)
        chosen.append(candidate)
    r2, by_target = _score(prediction, truth, block, seed)
    return Decoding(prediction=prediction, truth=truth, r2=r2, by_target=by_target, lags=lags, features=chosen)


def predict_from(
    features: Sequence[np.ndarray],
    targets: np.ndarray,
    times: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    guard_s: float,
    method: Method = "ridge",
    inner: int = 3,
) -> tuple[np.ndarray, int, int]:
    """One fold of :func:`decode`: predictions of the moments ``test``, lag and candidate as ``train`` chose them."""
    solve = _ridge if method == "ridge" else _neighbours
    best = (np.inf, 0, 0, 0)
    part = blocks_of(len(train), inner) % inner
    for candidate, x in enumerate(features):
        losses = 0.0
        for a, b in _splits(times[train], part, inner, guard_s):
            a, b = train[a], train[b]
            losses = losses + np.stack([_unexplained(one, targets[b]) for one in solve(x[a], targets[a], x[b])])
        setting, lag = np.unravel_index(np.argmin(losses), np.shape(losses))
        best = min(best, (float(np.min(losses)), candidate, int(setting), int(lag)))
    _, candidate, setting, lag = best
    x, y = features[candidate], targets[:, [lag]]
    return solve(x[train], y[train], x[test], only=setting)[0][:, 0], lag, candidate


def _splits(times: np.ndarray, fold: np.ndarray, folds: int, guard_s: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Training and held-out rows of each fold; training rows keep their distance."""
    for k in range(folds):
        test = np.flatnonzero(fold == k)
        after = np.searchsorted(times[test], times)
        ahead = times[test][np.minimum(after, len(test) - 1)] - times
        behind = times - times[test][np.maximum(after - 1, 0)]
        near = np.minimum(np.abs(ahead), np.abs(behind)) <= guard_s
        yield np.flatnonzero((fold != k) & ~near), test


def _ridge(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, *, only: int | None = None) -> np.ndarray:
    """Predictions [A, I, K, Y] under every penalty, or under one of them."""
    alphas = ALPHAS if only is None else ALPHAS[[only]]
    flat = RidgePath.of(x.astype(np.float64), y.reshape(len(y), -1)).predict(x_test.astype(np.float64), alphas)
    return flat.reshape(len(alphas), len(x_test), *y.shape[1:])


def _neighbours(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, *, only: int | None = None) -> np.ndarray:
    """The same by the mean of the nearest moments, in the main components of the standardised features."""
    mean, scale = x.mean(0), x.std(0)
    x, x_test = ((part - mean) / np.where(scale > 1e-9, scale, np.inf) for part in (x, x_test))
    components = PCA(min(COMPONENTS, *x.shape), random_state=0).fit(x)
    counts = [min(k, len(x)) for k in (NEIGHBOURS if only is None else NEIGHBOURS[only : only + 1])]
    search = NearestNeighbors(n_neighbors=max(counts)).fit(components.transform(x))
    near = search.kneighbors(components.transform(x_test), return_distance=False)
    return np.stack([y[near[:, :k]].mean(1) for k in counts])


def _unexplained(prediction: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[K] share of the variance that is not explained, mean over the targets that vary."""
    variance = targets.var(0)
    varies = variance > 0
    share = np.where(varies, ((prediction - targets) ** 2).mean(0) / np.where(varies, variance, 1.0), 0.0)
    return share.sum(1) / np.maximum(varies.sum(1), 1)


def _score(
    prediction: np.ndarray, truth: np.ndarray, block: np.ndarray, seed: int
) -> tuple[tuple[float, float, float], np.ndarray]:
    """Mean R2 with its bootstrap interval over blocks, and R2 [Y] by target."""

    def by_block(values: np.ndarray) -> np.ndarray:
        return np.stack([values[block == b].sum(0) for b in np.unique(block)])

    residual = by_block((prediction - truth) ** 2)
    total = by_block((truth - truth.mean(0)) ** 2)
    varies = total.sum(0) > 1e-12 * (1 + truth.mean(0) ** 2)

    def r2(rows: np.ndarray) -> np.ndarray:
        return np.where(varies, 1 - residual[rows].sum(-2) / np.maximum(total[rows].sum(-2), 1e-300), np.nan)

    by_target = r2(np.arange(len(residual)))
    if not varies.any():
        return (float("nan"),) * 3, by_target
    drawn = np.random.default_rng(seed).integers(len(residual), size=(DRAWS, len(residual)))
    low, high = np.quantile(np.nanmean(r2(drawn)[:, varies], axis=1), [0.025, 0.975])
    return (float(np.nanmean(by_target)), float(low), float(high)), by_target
