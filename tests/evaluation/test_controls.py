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


def test_a_pairing_p_value_is_the_general_one():
    pairs = np.random.default_rng(1).normal(size=(12, 12)) + 0.5 * np.eye(12)
    items = np.arange(12)
    _, p = controls.permutation_p_value(lambda order: pairs[items, order].mean(), 12, seed=3, draws=99)
    assert controls.pairing_p_value(pairs, seed=3, draws=99) == p


def test_accuracy_grows_with_repeats_towards_what_the_recording_allows():
    rng = np.random.default_rng(0)
    images, repeats, units = 60, 8, 40
    true = rng.normal(size=(images, units))
    responses = true[:, None] + 3 * rng.normal(size=(images, repeats, units))

    def correlation(averages):
        """Of every image with the noise-free response, over images, unit by unit, then one number an image."""
        z, t = ((x - x.mean(0)) / x.std(0) for x in (averages, true))
        return (z * t).mean(1)

    points = controls.accuracy_by_repeats(responses, correlation, responses=responses, seed=0)
    assert [p.repeats for p in points] == [1, 2, 4, 8]
    for p in points:
        assert p.accuracy.low < p.accuracy.mean < p.accuracy.high
        assert p.accuracy.mean == pytest.approx(np.sqrt(1 / (1 + 9 / p.repeats)), abs=0.05)  # truth meets its ceiling
        assert p.ceiling == pytest.approx(np.sqrt(1 / (1 + 9 / p.repeats)), abs=0.05)
    assert points[0].retest < points[1].retest < points[2].retest
    assert np.isnan(points[3].retest)


def test_single_trial_scores_of_candidates_may_be_averaged_too():
    rng = np.random.default_rng(1)
    evidence = np.eye(10)[:, None] + rng.normal(size=(10, 6, 10))  # [image, repeat, candidate]

    def top1(scores):
        return (scores.argmax(1) == np.arange(len(scores))).astype(float)

    points = controls.accuracy_by_repeats(evidence, top1, responses=evidence, seed=0, counts=(1, 6))
    assert points[1].accuracy.mean == top1(evidence.mean(1)).mean()
    assert points[0].accuracy.mean < points[1].accuracy.mean
    with pytest.raises(ValueError, match="between 1 and the 6 repeats"):
        controls.accuracy_by_repeats(evidence, top1, responses=evidence, seed=0, counts=(7,))
    with pytest.raises(ValueError, match="agree"):
        controls.accuracy_by_repeats(evidence, top1, responses=evidence[:, :5], seed=0)
