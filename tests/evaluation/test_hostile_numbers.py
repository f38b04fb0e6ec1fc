"""Metrics never lie: what is not finite is refused, units of measurement do not matter, constants have no R2."""

from __future__ import annotations

import numpy as np
import pytest

from neurobridge.evaluation import controls, distributions, images, probes, similarity, spikes
from neurobridge.evaluation.inputs import centred
from neurobridge.pipeline.identification import combine, rank

SHAPE = (12, 4, 9)
CONDITIONS = np.arange(12) % 4


def counts() -> np.ndarray:
    return np.random.default_rng(3).poisson(1.5, SHAPE).astype(float)


def features(seed: int = 5, items: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(items, 6))


def at(x: np.ndarray, value: float) -> np.ndarray:
    """``x`` with one number replaced."""
    return np.where(np.arange(x.size).reshape(x.shape) == 7, value, x)


OF_SPIKES = {
    "bits": lambda p, c: spikes.bits_per_spike(p, c),
    "bits per neuron": lambda p, c: spikes.bits_per_spike_per_neuron(p, c),
    "D2": lambda p, c: spikes.poisson_d2(p, c),
    "R2": lambda p, c: spikes.gaussian_r2(p, c),
    "R2 per unit": lambda p, c: spikes.gaussian_r2_per_unit(p, c),
    "PSTH": lambda p, c: spikes.psth_r2(p, c, CONDITIONS),
}
OF_PAIRS = {
    "two-way": similarity.two_way_identification,
    "distance": similarity.correlation_distance,
    "cosine": similarity.cosine_similarity,
    "matrix": similarity.correlation_matrix,
    "retrieval": lambda a, b: similarity.retrieval(a, b, np.arange(len(a))),
    "draws": lambda a, b: similarity.retrieval_in_draws(a, b, seed=0, gallery=8, draws=2),
    "diversity": lambda a, b: similarity.sample_diversity(np.stack([a, b])),
    "FID": lambda a, b: distributions.frechet_distance(a, b, force=True),
    "KID": lambda a, b: distributions.kernel_distance(a, b, seed=0, force=True),
    "IS": lambda a, b: distributions.inception_score(a + b, seed=0, force=True),
    "p": lambda a, b: controls.pairing_p_value(a @ b.T, seed=0, draws=9),
    "difference": lambda a, b: controls.bootstrap_difference(a[:, 1], b[:, 1], seed=0),
    "repeats": lambda a, b: controls.accuracy_by_repeats(
        np.stack([a, b], 1), lambda m: m[:, 0], responses=np.stack([a, b], 1), seed=0
    ),
    "ridge": lambda a, b: probes.ridge_probe(a, b, seed=0),
    "linear": lambda a, b: probes.linear_probe(a + b, np.arange(len(a)) % 2, seed=0, strengths=(1.0,)),
    "neighbours": lambda a, b: probes.knn_accuracy(a, np.arange(len(a)) % 2, b, np.arange(len(a)) % 2),
    "map": lambda a, b: probes.project_2d(a + b, method="pca"),
}


@pytest.mark.parametrize("metric", OF_SPIKES)
def test_numbers_that_are_not_finite_are_refused_by_metrics_of_spikes(metric):
    score, truth = OF_SPIKES[metric], counts()
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"NaN in a scored cell|infinite in a scored cell"):
            score(at(truth + 0.5, value), truth)
    with pytest.raises(ValueError, match="infinite in a scored cell"):
        score(truth + 0.5, at(truth, np.inf))
    assert np.isfinite(score(truth + 0.5, at(truth, np.nan))).all(), "a count that is NaN is not scored"


@pytest.mark.parametrize("metric", OF_PAIRS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_by_metrics_of_pairs(metric, value):
    a, b = features(), features(6)
    OF_PAIRS[metric](a, b)
    for pair in ((at(a, value), b), (a, at(b, value))):
        with pytest.raises(ValueError, match="finite"), np.errstate(invalid="ignore"):
            OF_PAIRS[metric](*pair)


def test_other_doors_refuse_what_is_not_finite():
    responses = np.random.default_rng(0).normal(size=(20, 4, 3))
    for score in (
        lambda x: spikes.fano_factor(x),
        lambda x: spikes.split_half_reliability(x, seed=0),
        lambda x: controls.repeat_reliability(x),
    ):
        with pytest.raises(ValueError, match="infinite"):
            score(at(responses, np.inf))
    known = controls.repeat_reliability(at(responses, np.nan))  # the value at 7 belongs to unit 1
    np.testing.assert_array_equal(np.isnan(known), [False, True, False])
    with pytest.raises(ValueError, match="finite"):
        controls.permutation_p_value(lambda order: float("nan"), 5, seed=0)
    with pytest.raises(ValueError, match="no labels"):
        controls.majority_level([])
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        images.pixcorr(np.full((1, 12, 12, 3), np.nan), np.zeros((1, 12, 12, 3)))
    with pytest.raises(ValueError, match="do not make 10 splits"):
        distributions.inception_score(features(items=6), seed=0, force=True)
    with pytest.raises(ValueError, match="2 or more"):
        distributions.kernel_distance(features(), features(6), seed=0, subset_size=1, force=True)
    assert distributions.frechet_distance(features(), features(), force=True) >= 0


@pytest.mark.parametrize("scale", [1e-150, 1e-14, 1e-6, 1e6, 1e150])
def test_the_unit_of_a_signal_does_not_matter(scale):
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(40, 1, 3))
    responses = 4 + signal + rng.normal(size=(40, 6, 3))
    values, prediction = responses.mean(1).T[None], (4 + signal[:, 0] + 0.2 * rng.normal(size=(40, 3))).T[None]
    a = rng.normal(size=(15, 8))
    b = a + rng.normal(size=(15, 8))

    def all_of_them(by: float) -> list:
        return [
            spikes.gaussian_r2_per_unit(prediction * by, values * by),
            spikes.psth_r2_per_unit(prediction[0].T[..., None] * by, values[0].T[..., None] * by, np.arange(40) % 9),
            spikes.split_half_reliability(responses * by, seed=0, splits=5),
            controls.repeat_reliability(responses * by, repeats=4),
            probes.r2_by_target(prediction[0].T * by, values[0].T * by),
            similarity.two_way_identification(a * by, b * by),
            similarity.cosine_similarity(a * by, b * by),
            similarity.correlation_distance(a * by, b * by),
            similarity.retrieval(a * by, b * by, np.arange(15))["rank"],
            similarity.correlation_matrix(a * np.where(np.arange(15) == 2, by, 1)[:, None], b),
        ]

    for found, expected in zip(all_of_them(scale), all_of_them(1.0), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_targets_that_do_not_vary_have_no_r2():
    rng = np.random.default_rng(2)
    x, noise = rng.normal(size=(90, 5)), rng.normal(size=(90, 2))
    alone = probes.ridge_probe(x, noise, seed=0)[1]
    for constant in (0.0, 5.1, -1e-9, 1e9):
        with pytest.warns(UserWarning, match="1 of 3 targets do not vary"):
            assert probes.ridge_probe(x, np.c_[noise, np.full(90, constant)], seed=0)[1] == pytest.approx(alone)
        with pytest.warns(UserWarning, match="1 of 1 targets"):
            assert np.isnan(probes.ridge_probe(x, np.full(90, constant), seed=0)[1])
    truth = counts()
    truth[:, 2] = 0
    truth[:, 3] = 5.1
    flat = np.full(SHAPE, 1.4)
    for score in (spikes.gaussian_r2_per_unit, lambda p, c: spikes.psth_r2_per_unit(p, c, CONDITIONS)):
        np.testing.assert_array_equal(np.isnan(score(flat, truth)), [False, False, True, True])
    assert spikes.psth_r2(flat, truth, CONDITIONS) == spikes.psth_r2(flat[:, :2], truth[:, :2], CONDITIONS)
    assert spikes.psth_r2(flat, truth, CONDITIONS) <= 0
    with pytest.raises(ValueError, match="no unit has a varying histogram"):
        spikes.psth_r2(flat, np.ones(SHAPE), CONDITIONS)
    reliability = spikes.split_half_reliability(np.full((9, 4, 1), 0.1), seed=0)
    assert np.isnan(reliability).all()
    assert np.isnan(controls.repeat_reliability(np.full((9, 4, 1), 0.1))).all()
    assert np.isnan(controls.spearman_brown(-1.0, 2)), "a correlation of -1 has no reliability"


def test_deviations_are_free_of_scale_and_offset():
    deviation, unit = centred(np.array([[3.0, 5.0, 7.0], [0.1, 0.1, 0.1]]), axis=1)
    np.testing.assert_allclose(deviation, [[-1, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(unit, [[2], [np.nan]])


@pytest.mark.parametrize(("hits", "items"), [(0, 18), (18, 18), (1, 18), (9, 300)])
def test_a_share_has_an_honest_interval(hits, items):
    found = controls.bootstrap_interval(np.arange(items) < hits, seed=0)
    z, p = 1.959964, hits / items
    centre = (p + z**2 / (2 * items)) / (1 + z**2 / items)
    half = z * np.sqrt(p * (1 - p) / items + z**2 / (4 * items**2)) / (1 + z**2 / items)
    assert found.mean == p
    assert found.low == pytest.approx(centre - half, abs=1e-6)
    assert found.high == pytest.approx(centre + half, abs=1e-6)
    assert found.high - found.low > 0.03
    assert found == controls.share_interval((np.arange(items) < hits).astype(float))
    with pytest.raises(ValueError, match="0 and 1"):
        controls.share_interval([0.5, 1.0])


def test_scores_that_happen_to_be_whole_are_no_share():
    assert controls.bootstrap_interval(np.zeros(18), seed=0, share=False) == (0, 0, 0)
    assert controls.bootstrap_difference(np.ones(18), np.ones(18), seed=0) == (0, 0, 0)


def test_scores_that_are_nan_identify_nothing():
    scores = np.eye(6)
    np.testing.assert_array_equal(rank(scores), 0)
    with pytest.raises(ValueError, match="36 of 36 scores are NaN"):
        rank(scores * np.nan)
    silent = np.zeros((6, 6))  # evidence that is equal for all candidates: standardised it was 0 / 0
    np.testing.assert_array_equal(rank(combine(scores, silent, 0.5)), 0)
    np.testing.assert_array_equal(rank(combine(silent, silent, 0.5)), 5)
