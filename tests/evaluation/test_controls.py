"""Intervals, p-values, chance and reliability."""

import numpy as np
import pytest

from neurobridge.evaluation import controls


def test_bootstrap_interval_matches_the_normal_theory_and_its_seed():
    values = np.random.default_rng(0).normal(2, 3, size=900)
    interval = controls.bootstrap_interval(values, seed=1, draws=4000)
    error = 1.96 * values.std() / 30
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - error, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.03)
    assert interval == controls.bootstrap_interval(values, seed=1, draws=4000)
    assert controls.bootstrap_interval(values + 1, seed=1).above(interval)
    assert not controls.bootstrap_interval(values + 0.1, seed=1).above(interval)


def test_a_paired_difference_is_narrower_than_its_parts():
    items = np.random.default_rng(0).normal(size=100)
    difference = controls.bootstrap_difference(items + 0.2, items, seed=0)
    assert difference.low == pytest.approx(0.2)
    assert difference.high == pytest.approx(0.2)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0]]])
def test_bootstrap_refuses_nothing_and_nan(values):
    with pytest.raises(ValueError, match="non-empty"):
        controls.bootstrap_interval(values, seed=0)


def test_permutation_p_value_of_a_true_and_of_a_false_pairing():
    rng = np.random.default_rng(0)
    a = rng.normal(size=50)
    b, noise = a + rng.normal(size=50), rng.normal(size=50)
    observed, p = controls.permutation_p_value(lambda order: np.corrcoef(a, b[order])[0, 1], 50, seed=0, draws=499)
    assert observed == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert p == pytest.approx(1 / 500)
    _, p = controls.permutation_p_value(lambda order: np.corrcoef(a, noise[order])[0, 1], 50, seed=0, draws=499)
    assert p > 0.05


def test_chance_levels():
    assert controls.chance_level(100) == 0.01
    assert controls.chance_level(3, k=5) == 1
    assert controls.majority_level(["a", "b", "b", "b"]) == 0.75
    with pytest.raises(ValueError, match="at least 1"):
        controls.chance_level(0)


def test_repeat_reliability_is_the_mean_pair_correlation_and_extrapolates():
    rng = np.random.default_rng(0)
    responses = rng.normal(size=(500, 1, 2)) + rng.normal(size=(500, 6, 2))
    expected = np.mean(
        [np.corrcoef(responses[:, a, 0], responses[:, b, 0])[0, 1] for a in range(6) for b in range(a + 1, 6)]
    )
    assert controls.repeat_reliability(responses)[0] == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(controls.repeat_reliability(responses), 0.5, atol=0.05)
    np.testing.assert_allclose(controls.repeat_reliability(responses, repeats=6), 6 / 7, atol=0.03)
