"""What a score must be read against: its interval, its chance level, its p-value, and the ceiling set by noise.

Shapes: ``I`` items (images), ``R`` repeats, ``D`` dimensions (units, features), ``P`` permutations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def above(self, other: Interval) -> bool:
        """True if this interval lies wholly above ``other``: they do not overlap."""
        return self.low > other.high


def bootstrap_interval(values: ArrayLike, *, seed: int, draws: int = 2000, level: float = 0.95) -> Interval:
    """Mean of ``values`` [I] and its percentile bootstrap interval (Efron & Tibshirani 1993) over items.

    Items are the independent things: images, sessions; never the I * (I - 1) pairs of a comparison.
    Raises ValueError for an empty array or NaN.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise ValueError(f"the bootstrap takes a non-empty array [I] without NaN, got shape {values.shape}")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(len(values), size=(n, len(values)))].mean(1) for n in _chunks(draws, len(values))]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_difference(ours: ArrayLike, theirs: ArrayLike, *, seed: int, draws: int = 2000) -> Interval:
    """Interval of the mean paired difference of two scores [I] of the same items. Raises ValueError as above."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"a paired difference takes scores of the same items, got {ours.shape} and {theirs.shape}")
    return bootstrap_interval(ours - theirs, seed=seed, draws=draws)


def permutation_p_value(
    score: Callable[[np.ndarray], float], items: int, *, seed: int, draws: int = 1000
) -> tuple[float, float]:
    """Score of the true pairing and its one-sided p-value against random pairings.

    ``score(order)`` is the score when item i is compared with the target of item ``order[i]``; the observed score is
    that of ``arange(items)``. p = (1 + #{null >= observed}) / (1 + draws) (Phipson & Smyth 2010), never zero.
    """
    rng = np.random.default_rng(seed)
    observed = float(score(np.arange(items)))
    null = np.array([score(rng.permutation(items)) for _ in range(draws)])
    return observed, float((1 + (null >= observed).sum()) / (1 + draws))


def chance_level(gallery: int, k: int = 1) -> float:
    """Top-k accuracy of guessing among ``gallery`` candidates of which one is right."""
    if gallery < 1 or k < 1:
        raise ValueError(f"chance needs a gallery and a k of at least 1, got gallery {gallery}, k {k}")
    return min(1.0, k / gallery)


def majority_level(labels: ArrayLike) -> float:
    """Accuracy of always answering the commonest of ``labels`` [I]: the chance level of a classifier."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    return float(counts.max() / counts.sum())


def spearman_brown(reliability: ArrayLike, factor: float) -> np.ndarray:
    """Reliability of an average of ``factor`` times as many repeats: ``f r / (1 + (f - 1) r)``."""
    reliability = np.asarray(reliability, np.float64)
    return factor * reliability / (1 + (factor - 1) * reliability)


def repeat_reliability(responses: ArrayLike, *, repeats: int = 1) -> np.ndarray:
    """Reliability [D] of the average of ``repeats`` repeats, from responses [I, R, D] to I images shown R times.

    The mean Pearson correlation over images between two single repeats (every pair), by Spearman-Brown carried to
    ``repeats``. Its square root is the ceiling of any prediction's correlation with such an average. NaN where a
    unit does not vary. Raises ValueError for fewer than two images or repeats.
    """
    responses = np.asarray(responses, np.float64)
    if responses.ndim != 3 or responses.shape[0] < 2 or responses.shape[1] < 2:
        raise ValueError(f"repeat reliability takes responses [I, R, D] with I, R >= 2, got shape {responses.shape}")
    centred = responses - responses.mean(0)
    norm = np.sqrt((centred**2).sum(0))
    z = np.divide(centred, norm, out=np.full_like(centred, np.nan), where=norm > 1e-12)
    correlation = np.einsum("iad,ibd->abd", z, z)
    pairs = np.triu_indices(responses.shape[1], k=1)
    return spearman_brown(correlation[pairs].mean(0), repeats)


def _chunks(draws: int, items: int) -> list[int]:
    """Split the draws so that no index array holds more than about ten million entries."""
    size = max(1, 10_000_000 // items)
    return [min(size, draws - start) for start in range(0, draws, size)]
