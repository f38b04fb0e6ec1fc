"""Linear-nonlinear baselines: every unit from the smoothed activity of the others. What a masked model must beat.

Shapes: ``W`` windows, ``N`` units, ``T`` bins, ``K`` = W * T samples, ``A`` penalties. ``visible`` [N, N]: True where
the unit of the row may use the unit of the column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurobridge.baselines.rates import as_windows, fit_psth, mean_counts, smooth

ALPHAS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
SIGMAS_S = (0.02, 0.05, 0.2)
PSTH_ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0)
PSTH_SIGMAS_S = (0.05, 0.3)
ROUGH = {"curvature_samples": 2000, "refresh": 3, "tolerance": 1e-3}  # enough to choose a penalty by


def fit_predict_glm(
    train_counts: np.ndarray,
    test_counts: np.ndarray,
    *,
    bin_s: float,
    units: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    time_course: np.ndarray | None = None,
    sigmas_s: Sequence[float] = SIGMAS_S,
    lags_s: Sequence[Sequence[float]] = ((0.0,),),
    alphas: Sequence[float] = ALPHAS,
    folds: int = 3,
    max_samples: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Leave-one-out Poisson GLM: ``rate_n(t) = exp(b_n + sum_ml w_nml s_m(t + l))``, m running over the *other* units.

    ``train_counts`` and ``test_counts`` [W, N, T] (or [N, T]); ``s`` is Gaussian-smoothed activity within each window,
    at one or several lags (s; an edge's value goes on beyond it), standardised on the training counts. The penalty is
    ``alpha * mean_n / 2 * |w|^2`` on unit n's mean NLL (scikit-learn's ``PoissonRegressor`` at ``alpha * mean_n``).
    Each unit takes the smoothing of ``sigmas_s``, the lags of ``lags_s`` and the penalty of ``alphas`` that are best on
    ``folds`` contiguous blocks of the training samples held out in turn; then it is fitted again on all.
    ``time_course``: expected counts [len(units), T] of every predicted unit, whose log is added to its log rate; the
    other units' activity is then taken around its own mean at each bin of the window.
    ``units``: the units to predict (default all). ``visible`` [N, N] narrows the predictors (intra-, inter-region,
    held-in units); a unit never sees itself. ``max_samples`` draws that many training samples at random when there
    are more: say so where the number is shown. Returns expected counts [W, len(units), T] (or [len(units), T]).
    """
    train, test = as_windows(train_counts), as_windows(test_counts)
    number = train.shape[1]
    units = np.arange(number) if units is None else np.asarray(units)
    allowed = (
        ~np.eye(number, dtype=bool) if visible is None else np.asarray(visible, bool) & ~np.eye(number, dtype=bool)
    )
    if allowed.shape != (number, number):
        raise ValueError(f"visible must be [{number}, {number}], got {allowed.shape}")
    y = _samples(train[:, units])
    if time_course is None:
        offset, offset_test = np.zeros(y.shape), np.zeros((1, len(units)))
    elif (course := np.asarray(time_course, np.float64)).shape != y[0].shape + train.shape[2:] or course.min() <= 0:
        raise ValueError(f"a time course is [{len(units)}, {train.shape[2]}] and above 0, got {course.shape}")
    else:
        offset, offset_test = (np.log(np.tile(course.T, (len(counts), 1))) for counts in (train, test))
    rows = np.arange(len(y))
    if max_samples is not None and len(rows) > max_samples:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), max_samples, replace=False))
    block = rows * folds // len(y)
    y, offset = y[rows], offset[rows]
    mean = mean_counts(train)[units]
    level = np.log(mean * len(rows) / np.exp(offset).sum(0))  # what makes the null's total right

    choices = [(sigma, tuple(lags)) for sigma in sigmas_s for lags in lags_s]
    best, choice, penalty = np.full(len(units), np.inf), np.zeros(len(units), int), np.full(len(units), max(alphas))
    for candidate, (sigma, lags) in enumerate(choices if len(choices) * len(alphas) > 1 else ()):
        x, _ = _inputs(train, test, bin_s, sigma, lags, time_course is not None)
        x, free, losses = x[rows], np.tile(allowed[units], len(lags)), np.zeros((len(alphas), len(units)))
        for held in (block == k for k in range(folds)):
            inside, outside = ((x[part], y[part], offset[part]) for part in (~held, held))
            fitted = level, np.zeros(free.shape)
            for which in np.argsort(alphas)[::-1]:
                fitted = _fit(*inside, alphas[which] * mean, mean, free, fitted, **ROUGH)
                losses[which] += _losses(*outside, *fitted)
        better = losses.min(0) < best
        choice[better], penalty[better] = candidate, np.asarray(alphas)[losses.argmin(0)][better]
        best = np.minimum(best, losses.min(0))

    ceiling = np.log(np.maximum(y.max(0), 1.0))
    rates = np.empty((test.shape[0] * test.shape[2], len(units)))
    for candidate in np.unique(choice).tolist():
        (sigma, lags), some = choices[candidate], np.flatnonzero(choice == candidate)
        x, x_test = _inputs(train, test, bin_s, sigma, lags, time_course is not None)
        free = np.tile(allowed[units[some]], len(lags))
        start = level[some], np.zeros(free.shape)
        bias, weights = _fit(
            x[rows], y[:, some], offset[:, some], (penalty * mean)[some], mean[some], free, start, tolerance=1e-5
        )
        rates[:, some] = np.exp(np.minimum(offset_test[:, some] + bias + x_test @ weights.T, ceiling[some]))
    prediction = rates.reshape(test.shape[0], test.shape[2], len(units)).transpose(0, 2, 1)
    return prediction if np.ndim(test_counts) == 3 else prediction[0]


def fit_predict_psth_glm(
    train_counts: np.ndarray,
    test_counts: np.ndarray,
    *,
    bin_s: float,
    units: np.ndarray,
    sigmas_s: Sequence[float] = PSTH_SIGMAS_S,
    alphas: Sequence[float] = PSTH_ALPHAS,
    **options,
) -> np.ndarray:
    """PSTH x GLM: each unit's stimulus-locked time course (:func:`fit_psth`) times what the other units add to it.

    For windows [W, N, T] that all begin at the same time from stimulus onset. ``options``: :func:`fit_predict_glm`.
    """
    course = fit_psth(np.asarray(train_counts)[:, units], bin_s=bin_s)
    return fit_predict_glm(
        train_counts, test_counts, bin_s=bin_s, units=units, time_course=course,
        sigmas_s=sigmas_s, alphas=alphas, **options,
    )  # fmt: skip


def _samples(windows: np.ndarray) -> np.ndarray:
    """[W, N, T] -> [W * T, N], in order of time."""
    return np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(-1, windows.shape[1])


def _inputs(
    train: np.ndarray, test: np.ndarray, bin_s: float, sigma_s: float, lags_s: Sequence[float], centred: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed activity [K, lags * N] of training and test windows, standardised on the training windows.

    ``centred``: around its mean over training windows at each bin.
    """
    x, x_test = (smooth(counts, bin_s=bin_s, sigma_s=sigma_s) for counts in (train, test))
    if centred:
        course = x.mean(0)
        x, x_test = x - course, x_test - course
    x, x_test = (
        _samples(np.concatenate([_later(activity, round(lag / bin_s)) for lag in lags_s], axis=1))
        for activity in (x, x_test)
    )
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    return (x - mean) / scale, (x_test - mean) / scale


def _later(activity: np.ndarray, bins: int) -> np.ndarray:
    """[W, N, T] as it is ``bins`` bins later; an edge goes on."""
    at = np.arange(activity.shape[2]) + bins
    return activity[:, :, np.clip(at, 0, len(at) - 1)]


def _losses(x: np.ndarray, y: np.ndarray, offset: np.ndarray, bias: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Poisson NLL [U] of counts ``y`` [K, U], without its constant."""
    eta = np.minimum(offset + bias + x @ weights.T, 5.0)
    return (np.exp(eta) - y * eta).sum(0)


def _fit(
    x: np.ndarray,
    y: np.ndarray,
    offset: np.ndarray,
    penalty: np.ndarray,
    mean: np.ndarray,
    allowed: np.ndarray,
    start: tuple[np.ndarray, np.ndarray],
    *,
    curvature_samples: int = 8000,
    steps: int = 30,
    refresh: int = 5,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Penalised Poisson regressions of all units at once: biases [U] and weights [U, N].

    ``offset`` [K, U] is added to the log rates; ``start``: biases and weights to begin with. Newton steps: gradients
    from all K samples (one matrix product for all units), each unit's Hessian from at most ``curvature_samples`` of
    them, refreshed at the first steps and every ``refresh``; a unit's step is halved until its loss falls. Units whose
    expected gain is below ``tolerance`` nats a spike leave the loop; a unit without a spike keeps its floor and no
    weights.
    """
    bias, weights = start[0].copy(), start[1].copy()
    some = slice(None, None, max(1, len(x) // curvature_samples))
    sub, sub_offset = x[some], offset[some]
    free = np.concatenate([np.ones((len(mean), 1), bool), allowed], 1)
    inverse: dict[int, np.ndarray] = {}

    def loss(units: np.ndarray, bias: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        eta = np.minimum(offset[:, units] + bias + x @ weights.T, 5.0)
        rate = np.exp(eta)
        return (rate - y[:, units] * eta).mean(0) + penalty[units] / 2 * (weights**2).sum(1), rate

    active = np.flatnonzero(y.any(0))
    if not len(active):
        return bias, weights
    value, rate = loss(active, bias[active], weights[active])
    for step in range(steps):
        residual = (rate - y[:, active]) / len(x)
        slope = np.concatenate([residual.sum(0)[:, None], residual.T @ x + penalty[active, None] * weights[active]], 1)
        slope = slope * free[active]
        if step % refresh == 0 or (refresh > 3 and step < 3):
            inverse = {
                u: _inverse_hessian(sub, sub_offset[:, u] + bias[u], weights[u], penalty[u], free[u])
                for u in active.tolist()
            }
        move = np.stack([inverse[u] @ g for u, g in zip(active.tolist(), slope, strict=True)])
        decrease = (move * slope).sum(1)
        if not (going := decrease > tolerance * mean[active]).any():
            break
        active, value, move, decrease = active[going], value[going], move[going], decrease[going]

        size = np.minimum(1.0, 4.0 / np.maximum(np.abs(move).max(1), 1e-12))
        for _ in range(8):
            trial = bias[active] - size * move[:, 0], weights[active] - size[:, None] * move[:, 1:]
            new, rate = loss(active, *trial)
            if not (worse := new > value - 1e-4 * size * decrease).any():
                break
            size = np.where(worse, size / 2, size)
        kept = new <= value
        active, value, rate = active[kept], new[kept], rate[:, kept]
        bias[active], weights[active] = trial[0][kept], trial[1][kept]
        if not len(active):
            break
    return bias, weights


def _inverse_hessian(
    x: np.ndarray, base: np.ndarray, weights: np.ndarray, penalty: float, free: np.ndarray
) -> np.ndarray:
    """Inverse [1 + N, 1 + N] of the Hessian of one unit's mean loss over its free parameters, zero elsewhere."""
    rate = np.exp(np.minimum(base + x @ weights, 5.0)) / len(x)
    weighted = x * rate[:, None]
    hessian = np.empty((len(free), len(free)))
    hessian[0, 0], hessian[0, 1:], hessian[1:, 0] = rate.sum(), weighted.sum(0), weighted.sum(0)
    hessian[1:, 1:] = weighted.T @ x
    hessian[np.diag_indices(len(free))] += np.concatenate([[1e-9], np.full(x.shape[1], penalty + 1e-9)])
    index = np.flatnonzero(free)
    inverse = np.zeros_like(hessian)
    inverse[np.ix_(index, index)] = np.linalg.inv(hessian[np.ix_(index, index)])
    return inverse
