"""Baselines without connections between units: mean rate, PSTH, population coupling. Also the smoothing they share.

Shapes: ``W`` windows, ``N`` units, ``T`` bins. Counts [W, N, T] (or one stretch [N, T]); predictions are expected
counts per bin of the same shape. Fitted on the training counts, predicted on the test counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

PSTH_SIGMAS_S = (0.0, 0.003, 0.006, 0.012, 0.025, 0.05, np.inf)
SMOOTHING_S = 0.05  # standard deviation of the Gaussian that turns counts into activity


def as_windows(counts: np.ndarray) -> np.ndarray:
    """Counts [W, N, T] float64 from [W, N, T] or [N, T]. Raises ValueError for other shapes, NaN or negative counts."""
    counts = np.asarray(counts, np.float64)
    counts = counts[None] if counts.ndim == 2 else counts
    if counts.ndim != 3 or not counts.size:
        raise ValueError(f"counts must be [W, N, T] or [N, T] and not empty, got shape {counts.shape}")
    if not np.isfinite(counts).all() or counts.min() < 0:
        raise ValueError("counts must be finite and not negative")
    return counts


def mean_counts(train: np.ndarray) -> np.ndarray:
    """Mean count per bin [N] of windows [W, N, T]; a silent unit gets half a spike over the training data."""
    spikes = train.sum((0, 2))
    return np.maximum(spikes, 0.5) / (train.shape[0] * train.shape[2])


def smooth(counts: np.ndarray, *, bin_s: float, sigma_s: float = SMOOTHING_S) -> np.ndarray:
    """Gaussian-smoothed counts along time within each window [W, N, T], renormalised at the window's edges."""
    if sigma_s <= 0:
        return counts
    sigma = sigma_s / bin_s
    mass = gaussian_filter1d(np.ones(counts.shape[-1]), sigma, mode="constant")
    return gaussian_filter1d(counts, sigma, axis=-1, mode="constant") / mass


def fit_psth(
    train_counts: np.ndarray, *, bin_s: float, sigmas_s: Sequence[float] = PSTH_SIGMAS_S, folds: int = 5
) -> np.ndarray:
    """Stimulus-locked time course [N, T]: the expected count of every unit at every bin of windows [W, N, T].

    The mean over windows, smoothed; infinite smoothing is the mean rate. Each unit takes the width (s) under which
    contiguous blocks of windows, held out in turn, are likeliest. One window at the unit's mean rate is counted in, so
    that no bin is impossible.
    """
    train = as_windows(train_counts)
    block = blocks(len(train), folds)
    sums = np.stack([train[block == k].sum(0) for k in range(folds)])
    return psth_of(sums, np.bincount(block, minlength=folds), bin_s=bin_s, sigmas_s=sigmas_s)


def blocks(windows: int, folds: int = 5) -> np.ndarray:
    """[W]: to which of so many contiguous blocks each window belongs."""
    return np.arange(windows) * folds // windows


def psth_of(
    sums: np.ndarray, windows: np.ndarray, *, bin_s: float, sigmas_s: Sequence[float] = PSTH_SIGMAS_S
) -> np.ndarray:
    """:func:`fit_psth` of counts ``sums`` [F, N, T] over the ``windows`` [F] of each block."""
    counted = windows[:, None, None]
    rest = _course(sums.sum(0) - sums, counted.sum() - counted)
    losses = []
    for sigma in sigmas_s:
        expected = _smooth_course(rest, bin_s, sigma)
        losses.append((counted * expected - sums * np.log(expected)).sum((0, 2)))
    whole = _course(sums.sum(0), int(windows.sum()))
    courses = np.stack([_smooth_course(whole, bin_s, sigma) for sigma in sigmas_s])
    return courses[np.argmin(losses, axis=0), np.arange(sums.shape[1])]


def fit_predict_psth(train_counts: np.ndarray, test_counts: np.ndarray, *, bin_s: float, **options) -> np.ndarray:
    """Each unit's time course (:func:`fit_psth`) in every window: expected counts of the shape of ``test_counts``."""
    return np.broadcast_to(fit_psth(train_counts, bin_s=bin_s, **options), np.shape(test_counts)).copy()


def fit_predict_population_coupling(
    train_counts: np.ndarray,
    test_counts: np.ndarray,
    *,
    bin_s: float,
    units: np.ndarray | None = None,
    sigma_s: float = SMOOTHING_S,
    iterations: int = 25,
) -> np.ndarray:
    """Population coupling: ``exp(b + g log p(t))`` with p the smoothed activity of all *other* units over its mean.

    After Okun et al. 2015 (Nature 521:511). b (starting at the log mean) and g of every unit by Newton's method on the
    Poisson likelihood of the training counts. ``bin_s`` and ``sigma_s`` in seconds. ``units``: those to predict
    (default all). Returns expected counts [W, len(units), T] (or [len(units), T]).
    """
    train, test = as_windows(train_counts), as_windows(test_counts)
    units = np.arange(train.shape[1]) if units is None else np.asarray(units)
    mean = mean_counts(train)
    others = (mean.sum() - mean)[units]
    x_train, x_test = (_log_population(counts, units, others, bin_s, sigma_s) for counts in (train, test))
    train, mean = train[:, units], mean[units]

    base, gain = np.log(mean), np.zeros_like(mean)
    ridge = 1e-3 * mean * train.shape[0] * train.shape[2]  # keeps the gain of near-silent units finite
    for _ in range(iterations):
        residual = train - (rate := np.exp(np.minimum(base[:, None] + gain[:, None] * x_train, 5.0)))
        slope_b, slope_g = residual.sum((0, 2)), (residual * x_train).sum((0, 2)) - ridge * gain
        h_bb, h_bg = rate.sum((0, 2)), (rate * x_train).sum((0, 2))
        h_gg = (rate * x_train**2).sum((0, 2)) + ridge
        determinant = np.maximum(h_bb * h_gg - h_bg**2, 1e-12)
        step_b = (h_gg * slope_b - h_bg * slope_g) / determinant
        step_g = (h_bb * slope_g - h_bg * slope_b) / determinant
        scale = np.minimum(1.0, 1.0 / np.maximum(np.maximum(np.abs(step_b), np.abs(step_g)), 1e-12))
        base, gain = base + scale * step_b, gain + scale * step_g
        if max(np.abs(step_b).max(), np.abs(step_g).max()) < 1e-6:
            break
    ceiling = np.log(np.maximum(train.max((0, 2)), 1.0))[:, None]
    prediction = np.exp(np.minimum(base[:, None] + gain[:, None] * x_test, ceiling))
    return prediction if np.ndim(test_counts) == 3 else prediction[0]


def _course(sums: np.ndarray, windows: np.ndarray | int) -> np.ndarray:
    """Mean counts [..., N, T] from sums over windows, with one window more at the unit's mean (half a spike)."""
    mean = np.maximum(sums.sum(-1, keepdims=True), 0.5) / (windows * sums.shape[-1])
    return (sums + mean) / (windows + 1)


def _smooth_course(course: np.ndarray, bin_s: float, sigma_s: float) -> np.ndarray:
    if np.isinf(sigma_s):
        return np.broadcast_to(course.mean(-1, keepdims=True), course.shape)
    return smooth(course, bin_s=bin_s, sigma_s=sigma_s)


def _log_population(
    counts: np.ndarray, units: np.ndarray, others: np.ndarray, bin_s: float, sigma_s: float
) -> np.ndarray:
    """log p [W, U, T]: the smoothed sum of all units but one of ``units``, over its training mean; 5 % at least."""
    population = counts.sum(1, keepdims=True) - counts[:, units]
    return np.log(
        np.maximum(smooth(population, bin_s=bin_s, sigma_s=sigma_s) / np.maximum(others[:, None], 1e-9), 0.05)
    )
