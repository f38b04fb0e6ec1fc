"""Linear-nonlinear baselines: every unit from the smoothed activity of the others. What a masked model must beat.

Shapes: ``W`` windows, ``N`` units, ``T`` bins, ``K`` = W * T samples, ``A`` penalties. ``visible`` [N, N]: True where
the unit of the row may use the unit of the column.
"""

from __future__ import annotations

import numpy as np

from neurobridge.baselines.rates import SMOOTHING_S, as_windows, mean_counts, smooth

ALPHAS = (1e-3, 1e-2, 1e-1, 1.0)


def fit_predict_glm(
    train_counts: np.ndarray,
    test_counts: np.ndarray,
    *,
    bin_s: float,
    units: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    sigma_s: float = SMOOTHING_S,
    alphas: tuple[float, ...] = ALPHAS,
    max_samples: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Leave-one-out Poisson GLM: ``rate_n(t) = exp(b_n + sum_m w_nm s_m(t))``, m running over the *other* units.

    ``train_counts`` and ``test_counts`` [W, N, T] (or [N, T]); ``s`` is Gaussian-smoothed activity (``sigma_s``,
    seconds, within each window), standardised on the training counts. The penalty of unit n is
    ``alpha * mean_n / 2 * |w|^2`` on the mean NLL (scikit-learn's ``PoissonRegressor`` at ``alpha * mean_n``); each
    unit's alpha is the best of ``alphas`` on the last fifth of the training samples, then it is fitted again on all.
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
    allowed = allowed[units]

    x, x_test = (_samples(smooth(counts, bin_s=bin_s, sigma_s=sigma_s)) for counts in (train, test))
    y = _samples(train[:, units])
    if max_samples is not None and len(x) > max_samples:
        rows = np.sort(np.random.default_rng(seed).choice(len(x), max_samples, replace=False))
        x, y = x[rows], y[rows]
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    x, x_test = (x - centre) / scale, (x_test - centre) / scale
    mean = mean_counts(train)[units]

    fit = slice(0, max(1, len(x) * 4 // 5))
    held = slice(fit.stop, None) if len(x) > 1 else fit
    best, choice, start = np.full(len(units), np.inf), np.full(len(units), alphas[-1]), None
    for alpha in sorted(alphas, reverse=True):
        start = _fit(x[fit], y[fit], alpha * mean, mean, allowed, start, tolerance=1e-3)
        eta = np.minimum(start[0] + x[held] @ start[1].T, 5.0)
        loss = (np.exp(eta) - y[held] * eta).mean(0)
        choice, best = np.where(loss < best, alpha, choice), np.minimum(loss, best)
    bias, weights = _fit(x, y, choice * mean, mean, allowed, start, tolerance=1e-5)

    ceiling = np.log(np.maximum(y.max(0), 1.0))
    rates = np.exp(np.minimum(bias + x_test @ weights.T, ceiling))
    prediction = rates.reshape(test.shape[0], test.shape[2], len(units)).transpose(0, 2, 1)
    return prediction if np.ndim(test_counts) == 3 else prediction[0]


def fit_predict_reduced_rank(
    train_counts: np.ndarray,
    test_counts: np.ndarray,
    *,
    bin_s: float,
    held_out: np.ndarray,
    rank: int = 10,
    alpha: float = 1e-2,
    sigma_s: float = SMOOTHING_S,
) -> np.ndarray:
    """Reduced-rank ridge regression (Izenman 1975) from the smoothed activity of the held-in units to held-out counts.

    ``held_out`` [M] indices of the units to predict from all others; ``alpha`` times the number of samples is the
    ridge. Linear predictions are floored at a tenth of the unit's mean. Returns expected counts [W, M, T] (or [M, T]).
    """
    train, test = as_windows(train_counts), as_windows(test_counts)
    held_out = np.asarray(held_out)
    held_in = np.setdiff1d(np.arange(train.shape[1]), held_out)
    if not len(held_in) or not len(held_out):
        raise ValueError("reduced-rank regression needs at least one unit held in and one held out")
    x, x_test = (_samples(smooth(counts[:, held_in], bin_s=bin_s, sigma_s=sigma_s)) for counts in (train, test))
    y = _samples(train[:, held_out])
    centre, scale = x.mean(0), np.maximum(x.std(0), 1e-9)
    x, x_test, offset = (x - centre) / scale, (x_test - centre) / scale, y.mean(0)
    spread = np.sqrt(np.maximum(offset, 1e-9))  # Poisson: variance = mean

    target = (y - offset) / spread
    gram = x.T @ x + alpha * len(x) * np.eye(x.shape[1])
    full = np.linalg.solve(gram, x.T @ target)
    _, basis = np.linalg.eigh(full.T @ gram @ full)
    basis = basis[:, -rank:]
    rates = x_test @ (full @ basis @ basis.T) * spread + offset
    rates = np.maximum(rates, 0.1 * mean_counts(train)[held_out])
    prediction = rates.reshape(test.shape[0], test.shape[2], len(held_out)).transpose(0, 2, 1)
    return prediction if np.ndim(test_counts) == 3 else prediction[0]


def _samples(windows: np.ndarray) -> np.ndarray:
    """[W, N, T] -> [W * T, N], in order of time."""
    return np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(-1, windows.shape[1])


def _fit(
    x: np.ndarray,
    y: np.ndarray,
    penalty: np.ndarray,
    mean: np.ndarray,
    allowed: np.ndarray,
    start: tuple[np.ndarray, np.ndarray] | None,
    *,
    curvature_samples: int = 8000,
    steps: int = 30,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Penalised Poisson regressions of all units at once: biases [U] and weights [U, N].

    Newton steps: gradients from all K samples (one matrix product for all units), each unit's Hessian from at most
    ``curvature_samples`` of them, refreshed while the step is large; a unit's step is halved until its loss falls.
    Units whose expected gain is below ``tolerance`` nats a spike leave the loop; a unit without a spike keeps its floor
    and no weights.
    """
    outputs, inputs = len(mean), x.shape[1]
    bias, weights = (np.log(mean), np.zeros((outputs, inputs))) if start is None else (start[0].copy(), start[1].copy())
    sub = x[:: max(1, len(x) // curvature_samples)]
    free = np.concatenate([np.ones((outputs, 1), bool), allowed], 1)
    inverse: dict[int, np.ndarray] = {}

    def loss(units: np.ndarray, bias: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        eta = np.minimum(bias + x @ weights.T, 5.0)
        rate = np.exp(eta)
        return (rate - y[:, units] * eta).mean(0) + penalty[units] / 2 * (weights**2).sum(1), rate

    active = np.flatnonzero(y.any(0))
    value, rate = loss(active, bias[active], weights[active])
    for step in range(steps):
        residual = (rate - y[:, active]) / len(x)
        slope = np.concatenate([residual.sum(0)[:, None], residual.T @ x + penalty[active, None] * weights[active]], 1)
        slope = slope * free[active]
        if step < 3 or step % 5 == 0:
            inverse = {u: _inverse_hessian(sub, bias[u], weights[u], penalty[u], free[u]) for u in active.tolist()}
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


def _inverse_hessian(x: np.ndarray, bias: float, weights: np.ndarray, penalty: float, free: np.ndarray) -> np.ndarray:
    """Inverse [1 + N, 1 + N] of the Hessian of one unit's mean loss over its free parameters, zero elsewhere."""
    rate = np.exp(np.minimum(bias + x @ weights, 5.0)) / len(x)
    weighted = x * rate[:, None]
    hessian = np.empty((len(free), len(free)))
    hessian[0, 0], hessian[0, 1:], hessian[1:, 0] = rate.sum(), weighted.sum(0), weighted.sum(0)
    hessian[1:, 1:] = weighted.T @ x
    hessian[np.diag_indices(len(free))] += np.concatenate([[1e-9], np.full(x.shape[1], penalty + 1e-9)])
    index = np.flatnonzero(free)
    inverse = np.zeros_like(hessian)
    inverse[np.ix_(index, index)] = np.linalg.inv(hessian[np.ix_(index, index)])
    return inverse
