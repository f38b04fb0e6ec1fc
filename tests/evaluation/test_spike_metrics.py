"""Spike metrics against naive loops, the published formulas and scikit-learn."""

import math

import numpy as np
import pytest
from scipy.special import gammaln
from sklearn.metrics import d2_tweedie_score, r2_score

from neurobridge.evaluation import spikes


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    rates = rng.gamma(2.0, 0.2, size=(7, 5, 11))
    counts = rng.poisson(rates * rng.uniform(0.5, 1.5, size=rates.shape)).astype(float)
    return rates, counts


def naive_bits(rates, counts, mask):
    """The definition, cell by cell: windows, units, bins."""
    W, N, T = counts.shape
    model = null = total = 0.0
    for n in range(N):
        cells = [(w, t) for w in range(W) for t in range(T) if mask[w, n, t] and not math.isnan(counts[w, n, t])]
        mean = sum(counts[w, n, t] for w, t in cells) / len(cells) if cells else 0.0
        for w, t in cells:
            k = counts[w, n, t]
            for which, rate in (("model", rates[w, n, t]), ("null", mean)):
                rate = rate if rate != 0 else 1e-9
                nll = rate - k * math.log(rate) + math.lgamma(k + 1)
                model, null = model + nll * (which == "model"), null + nll * (which == "null")
            total += k
    return (null - model) / total / math.log(2)


def nlb_formula(rates_WTN, counts_WTN):
    """The NLB evaluation as published: neurons last, null from ``nanmean``, NaN cells dropped, zero rates 1e-9."""

    def nll(r, k):
        keep = ~np.isnan(k)
        r, k = np.where(r == 0, 1e-9, r)[keep], k[keep]
        return np.sum(r - k * np.log(r) + gammaln(k + 1.0))

    null = np.tile(np.nanmean(counts_WTN, axis=(0, 1), keepdims=True), (*counts_WTN.shape[:2], 1))
    return (nll(null, counts_WTN) - nll(rates_WTN, counts_WTN)) / np.nansum(counts_WTN) / np.log(2)


def test_pooled_bits_per_spike_agree_with_loop_and_nlb(data):
    rates, counts = data
    counts[2, :, 3:6], counts[:, 4] = np.nan, 0.0  # a gap, and a silent unit
    rates[0, 1, 2] = 0.0
    everything = np.ones(counts.shape, bool)
    ours = spikes.bits_per_spike(rates, counts)
    assert ours == pytest.approx(naive_bits(rates, counts, everything), abs=1e-9)
    assert ours == pytest.approx(nlb_formula(rates.transpose(0, 2, 1), counts.transpose(0, 2, 1)), abs=1e-9)
    assert rates[0, 1, 2] == 0.0  # the caller's array is not touched


def test_a_mask_scores_only_its_cells_and_moves_the_null(data):
    rates, counts = data
    mask = np.random.default_rng(1).random(counts.shape) < 0.3
    mask[:, 2] = False  # a unit that is not scored at all
    expected = naive_bits(rates, counts, mask)
    assert spikes.bits_per_spike(rates, counts, mask) == pytest.approx(expected, abs=1e-9)
    rates[~mask] = np.nan  # predictions exist only where they are asked for
    assert spikes.bits_per_spike(rates, counts, mask) == pytest.approx(expected, abs=1e-9)


def test_bits_per_spike_of_each_neuron(data):
    rates, counts = data
    counts[:, 3] = 0
    scores = spikes.bits_per_spike_per_neuron(rates, counts)
    assert np.isnan(scores[3])
    for n in (0, 1, 2, 4):
        alone = spikes.bits_per_spike(rates[:, n : n + 1], counts[:, n : n + 1])
        assert scores[n] == pytest.approx(alone, abs=1e-12)


def test_the_null_scores_zero_and_one_stretch_equals_one_window(data):
    rates, counts = data
    null = np.broadcast_to(counts.mean((0, 2), keepdims=True), counts.shape)
    assert spikes.bits_per_spike(null, counts) == pytest.approx(0, abs=1e-12)
    assert spikes.bits_per_spike(rates[0], counts[0]) == spikes.bits_per_spike(rates[:1], counts[:1])


def test_poisson_d2_is_the_mean_of_sklearns(data):
    rates, counts = data
    expected = [d2_tweedie_score(counts[:, n].ravel(), rates[:, n].ravel(), power=1) for n in range(counts.shape[1])]
    assert spikes.poisson_d2(rates, counts, clip=False) == pytest.approx(np.mean(expected), abs=1e-9)
    assert spikes.poisson_d2(rates, counts) == pytest.approx(np.clip(expected, 0, 1).mean(), abs=1e-9)
    counts[:, 0] = 0  # silent units are left out
    assert spikes.poisson_d2(rates, counts, clip=False) == pytest.approx(np.mean(expected[1:]), abs=1e-9)


@pytest.fixture
def ibl():
    """The scorer of IBL BrainWideBench in double precision: (rates, counts) [W, N, T] -> its bits and its D2."""
    metrics = pytest.importorskip("ibl_bwb_eval.metrics", reason="ibl-bwb-eval is not installed")
    torch = pytest.importorskip("torch")

    def score(rates, counts):
        scores = []
        for metric in (metrics.BPS, metrics.PoissonD2Score):
            scorer = metric(num_outputs=counts.shape[1]).set_dtype(torch.float64)
            for r, k in zip(rates, counts, strict=True):  # window by window, as it accumulates
                scorer.update(torch.from_numpy(np.log(r.T)), torch.from_numpy(k.T))
            scores.append(float(scorer.compute()))
        return scores

    return score


def test_d2_and_bits_agree_with_the_ibl_scorer(data, ibl):
    bits, d2 = ibl(*data)
    assert spikes.bits_per_spike(*data) == pytest.approx(bits, abs=1e-6)
    assert spikes.poisson_d2(*data, clip=False) == pytest.approx(d2, abs=1e-6)
    for n, own in enumerate(spikes.bits_per_spike_per_neuron(*data)):
        alone = ibl(*(x[:, n : n + 1] for x in data))
        assert own == pytest.approx(alone[0], abs=1e-6)


def test_silent_units_part_the_ibl_scorer_from_nlb(data, ibl):
    rates, counts = data
    counts[:, 2] = 0
    fired = counts.any((0, 2))
    bits, d2 = ibl(rates, counts)
    assert spikes.bits_per_spike(rates[:, fired], counts[:, fired]) == pytest.approx(bits, abs=1e-6)
    assert spikes.poisson_d2(rates, counts, clip=False) == pytest.approx(d2, abs=1e-6)
    cost = rates[:, 2].sum() / counts.sum() / math.log(2)  # NLB charges what was predicted for the silent unit
    assert spikes.bits_per_spike(rates, counts) == pytest.approx(bits - cost, abs=1e-6)


def test_an_interval_over_units_holds_the_score_and_a_rival_as_null_pairs_it(data):
    rates, counts = data
    rates, counts = (np.tile(x, (1, 6, 1)) for x in (rates, counts))
    over_mean = spikes.bits_per_spike_interval(rates, counts, seed=0)
    assert over_mean.mean == pytest.approx(spikes.bits_per_spike(rates, counts))
    assert over_mean.low < over_mean.mean < over_mean.high
    rival = np.sqrt(rates * rates.mean((0, 2), keepdims=True))
    paired = spikes.bits_per_spike_interval(rates, counts, null=rival, seed=0)
    difference = spikes.bits_per_spike(rates, counts) - spikes.bits_per_spike(rival, counts)
    assert paired.mean == pytest.approx(difference)
    assert paired.high - paired.low < over_mean.high - over_mean.low  # what both know cancels
    assert spikes.bits_per_spike_interval(rates, counts, null=rates, seed=0) == (0, 0, 0)
    mask = np.random.default_rng(1).random(counts.shape) < 0.5
    masked = spikes.bits_per_spike_interval(rates, counts, mask, seed=0)
    assert masked.mean == pytest.approx(spikes.bits_per_spike(rates, counts, mask))
    gain = spikes.gaussian_r2_interval(rates, rates + 0.1 * counts, null=rival, seed=0)
    ours, theirs = (spikes.gaussian_r2(x, rates + 0.1 * counts) for x in (rates, rival))
    assert gain.mean == pytest.approx(ours - theirs)
    with pytest.raises(ValueError, match="no spike"):
        spikes.bits_per_spike_interval(rates, 0 * counts, seed=0)


def test_gaussian_r2_per_unit_is_sklearns(data):
    values = data[1] + np.random.default_rng(2).normal(size=data[1].shape)
    prediction = values + 0.5 * np.random.default_rng(3).normal(size=values.shape)
    mask = np.random.default_rng(4).random(values.shape) < 0.5
    values[0, 0, 0] = np.nan
    scores = spikes.gaussian_r2_per_unit(prediction, values, mask)
    for n in range(values.shape[1]):
        keep = mask[:, n] & ~np.isnan(values[:, n])
        assert scores[n] == pytest.approx(r2_score(values[:, n][keep], prediction[:, n][keep]), abs=1e-9)
    assert spikes.gaussian_r2(prediction, values, mask) == pytest.approx(scores.mean())


def test_psth_r2_is_sklearns_over_condition_and_time(data):
    rates, counts = data
    conditions = np.array(["a", "b", "a", "c", "b", "a", "c"])
    means = [np.stack([x[conditions == c].mean(0) for c in "abc"]) for x in (counts, rates)]
    expected = [r2_score(means[0][:, n].ravel(), means[1][:, n].ravel()) for n in range(counts.shape[1])]
    assert spikes.psth_r2(rates, counts, conditions) == pytest.approx(np.mean(expected), abs=1e-9)


def test_fano_factor_of_poisson_counts_is_one_and_skips_silence():
    counts = np.random.default_rng(0).poisson(3.0, size=(60, 20, 4)).astype(float)
    counts[:, :, 3], counts[5, :, 0], counts[1, 7, 1] = 0, 0, np.nan
    fano = spikes.fano_factor(counts)
    images = [i for i in range(60) if i != 5]
    assert fano[0] == pytest.approx(np.mean([counts[i, :, 0].var(ddof=1) / counts[i, :, 0].mean() for i in images]))
    assert fano[1] == pytest.approx(1, abs=0.1)
    assert np.isnan(fano[3])


def test_split_half_reliability_recovers_the_signal_share():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(400, 1, 3))
    responses = signal + np.array([0.5, 2.0, 1e3]) * rng.normal(size=(400, 20, 3))
    reliability = spikes.split_half_reliability(responses, seed=1)
    expected = 1 / (1 + np.array([0.5, 2.0, 1e3]) ** 2 / 20)  # variance of the signal over that of the mean of 20
    np.testing.assert_allclose(reliability[:2], expected[:2], atol=0.03)
    assert abs(reliability[2]) < 0.25
    np.testing.assert_array_equal(reliability, spikes.split_half_reliability(responses, seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, c, m: (r[:, :, 1:], c, m), "one shape"),
        (lambda r, c, m: (r, c, np.zeros_like(m)), "nothing to score"),
        (lambda r, c, m: (r, np.full_like(c, np.nan), m), "nothing to score"),
        (lambda r, c, m: (r, np.zeros_like(c), m), "no spike"),
        (lambda r, c, m: (-r, c, m), "negative"),
        (lambda r, c, m: (r * np.nan, c, m), "NaN"),
        (lambda r, c, m: (r, c, m.astype(float)), "boolean"),
    ],
)
def test_bad_arguments_are_named(data, change, message):
    with pytest.raises(ValueError, match=message):
        spikes.bits_per_spike(*change(*data, np.ones(data[0].shape, bool)))
