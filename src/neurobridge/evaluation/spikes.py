"""How well predicted rates explain spikes (or signal values), by the field's exact definitions.

Shapes: ``W`` windows (any number of leading axes, also none), ``N`` units, ``T`` bins, ``I`` images, ``R`` repeats.
Predictions are *expected counts per bin*, never Hz and never log rates. ``mask``: True = scored.
Cells whose count is NaN are never scored; NaN predictions and infinite numbers are refused (ValueError).

Two names for two formulas: ``bits_per_spike`` is pooled over units (Neural Latents Benchmark, Pei et al. 2021,
arXiv:2109.04463, eq. 2); ``bits_per_spike_per_neuron`` scores every unit by itself, and its ``nanmean`` is what
MtM (Zhang et al. 2024, arXiv:2407.14668) and NEDS report.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlogy

from neurobridge.evaluation.controls import Interval, bootstrap_interval
from neurobridge.evaluation.controls import spearman_brown as carried
from neurobridge.evaluation.inputs import centred, divide

ZERO_RATE = 1e-9  # the value that stands for a rate of zero, as in the NLB evaluation


def bits_per_spike(rates: ArrayLike, counts: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Pooled bits per spike: ``(NLL_null - NLL_model) / spikes / ln 2`` over all scored cells of all units.

    ``rates`` [..., N, T] expected counts per bin, ``counts`` the same shape, ``mask`` the same shape, boolean. The null
    is each unit's mean count over its *scored* cells. Silent units stay in, as in NLB;
    ``ibl-bwb-eval`` leaves them out: its number is this one over the units that fired.
    Raises ValueError for unequal shapes, negative or not finite rates, infinite counts, nothing scored, or no spike
    among the scored cells.
    """
    rates, counts, scored = _cells(rates, counts, mask)
    model, null, spikes = _likelihoods(rates, counts, scored)
    if spikes.sum() == 0:
        raise ValueError("bits per spike is undefined: there is no spike among the scored cells")
    return float((null.sum() - model.sum()) / spikes.sum() / np.log(2))


def bits_per_spike_per_neuron(rates: ArrayLike, counts: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """Bits per spike [N] of every unit by itself; NaN for a unit without a spike among its scored cells.

    Arguments and errors as :func:`bits_per_spike`. Report ``np.nanmean`` of it, under this name.
    """
    model, null, spikes = _likelihoods(*_cells(rates, counts, mask))
    return divide(null - model, spikes) / np.log(2)


def bits_per_spike_interval(
    rates: ArrayLike,
    counts: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    null: ArrayLike | None = None,
    seed: int,
    draws: int = 2000,
) -> Interval:
    """:func:`bits_per_spike` with its bootstrap interval over units, over the mean rate or over another prediction.

    ``null``: expected counts of the shape of ``rates``: a time course (bits/spike over the PSTH), or a rival; since the
    units are the same, its interval is then that of the paired difference of the two scores. Units are drawn with
    their spikes; one that never fired is in as well. Errors as :func:`bits_per_spike`.
    """
    cells = _cells(rates, counts, mask)
    model, mean_rate, spikes = _likelihoods(*cells)
    if spikes.sum() == 0:
        raise ValueError("bits per spike is undefined: there is no spike among the scored cells")
    base = mean_rate if null is None else _likelihoods(*_cells(null, counts, mask))[0]
    drawn = np.random.default_rng(seed).integers(len(spikes), size=(draws, len(spikes)))
    ratios = divide((base - model)[drawn].sum(1), spikes[drawn].sum(1)) / np.log(2)
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return Interval(float((base - model).sum() / spikes.sum() / np.log(2)), float(low), float(high))


def poisson_d2(rates: ArrayLike, counts: ArrayLike, mask: ArrayLike | None = None, *, clip: bool = True) -> float:
    """Poisson D2, the share of the null's deviance that is explained: mean over units of ``1 - D_model / D_null``.

    The definition of IBL BrainWideBench (``ibl-bwb-eval``): units without a scored spike, or whose null is already
    perfect, are left out. ``clip`` sets a unit that is worse than its mean to 0, so that one bad unit cannot swamp the
    mean; ``clip=False`` is the raw score of ``ibl-bwb-eval`` 0.1.0, which clips means of sessions only.
    Shapes and errors as :func:`bits_per_spike`.
    """
    rates, counts, scored = _cells(rates, counts, mask)
    model, null, spikes = _likelihoods(rates, counts, scored)
    counts = np.where(scored, counts, 0.0)
    saturated = (counts - xlogy(counts, counts) + gammaln(counts + 1)).sum(1)
    deviance = null - saturated
    valid = (spikes > 0) & (np.abs(deviance) >= ZERO_RATE)
    if not valid.any():
        raise ValueError("Poisson D2 is undefined: no unit has a varying count among the scored cells")
    scores = 1 - (model - saturated)[valid] / deviance[valid]
    return float((np.clip(scores, 0, 1) if clip else scores).mean())


def gaussian_r2_per_unit(prediction: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """R2 [N] of value signals (calcium, averaged counts) against each unit's mean over its scored cells.

    ``prediction`` and ``values`` [..., N, T]. NaN for a unit whose scored values do not vary (or has none).
    The unit of the signal does not matter. Raises ValueError for unequal shapes, predictions that are not finite,
    infinite values, or nothing scored.
    """
    prediction, values, scored = _cells(prediction, values, mask, nonnegative=False)
    return r2(prediction, values, scored, axis=1)


def r2(prediction: np.ndarray, values: np.ndarray, scored: np.ndarray | bool = True, *, axis: int) -> np.ndarray:
    """1 - residual / total sum of squares over the ``scored`` cells along ``axis``; NaN where values do not vary."""
    deviation, unit = centred(values, scored, axis=axis)
    residual = np.where(scored, (values - prediction) / unit, 0.0)
    constant = np.isnan(unit).all(axis=axis)
    return np.where(constant, np.nan, 1 - divide((residual**2).sum(axis), (deviation**2).sum(axis)))


def gaussian_r2(prediction: ArrayLike, values: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean over units of :func:`gaussian_r2_per_unit`, units whose scored values do not vary left out."""
    scores = gaussian_r2_per_unit(prediction, values, mask)
    if np.isnan(scores).all():
        raise ValueError("R2 is undefined: no unit has varying values among the scored cells")
    return float(np.nanmean(scores))


def gaussian_r2_interval(
    prediction: ArrayLike, values: ArrayLike, *, null: ArrayLike | None = None, seed: int
) -> Interval:
    """:func:`gaussian_r2` with its bootstrap interval over units; with ``null`` the gain in R2 over that prediction."""
    scores = gaussian_r2_per_unit(prediction, values)
    scores = scores if null is None else scores - gaussian_r2_per_unit(null, values)
    return bootstrap_interval(scores[~np.isnan(scores)], seed=seed)


def psth_r2(rates: ArrayLike, counts: ArrayLike, conditions: ArrayLike) -> float:
    """Mean over units of :func:`psth_r2_per_unit` (NLB's score), units whose histogram does not vary left out.

    Raises ValueError if none varies, and as there.
    """
    scores = psth_r2_per_unit(rates, counts, conditions)
    if np.isnan(scores).all():
        raise ValueError("R2 is undefined: no unit has a varying histogram")
    return float(np.nanmean(scores))


def psth_r2_per_unit(rates: ArrayLike, counts: ArrayLike, conditions: ArrayLike) -> np.ndarray:
    """R2 [N] between predicted and measured peristimulus time histograms.

    ``rates`` and ``counts`` [W, N, T], ``conditions`` [W] the condition (image) of each window. Windows of one
    condition are averaged (cells whose count is NaN left out of both); R2 runs over condition x time. NaN for a unit
    whose measured histogram does not vary. Raises ValueError for unequal shapes, rates that are not finite, infinite
    counts, or nothing scored.
    """
    shapes = np.shape(rates), np.shape(counts), np.shape(conditions)
    if shapes[0] != shapes[1] or len(shapes[0]) != 3 or shapes[2] != shapes[0][:1]:
        raise ValueError(
            f"psth_r2 takes rates and counts [W, N, T] and conditions [W], got {shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    _, index = np.unique(np.asarray(conditions), return_inverse=True)
    cells = (x.reshape(len(x), len(index), -1) for x in _cells(rates, counts, None, nonnegative=False))
    predicted, measured, scored = (
        np.stack([x[:, index == c].sum(1) for c in range(index.max() + 1)], axis=1).reshape(len(x), -1) for x in cells
    )
    return r2(divide(predicted, scored), divide(measured, scored, empty=0.0), scored > 0, axis=1)


def fano_factor(counts: ArrayLike) -> np.ndarray:
    """Fano factor [N] of spike counts [I, R, N]: variance over repeats (ddof 1) / mean, averaged over images.

    NaN repeats are skipped; images to which a unit never fired, or with fewer than two repeats, are left out (NaN for
    a unit with none left).
    """
    counts = _repeats(counts)
    number = (~np.isnan(counts)).sum(1)
    mean = divide(np.nansum(counts, axis=1), number)
    variance = divide(np.nansum((counts - mean[:, None]) ** 2, axis=1), np.maximum(number - 1, 0))
    ratio = divide(variance, mean)
    valid = ~np.isnan(ratio)
    return divide(np.where(valid, ratio, 0).sum(0), valid.sum(0))


def split_half_reliability(
    counts: ArrayLike, *, seed: int, splits: int = 100, spearman_brown: bool = True
) -> np.ndarray:
    """Split-half reliability [N] of responses [I, R, N]: Pearson over images between means of two random halves.

    Averaged over ``splits`` random halvings of the repeats, then corrected to the full number of repeats by
    Spearman-Brown ``2 r / (1 + r)`` if asked. NaN repeats are skipped; images without a valid repeat in both halves
    are left out. NaN for a unit whose means do not vary. Raises ValueError with fewer than two repeats.
    """
    counts = _repeats(counts)
    if counts.shape[1] < 2:
        raise ValueError(f"split-half reliability needs at least two repeats of an image, got {counts.shape[1]}")
    rng, half = np.random.default_rng(seed), counts.shape[1] // 2
    total, number = np.zeros(counts.shape[2]), np.zeros(counts.shape[2])
    for _ in range(splits):
        order = rng.permutation(counts.shape[1])
        first, second = _nanmean(counts[:, order[:half]]), _nanmean(counts[:, order[half : 2 * half]])
        valid = ~np.isnan(first) & ~np.isnan(second)
        r = _pearson(first, second, valid)
        total, number = total + np.nan_to_num(r), number + ~np.isnan(r)
    r = divide(total, number)
    return carried(r, 2) if spearman_brown else r


def _cells(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None, *, nonnegative: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction, target and scored cells as [N, W * T]; cells that are not scored are made harmless (0)."""
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    if prediction.shape != target.shape or target.ndim < 2:
        raise ValueError(
            f"prediction and target must have one shape [..., N, T], got {prediction.shape} and {target.shape}"
        )
    scored = ~np.isnan(target)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != target.shape or mask.dtype != bool:
            raise ValueError(
                f"mask must be boolean with the shape of the counts {target.shape}, got {mask.dtype} {mask.shape}"
            )
        scored = scored & mask
    if not scored.any():
        raise ValueError("nothing to score: the mask is empty, or every count under it is NaN")
    if np.isnan(prediction[scored]).any():
        raise ValueError("the prediction is NaN in a scored cell")
    if np.isinf(prediction[scored]).any() or np.isinf(target[scored]).any():
        raise ValueError("a prediction or a count is infinite in a scored cell")
    if nonnegative and ((prediction[scored] < 0).any() or (target[scored] < 0).any()):
        raise ValueError("rates and counts must not be negative: pass expected counts per bin, not log rates")
    prediction, target = np.where(scored, prediction, 0), np.where(scored, target, 0)

    def units_first(cells: np.ndarray) -> np.ndarray:
        return np.moveaxis(cells, -2, 0).reshape(cells.shape[-2], -1)

    return units_first(prediction), units_first(target), units_first(scored)


def _likelihoods(
    rates: np.ndarray, counts: np.ndarray, scored: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson NLL of the model and of the null, and the spikes: each [N], over scored cells."""
    spikes = np.where(scored, counts, 0).sum(1)
    null = divide(spikes, scored.sum(1))[:, None]

    def nll(rate: np.ndarray) -> np.ndarray:
        rate = np.where(rate == 0, ZERO_RATE, rate)
        return np.where(scored, rate - counts * np.log(rate) + gammaln(counts + 1), 0).sum(1)

    return nll(rates), nll(np.where(scored, null, 1.0)), spikes


def _repeats(counts: ArrayLike) -> np.ndarray:
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 3:
        raise ValueError(f"responses to repeated images must be [I, R, N], got shape {counts.shape}")
    if np.isinf(counts).any():
        raise ValueError("responses must not be infinite (NaN: a repeat that is missing)")
    return counts


def _nanmean(a_IRN: np.ndarray) -> np.ndarray:
    return divide(np.nansum(a_IRN, axis=1), (~np.isnan(a_IRN)).sum(1))


def _pearson(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Pearson over the rows [I] of a and b [I, N] where ``valid``: [N], NaN where one does not vary."""
    (a, of_a), (b, of_b) = (centred(x, valid, axis=0) for x in (a, b))
    constant = np.isnan(of_a + of_b)[0]
    return np.where(constant, np.nan, divide((a * b).sum(0), np.sqrt((a**2).sum(0) * (b**2).sum(0))))
