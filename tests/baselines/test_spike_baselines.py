"""The spike baselines: against scikit-learn, leaving out what they must, and finding shared structure."""

import time

import numpy as np
import pytest
from sklearn.linear_model import PoissonRegressor

from neurobridge.baselines import glm, rates


@pytest.fixture(scope="module")
def shared():
    """Training and test windows of 20 units driven by three slow common signals, and the true expected counts."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(500, 3, 1)) + 0.2 * rng.normal(size=(500, 3, 30)).cumsum(-1)
    expected = 0.15 * np.exp(np.einsum("nk,wkt->wnt", 0.35 * rng.normal(size=(20, 3)), latent))
    counts = rng.poisson(expected).astype(float)
    return counts[:400], counts[400:], expected[400:]


def likelihood(prediction, counts):
    return float((counts * np.log(prediction) - prediction).mean())


def mean_rate(train, test):
    return np.broadcast_to(rates.mean_counts(train)[:, None], test.shape)


def test_the_glm_is_scikit_learns_poisson_regressor(shared):
    train, test, _ = shared
    alpha = 0.1
    prediction = glm.fit_predict_glm(train, test, bin_s=0.01, units=np.array([4]), alphas=(alpha,), sigmas_s=(0.05,))
    x, x_test = (
        rates.smooth(c, bin_s=0.01).transpose(0, 2, 1).reshape(-1, 20)[:, np.arange(20) != 4] for c in (train, test)
    )
    centre, scale = x.mean(0), x.std(0)
    y = train[:, 4].ravel()
    peer = PoissonRegressor(alpha=alpha * y.mean(), tol=1e-9, max_iter=1000).fit((x - centre) / scale, y)
    np.testing.assert_allclose(prediction[:, 0].ravel(), peer.predict((x_test - centre) / scale), rtol=0.01)


def test_the_baselines_stand_in_their_order(shared):
    train, test, expected = shared
    mean = likelihood(mean_rate(train, test), test)
    coupling = likelihood(rates.fit_predict_population_coupling(train, test, bin_s=0.01), test)
    started = time.perf_counter()
    linear = likelihood(glm.fit_predict_glm(train, test, bin_s=0.01, sigmas_s=(0.05,), alphas=(0.01, 0.1)), test)
    assert time.perf_counter() - started < 15
    assert mean <= coupling < linear < likelihood(expected, test)


def test_a_unit_never_sees_itself_nor_what_is_hidden_from_it(shared):
    train, test, _ = shared
    visible = np.zeros((20, 20), bool)
    visible[:, :10] = True
    fixed = {"alphas": (0.1,), "sigmas_s": (0.05,)}
    before = glm.fit_predict_glm(train, test, bin_s=0.01, visible=visible, **fixed)
    changed = test.copy()
    changed[:, 10:] = 5.0
    after = glm.fit_predict_glm(train, changed, bin_s=0.01, visible=visible, **fixed)
    np.testing.assert_array_equal(before, after)
    changed = test.copy()
    changed[:, 3] = 5.0
    for predict in (
        lambda c: glm.fit_predict_glm(train, c, bin_s=0.01, **fixed),
        lambda c: rates.fit_predict_population_coupling(train, c, bin_s=0.01),
    ):
        before, after = predict(test), predict(changed)
        np.testing.assert_allclose(before[:, 3], after[:, 3], rtol=1e-9)
        assert not np.allclose(before[:, 4], after[:, 4])


@pytest.fixture(scope="module")
def locked():
    """Training and test windows of 12 units with a time course each, and gains that the units of a window share."""
    rng = np.random.default_rng(4)
    course = 0.2 * np.exp(1.2 * np.sin(np.linspace(0, 6, 20) + rng.uniform(0, 6, (12, 1))))
    gain = np.exp(0.6 * rng.normal(size=(420, 1, 1)) * rng.uniform(0.3, 1, (12, 1)))
    counts = rng.poisson(gain * course).astype(float)
    return counts[:300], counts[300:], course


def test_a_time_course_is_smoothed_as_the_windows_allow(locked):
    train, test, course = locked
    few = rates.fit_psth(train[:40], bin_s=0.01)
    raw = train[:40].mean(0)
    assert few.shape == raw.shape
    assert ((few - course) ** 2).mean() < 0.8 * ((raw - course) ** 2).mean()
    assert (few > 0).all()
    flat = rates.fit_psth(np.random.default_rng(0).poisson(0.1, (50, 3, 20)), bin_s=0.01)
    assert flat.std(1).max() < 0.01  # nothing is locked to anything
    prediction = rates.fit_predict_psth(train, test, bin_s=0.01)
    assert likelihood(prediction, test) > likelihood(mean_rate(train, test), test)


def test_psth_times_glm_is_above_either(locked):
    train, test, _ = locked
    units = np.arange(6)
    both = glm.fit_predict_psth_glm(train, test, bin_s=0.01, units=units)
    alone = glm.fit_predict_glm(train, test, bin_s=0.01, units=units, sigmas_s=(0.02, 0.1))
    psth = rates.fit_predict_psth(train, test, bin_s=0.01)[:, units]
    assert both.shape == (120, 6, 20)
    assert likelihood(both, test[:, units]) > likelihood(psth, test[:, units]) + 1e-3
    assert likelihood(both, test[:, units]) > likelihood(alone, test[:, units]) + 1e-3
    unlike = test.copy()
    unlike[:, 2] = 3.0
    again = glm.fit_predict_psth_glm(train, unlike, bin_s=0.01, units=units)
    np.testing.assert_array_equal(both[:, 2], again[:, 2])  # a unit never sees itself
    with pytest.raises(ValueError, match=r"a time course is \[6, 20\]"):
        glm.fit_predict_glm(train, test, bin_s=0.01, units=units, time_course=np.ones((6, 3)))


def test_lags_are_taken_where_they_help():
    rng = np.random.default_rng(5)
    leader = rng.poisson(0.3, (200, 1, 30))
    follower = rng.poisson(0.02 + 0.8 * np.concatenate([leader[:, :, :1] * 0, leader[:, :, :-1]], 2))
    counts = np.concatenate([leader, follower], 1).astype(float)
    options = {"bin_s": 0.01, "units": np.array([1]), "sigmas_s": (0.0,), "alphas": (0.1, 1.0)}
    now, lagged = (
        likelihood(glm.fit_predict_glm(counts[:150], counts[150:], lags_s=lags, **options), counts[150:, 1:])
        for lags in (((0.0,),), ((0.0,), (-0.01, 0.0)))
    )
    assert lagged > now + 0.1


def test_population_coupling_is_the_maximum_of_its_likelihood(shared):
    train, _, _ = shared
    fitted = rates.fit_predict_population_coupling(train, train, bin_s=0.01)
    np.testing.assert_allclose(fitted.sum((0, 2)), train.sum((0, 2)), rtol=1e-3)  # the score of the bias is zero


def test_a_glm_of_units_that_never_fired_in_training_is_their_floor(shared):
    train, test, _ = shared
    train = train.copy()
    train[:, [2, 5]] = 0
    rates_of = glm.fit_predict_glm(train, test, bin_s=0.01, units=np.array([2, 5]), sigmas_s=(0.02, 0.05))
    floor = 0.5 / (train.shape[0] * train.shape[2])
    np.testing.assert_allclose(rates_of, floor, rtol=1e-6)


def test_silent_units_and_single_stretches_are_handled(shared):
    train, test, _ = shared
    train, test = train.copy(), test.copy()
    train[:, 0] = 0
    for prediction in (
        rates.fit_predict_population_coupling(train, test, bin_s=0.01),
        glm.fit_predict_glm(train, test, bin_s=0.01, sigmas_s=(0.05,), max_samples=3000),
    ):
        assert prediction.shape == test.shape
        assert np.isfinite(prediction).all()
        assert (prediction > 0).all()
        assert prediction[:, 0].max() < 0.01
    stretch = np.concatenate(list(train[:50]), axis=-1)
    assert glm.fit_predict_glm(stretch, stretch, bin_s=0.01, units=np.arange(1, 3), sigmas_s=(0.05,)).shape == (2, 1500)
    shorter = glm.fit_predict_glm(stretch, stretch[:, :400], bin_s=0.01, units=np.arange(1, 3), sigmas_s=(0.05,))
    assert shorter.shape == (2, 400)


def test_smoothing_keeps_a_constant_and_stays_within_its_window():
    counts = np.ones((2, 1, 20))
    np.testing.assert_allclose(rates.smooth(counts, bin_s=0.01), 1)
    counts[0] = 0
    assert rates.smooth(counts, bin_s=0.01)[0].max() == 0


@pytest.mark.parametrize("bad", [np.zeros(3), np.full((2, 3, 4), np.nan), -np.ones((2, 3, 4)), np.zeros((0, 3, 4))])
def test_bad_counts_are_named(bad):
    with pytest.raises(ValueError, match="counts must be"):
        rates.as_windows(bad)
