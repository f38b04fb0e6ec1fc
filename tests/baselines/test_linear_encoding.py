"""Ridge, the linear encoding model and its likelihood, on data whose answer is known."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from neurobridge.baselines.linear_encoding import LinearEncoding, library_posterior_mean, stacking_weights
from neurobridge.baselines.noise import GaussianNoise
from neurobridge.baselines.ridge import RidgeDecoder, RidgePath, ridge


def linear_brain(*, images: int = 400, inputs: int = 30, units: int = 12, noise: float = 0.5, seed: int = 0):
    """Features [I, F], responses [I, N] = linear + correlated noise, and the noise covariance [N, N]."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(images, inputs)) * rng.uniform(0.5, 2.0, inputs) + rng.normal(size=inputs)
    mixing = rng.normal(size=(units, 2))
    covariance = noise**2 * (np.eye(units) + mixing @ mixing.T)
    responses = features @ rng.normal(size=(inputs, units)) / np.sqrt(inputs) + 3.0
    return features, responses + rng.multivariate_normal(np.zeros(units), covariance, images), covariance


@pytest.mark.parametrize("inputs", [20, 90], ids=["more rows than inputs", "more inputs than rows"])
def test_ridge_equals_scikit_learn(inputs: int) -> None:
    x, y, _ = linear_brain(images=60, inputs=inputs)
    fit = ridge(x, y, alphas=np.array([7.0]))
    z = (x - x.mean(0)) / x.std(0)
    reference = Ridge(alpha=7.0).fit(z, y)
    np.testing.assert_allclose(fit.weights.T, reference.coef_, atol=1e-9)
    np.testing.assert_allclose(fit.predict(x), reference.predict(z), atol=1e-9)


def test_out_of_fold_predictions_do_not_see_their_row() -> None:
    x, y, _ = linear_brain(images=60)
    before = ridge(x, y, alphas=np.array([3.0])).out_of_fold
    changed = y.copy()
    changed[17] += 100.0
    after = ridge(x, changed, alphas=np.array([3.0])).out_of_fold
    np.testing.assert_allclose(after[17], before[17])
    assert not np.allclose(after[18:], before[18:])


@pytest.mark.parametrize("blocks", [False, True])
def test_folds_of_one_pass_are_those_fitted_one_by_one(monkeypatch, blocks: bool) -> None:
    """Also for float16 inputs far from zero, rows read a few at a time, and an input that varies in one row alone."""
    monkeypatch.setattr("neurobridge.baselines.ridge.ROWS_AT_ONCE", 7)
    x, y, _ = linear_brain(images=90, inputs=12)
    x = (x * 5 + 100).astype(np.float16)
    x[:, 3], x[:, 4] = 2.0, 0.0
    x[17, 4] = 1.0
    found = ridge(x, y, alphas=np.array([3.0, 50.0]), folds=5, blocks=blocks, per_target=True)
    fold = np.arange(90) * 5 // 90 if blocks else np.random.default_rng(0).permutation(90) % 5
    one_by_one = np.empty((2, *y.shape))
    for k in range(5):
        path = RidgePath.of(x[fold != k], y[fold != k])
        one_by_one[:, fold == k] = path.predict(x[fold == k].astype(np.float64), np.array([3.0, 50.0]))
    chosen = ((one_by_one - y) ** 2).mean(1).argmin(0)
    np.testing.assert_array_equal(found.alphas, np.array([3.0, 50.0])[chosen])
    expected = one_by_one[chosen, :, np.arange(y.shape[1])].T
    np.testing.assert_allclose(found.out_of_fold, expected, atol=1e-9)


def test_penalty_is_chosen_by_cross_validation() -> None:
    x, y, _ = linear_brain(images=300, noise=0.01)
    pure_noise = np.random.default_rng(1).normal(size=(300, 1))
    fit = ridge(x, np.hstack([y, pure_noise]), alphas=np.logspace(-2, 6, 9), per_target=True)
    assert fit.alphas[:-1].max() <= 1.0
    assert fit.alphas[-1] >= 1e3
    assert len(set(ridge(x, y, alphas=np.logspace(-2, 6, 9)).alphas.tolist())) == 1


def test_constant_inputs_and_targets_are_harmless() -> None:
    x, y, _ = linear_brain(images=50)
    x[:, 3] = 2.0
    y[:, 1] = 5.0
    fit = ridge(x, y, per_target=True)
    assert np.isfinite(fit.weights).all()
    np.testing.assert_allclose(fit.weights[3], 0.0, atol=1e-12)
    np.testing.assert_allclose(fit.predict(x)[:, 1], 5.0, atol=1e-6)


def test_ridge_decoder_recovers_the_features() -> None:
    features, responses, _ = linear_brain(inputs=5, units=40, noise=0.1)
    predicted = RidgeDecoder().fit(responses[:300], features[:300]).predict(responses[300:])
    residual = ((predicted - features[300:]) ** 2).sum() / ((features[300:] - features.mean(0)) ** 2).sum()
    assert residual < 0.1


def test_noise_covariance_and_likelihood_are_those_of_the_data() -> None:
    features, responses, covariance = linear_brain(images=1500)
    model = LinearEncoding().fit(features[:1400], responses[:1400])
    np.testing.assert_allclose(model.noise.covariance, covariance, atol=0.25 * covariance.max())
    likelihood = model.log_likelihood(responses[1400:], features[1400:])
    assert (likelihood.argmax(1) == np.arange(100)).mean() > 0.6
    residual = responses[1400] - model.predict(features[1400:1405])
    direct = [
        -0.5
        * (r @ np.linalg.solve(model.noise.covariance, r) + np.linalg.slogdet(2 * np.pi * model.noise.covariance)[1])
        for r in residual
    ]
    np.testing.assert_allclose(likelihood[0, :5], direct, rtol=1e-9)


def test_stacking_prefers_the_layer_that_carries_the_signal() -> None:
    features, responses, _ = linear_brain()
    nuisance = np.random.default_rng(5).normal(size=(len(features), 25))
    model = LinearEncoding().fit([nuisance, features], responses)
    assert (model.stacking >= 0).all()
    assert model.stacking[1].mean() > 0.8
    # Predictions of the nuisance layer are nearly zero: weigh what they contribute, not their coefficients.
    contributed = [model.stacking[k] * model.layers[k].out_of_fold.std(0) for k in range(2)]
    assert contributed[0].mean() < 0.1 * contributed[1].mean()
    assert model.log_likelihood(responses[:3], [nuisance[:7], features[:7]]).shape == (3, 7)


def test_stacking_weights_of_exact_predictions() -> None:
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(3, 50, 2))
    weights = np.array([[0.2, 0.0], [0.5, 1.0], [0.0, 0.3]])
    np.testing.assert_allclose(stacking_weights(parts, np.einsum("kin,kn->in", parts, weights)), weights, atol=1e-9)


def test_square_root_of_counts() -> None:
    features, responses, _ = linear_brain(images=200)
    counts = responses.clip(0.01) ** 2
    model = LinearEncoding(square_root=True).fit(features, counts)
    np.testing.assert_allclose(
        model.predict(features), LinearEncoding().fit(features, np.sqrt(counts)).predict(features)
    )


def test_library_posterior_mean_averages_the_best_explanations() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    likelihood = np.array([[0.0, 5.0, 1.0, 4.0, -2.0, 3.0], [9.0, 1.0, 1.0, 1.0, 8.0, 1.0]])
    drawn = library_posterior_mean(likelihood, pixels, top=2)
    np.testing.assert_allclose(drawn[0], pixels[[1, 3]].mean(0) / 255)
    np.testing.assert_allclose(drawn[1], pixels[[0, 4]].mean(0) / 255)
    np.testing.assert_allclose(library_posterior_mean(likelihood, pixels, top=1)[1], pixels[0] / 255)


def test_silent_units_have_noise_of_their_own_and_break_nothing():
    rng = np.random.default_rng(0)
    residual = 1e-17 * rng.normal(size=(26, 13))  # what rounding leaves of units that never fired
    residual[3, 0] = 1.0
    alike = np.tile(1e-17 * rng.choice([-1.0, 1.0], size=(26, 1)), (1, 5))
    for part in (residual, 0 * residual, residual[:, 1:], alike):
        noise = GaussianNoise(part)
        assert np.isfinite(noise.whiten).all()
        assert np.isfinite(noise.log_likelihood(part[:2], part[:3])).all()
