"""Noise of full covariance, and the closed-form encoding under spatial windows, against direct formulas."""

import numpy as np
import pytest

from neurobridge.baselines.noise import GaussianNoise
from neurobridge.baselines.windowed_encoding import Window, WindowedEncoding, _KernelFit

GRID, CHANNELS = 4, 3


def local_brain(*, images: int = 160, units: int = 6, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two layers (a map and a vector) and units that read the map's top left corner and the vector."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(images, CHANNELS, GRID, GRID))
    vector = rng.normal(size=(images, 5))
    drive = maps[:, :, :2, :2].reshape(images, -1) @ rng.normal(size=(CHANNELS * 4, units))
    responses = drive / 3 + vector @ rng.normal(size=(5, units)) / 3 + 0.3 * rng.normal(size=(images, units)) + 2
    return [maps.reshape(images, -1), vector], responses


def test_likelihood_is_that_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    noise = GaussianNoise(rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4)))
    observed, expected = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    difference = observed[:, None] - expected
    quadratic = np.einsum("ign,nm,igm->ig", difference, np.linalg.inv(noise.covariance), difference)
    direct = -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * noise.covariance)[1])
    np.testing.assert_allclose(noise.log_likelihood(observed, expected), direct, rtol=1e-9)


def test_one_open_window_equals_ridge_on_the_scaled_features() -> None:
    features, responses = local_brain()
    fit = WindowedEncoding(grids=[GRID, 0], windows=[Window()], penalties=np.array([0.1])).fit(features, responses)
    x = np.hstack([(f - f.mean(0)) / np.sqrt(f.std(0) * f.std(0).sum()) for f in features])
    y = responses - responses.mean(0)
    penalty = 0.1 * (x**2).sum() / len(x)
    ridge = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    want = x @ ridge * fit.stacking[0] + responses.mean(0)
    np.testing.assert_allclose(fit.predict(features), want, atol=2e-3)


def test_leave_one_out_equals_fitting_without_the_row() -> None:
    features, responses = local_brain(images=40)
    x = np.hstack(features)
    x = x - x.mean(0)
    for penalty in (0.05, 1.0):
        fit = _KernelFit.of(x @ x.T, responses, np.array([penalty]))
        alpha = penalty * (x**2).sum() / len(x)
        for row in (0, 17):
            kept = np.arange(len(x)) != row
            inner, center, mean = x[kept] - x[kept].mean(0), x[kept].mean(0), responses[kept].mean(0)
            weights = np.linalg.solve(inner.T @ inner + alpha * np.eye(x.shape[1]), inner.T @ (responses[kept] - mean))
            np.testing.assert_allclose(fit.out_of_fold[row], (x[row] - center) @ weights + mean, rtol=1e-8)


def test_units_choose_the_window_that_holds_their_field() -> None:
    features, responses = local_brain()
    corners = [Window(row=r, column=c, width=0.4) for r in (-0.5, 0.5) for c in (-0.5, 0.5)]
    fit = WindowedEncoding(grids=[GRID, 0], windows=corners).fit(features, responses)
    assert (fit.stacking >= 0).all()
    assert (fit.stacking.argmax(0) == 0).all()
    weights = np.abs(fit.weights[0]).reshape(CHANNELS, GRID, GRID, -1).sum((0, 3))
    assert weights[:2, :2].sum() > 5 * weights[2:, 2:].sum()
    wide = WindowedEncoding(grids=[GRID, 0], windows=[Window()]).fit(features, responses)
    assert fit.held_out_r2.mean() > wide.held_out_r2.mean()


def test_the_likelihood_identifies_held_out_images() -> None:
    features, responses = local_brain(images=260)
    fit = WindowedEncoding(grids=[GRID, 0]).fit([f[:200] for f in features], responses[:200])
    scores = fit.log_likelihood(responses[200:], [f[200:] for f in features])
    assert (scores.argmax(1) == np.arange(60)).mean() > 0.5


def test_constant_features_and_units_are_harmless() -> None:
    features, responses = local_brain()
    features[0][:, 3] = 7.0
    responses[:, 2] = 1.0
    fit = WindowedEncoding(grids=[GRID, 0]).fit(features, responses)
    assert np.isfinite(fit.predict(features)).all()
    np.testing.assert_allclose(fit.predict(features)[:, 2], 1.0, atol=1e-5)
    np.testing.assert_allclose(fit.weights[0][3], 0.0)


@pytest.mark.parametrize("grid", [1, 2, 8])
def test_windows_are_symmetric_and_open_ones_flat(grid: int) -> None:
    power = Window(width=0.5).power(grid).reshape(grid, grid)
    np.testing.assert_allclose(power, power[::-1, ::-1])
    np.testing.assert_allclose(Window().power(grid), 1.0)
    np.testing.assert_allclose(Window(row=0.4, width=0.3).power(0), [1.0])
