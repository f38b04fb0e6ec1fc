"""What a score must be read against: its interval, its chance level, its p-value, and the ceiling set by noise.

Shapes: ``I`` items (images), ``R`` repeats, ``D`` dimensions (units, features), ``P`` permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from neurobridge.evaluation.inputs import centred, divide, finite


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def above(self, other: Interval) -> bool:
        """True if this interval lies wholly above ``other``: they do not overlap."""
        return self.low > other.high


def bootstrap_interval(
    values: ArrayLike, *, seed: int, draws: int = 2000, level: float = 0.95, share: bool | None = None
) -> Interval:
    """Mean of ``values`` [I] and its percentile bootstrap interval (Efron & Tibshirani 1993) over items.

    Items are the independent things: images, sessions; never the I * (I - 1) pairs of a comparison. Hits, which are 0
    or 1, get :func:`share_interval`, for no bootstrap of 0 of 18 ever draws a hit; ``share`` says whether they are
    hits (None: if each of them is 0 or 1). Raises ValueError for an empty array, NaN or infinity.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"the bootstrap takes a non-empty array [I] of finite numbers, got shape {values.shape}")
    if share if share is not None else np.isin(values, (0.0, 1.0)).all():
        return share_interval(values, level=level)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(len(values), size=(n, len(values)))].mean(1) for n in _chunks(draws, len(values))]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def share_interval(hits: ArrayLike, *, level: float = 0.95) -> Interval:
    """Share of ``hits`` [I] (0 or 1) and its Wilson score interval (Wilson 1927), which is right at 0 and 1 too.

    Raises ValueError for an empty array, or other values.
    """
    hits = np.asarray(hits, np.float64)
    if hits.ndim != 1 or not len(hits) or not np.isin(hits, (0.0, 1.0)).all():
        raise ValueError(f"a share takes a non-empty array [I] of 0 and 1, got shape {hits.shape}")
    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(level, method="wilson")
    return Interval(float(hits.mean()), float(found.low), float(found.high))


def bootstrap_difference(ours: ArrayLike, theirs: ArrayLike, *, seed: int, draws: int = 2000) -> Interval:
    """Interval of the mean paired difference of two scores [I] of the same items. Raises ValueError as above."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"a paired difference takes scores of the same items, got {ours.shape} and {theirs.shape}")
    return bootstrap_interval(ours - theirs, seed=seed, draws=draws, share=False)


def permutation_p_value(
    score: Callable[[np.ndarray], float], items: int, *, seed: int, draws: int = 1000
) -> tuple[float, float]:
    """Score of the true pairing and its one-sided p-value against random pairings.

    ``score(order)`` is the score when item i is compared with the target of item ``order[i]``; the observed score is
    that of ``arange(items)``. p = (1 + #{null >= observed}) / (1 + draws) (Phipson & Smyth 2010), never zero.
    Raises ValueError for a score that is NaN or infinite.
    """
    rng = np.random.default_rng(seed)
    observed = float(finite(score(np.arange(items)), "the score of the true pairing"))
    null = finite([score(rng.permutation(items)) for _ in range(draws)], "scores of random pairings")
    return observed, float((1 + (null >= observed).sum()) / (1 + draws))


def pairing_p_value(pairs: ArrayLike, *, seed: int, draws: int = 1000) -> float:
    """p-value of the mean of the diagonal of ``pairs`` [I, I], the score of every item with every target.

    :func:`permutation_p_value` for scores that are means over items; higher is better. Raises ValueError for scores
    that are not finite.
    """
    pairs = finite(pairs, "scores of pairs")
    items = np.arange(len(pairs))
    return permutation_p_value(lambda order: float(pairs[items, order].mean()), len(pairs), seed=seed, draws=draws)[1]


def chance_level(gallery: int, k: int = 1) -> float:
    """Top-k accuracy of guessing among ``gallery`` candidates of which one is right."""
    if not (gallery >= 1 and k >= 1):
        raise ValueError(f"chance needs a gallery and a k of at least 1, got gallery {gallery}, k {k}")
    return min(1.0, k / gallery)


def majority_level(labels: ArrayLike) -> float:
    """Accuracy of always answering the commonest of ``labels`` [I]: the chance level of a classifier.

    Raises ValueError where there are none, or one is NaN.
    """
    labels = np.asarray(labels)
    if not labels.size:
        raise ValueError("the majority level of no labels is undefined")
    if labels.dtype.kind == "f":
        finite(labels, "labels")
    _, counts = np.unique(labels, return_counts=True)
    return float(counts.max() / counts.sum())


def spearman_brown(reliability: ArrayLike, factor: float) -> np.ndarray:
    """Reliability of an average of ``factor`` times as many repeats: ``f r / (1 + (f - 1) r)``; NaN beyond its pole."""
    reliability = np.asarray(reliability, np.float64)
    below = 1 + (factor - 1) * reliability
    return divide(factor * reliability, np.where(below > 0, below, 0))


def repeat_reliability(responses: ArrayLike, *, repeats: int = 1) -> np.ndarray:
    """Reliability [D] of the average of ``repeats`` repeats, from responses [I, R, D] to I images shown R times.

    The mean Pearson correlation over images between two single repeats (every pair), by Spearman-Brown carried to
    ``repeats``. Its square root is the ceiling of any prediction's correlation with such an average. NaN where a
    unit does not vary, or a response of it is NaN. Raises ValueError for fewer than two images or repeats, or infinity.
    """
    responses = np.asarray(responses, np.float64)
    if responses.ndim != 3 or responses.shape[0] < 2 or responses.shape[1] < 2:
        raise ValueError(f"repeat reliability takes responses [I, R, D] with I, R >= 2, got shape {responses.shape}")
    if np.isinf(responses).any():
        raise ValueError("responses must not be infinite")
    known = ~np.isnan(responses).any(axis=(0, 1))
    deviation, unit = centred(responses, known, axis=0)
    z = deviation / np.where(np.isnan(unit), np.nan, np.sqrt((deviation**2).sum(0)))
    correlation = np.einsum("iad,ibd->abd", z, z)
    pairs = np.triu_indices(responses.shape[1], k=1)
    return spearman_brown(correlation[pairs].mean(0), repeats)


class RepeatPoint(NamedTuple):
    """Accuracy of averages of ``repeats`` repeats, its interval over items, and the ceiling of a correlation with them.

    ``ceiling`` is the mean over units of the root of the average's reliability: no prediction correlates better with
    it. ``retest`` is the share of items whose average, correlated with the averages of as many *other* repeats of all
    items, is nearest to its own: what the recording says of itself. NaN for more than half of the repeats.
    """

    repeats: int
    accuracy: Interval
    ceiling: float
    retest: float


def accuracy_by_repeats(
    single: ArrayLike,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    responses: ArrayLike,
    seed: int,
    counts: Sequence[int] | None = None,
    draws: int = 20,
) -> list[RepeatPoint]:
    """How accuracy grows with the number of averaged repeats, beside what the recording's own reliability allows.

    ``single`` [I, R, ...]: what was decoded from single repeats (embeddings, or scores of every candidate);
    ``score``: averages [I, ...] -> accuracy [I]; ``responses`` [I, R, D]: those repeats as recorded. Each point is the
    mean over ``draws`` random choices of repeats. ``counts``: 1, 2, 4, ... and R, if not given. Raises ValueError for
    counts beyond R, fewer than two images or repeats, or numbers that are not finite.
    """
    single, responses = finite(single, "single repeats"), finite(responses, "responses")
    if responses.ndim != 3 or responses.shape[:2] != single.shape[:2]:
        raise ValueError(f"single repeats and responses must agree in [I, R], got {single.shape} and {responses.shape}")
    items, repeats = single.shape[:2]
    counts = counts or sorted({repeats, *(2**n for n in range(repeats.bit_length()) if 2**n <= repeats)})
    if min(counts) < 1 or max(counts) > repeats:
        raise ValueError(f"counts must lie between 1 and the {repeats} repeats that there are, got {list(counts)}")
    rng = np.random.default_rng(seed)
    points = []
    for count in counts:
        accuracy, retest = [], []
        for _ in range(draws if count < repeats else 1):
            order = rng.permuted(np.tile(np.arange(repeats), (items, 1)), axis=1)
            accuracy.append(np.asarray(score(_average(single, order[:, :count])), np.float64))
            if 2 * count <= repeats:
                mine, other = (_average(responses, order[:, at : at + count]) for at in (0, count))
                retest.append(_identified(mine, other))
        reliability = repeat_reliability(responses, repeats=count)
        points.append(
            RepeatPoint(
                repeats=int(count),
                accuracy=bootstrap_interval(np.mean(accuracy, axis=0), seed=seed),
                ceiling=float(np.nanmean(np.sqrt(reliability.clip(0, 1)))),
                retest=float(np.mean(retest)) if retest else float("nan"),
            )
        )
    return points


def _average(single: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[I, R, ...] and the chosen repeats [I, n] of each item -> [I, ...]."""
    return single[np.arange(len(single))[:, None], chosen].mean(1)


def _identified(a: np.ndarray, b: np.ndarray) -> float:
    """Share of rows of ``a`` [I, D] that correlate with their own row of ``b`` [I, D] above all others; ties lose."""
    za, zb = (x - x.mean(0) for x in (a, b))  # what is common to all items identifies none
    correlation = np.corrcoef(za, zb)[: len(a), len(a) :]
    right = np.diagonal(correlation)[:, None]
    return float(((correlation >= right).sum(1) == 1).mean())


def _chunks(draws: int, items: int) -> list[int]:
    """Split the draws so that no index array holds more than about ten million entries."""
    size = max(1, 10_000_000 // items)
    return [min(size, draws - start) for start in range(0, draws, size)]
