"""The binned masked transformer: finds shared structure in every mode, and never looks at what is hidden."""

import numpy as np
import pytest

from neurobridge.baselines.binned_transformer import MODES, BinnedTransformer, draw_hidden
from neurobridge.baselines.rates import mean_counts

REGIONS = np.repeat([0, 1], 8)


def low_rank(windows, seed, units=16, bins=15):
    """Poisson counts of units that follow two slow common signals."""
    rng = np.random.default_rng(seed)
    loading = 0.6 * np.random.default_rng(5).normal(size=(units, 2))
    latent = rng.normal(size=(windows, 2, 1)) + 0.3 * rng.normal(size=(windows, 2, bins)).cumsum(-1)
    return rng.poisson(0.4 * np.exp(np.einsum("nk,wkt->wnt", loading, latent)).clip(max=8)).astype(float)


@pytest.fixture(scope="module")
def fitted():
    model = BinnedTransformer(width=32, depth=1, dropout=0.0, steps=250, batch=32, learning_rate=3e-3)
    return model.fit(low_rank(500, 0), REGIONS)


def gain(prediction, null, counts, cells):
    """Poisson log-likelihood above the mean rate, nats a scored cell."""
    k = counts[cells]
    return float((k * np.log(prediction[cells] / null[cells]) - prediction[cells] + null[cells]).mean())


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_beats_the_mean_rate_on_new_windows(fitted, mode):
    test = low_rank(150, 1)
    null = np.broadcast_to(mean_counts(low_rank(500, 0))[:, None], test.shape)
    hidden = draw_hidden(np.random.default_rng(3), regions=REGIONS, windows=150, bins=15, modes=[mode])
    assert gain(fitted.predict(test, hidden), null, test, hidden) > 0.02


def test_leaving_one_out_beats_the_mean_rate_and_a_unit_never_sees_itself(fitted):
    test = low_rank(100, 2)
    null = np.broadcast_to(mean_counts(low_rank(500, 0))[:, None], test.shape)
    prediction = fitted.predict_leave_one_out(test)
    assert gain(prediction, null, test, np.ones(test.shape, bool)) > 0.02
    changed = test.copy()
    changed[:, 3] += 5
    np.testing.assert_array_equal(fitted.predict_leave_one_out(changed, units=[3])[:, 0], prediction[:, 3])
    assert not np.allclose(fitted.predict_leave_one_out(changed, units=[4])[:, 0], prediction[:, 4])


def test_hidden_bins_are_not_looked_at(fitted):
    test, last = low_rank(20, 3), np.arange(15) >= 12
    changed = np.where(last, 7.0, test)
    np.testing.assert_array_equal(fitted.predict(test, last), fitted.predict(changed, last))


def test_sessions_of_different_units_share_a_body_and_masks_may_come_from_outside():
    counts = [low_rank(60, 0), low_rank(80, 1, units=9)]
    asked = []

    def draw(session, rows, rng):
        asked.append(session)
        return rng.random((len(rows), *counts[session].shape[1:])) < 0.3

    options = {"width": 16, "depth": 1, "heads": 2, "steps": 12, "batch": 16}
    model = BinnedTransformer(**options).fit(counts, draw=draw)
    assert set(asked) == {0, 1}
    first = model.predict(counts[1], np.zeros(15, bool), session=1)
    assert first.shape == (80, 9, 15)
    again = BinnedTransformer(**options).fit(counts, draw=draw).predict(counts[1], np.zeros(15, bool), session=1)
    np.testing.assert_array_equal(first, again)


def test_masks_keep_to_their_mode_and_their_guards():
    rng = np.random.default_rng(0)

    def of(mode, regions):
        return draw_hidden(rng, regions=np.array(regions), windows=40, bins=10, modes=[mode])

    temporal = of("temporal", [0, 0, 1])
    assert (temporal == temporal[:, :1]).all()
    assert temporal.any((1, 2)).all()
    for mode in ("neuron", "intra_region", "inter_region"):
        cells = of(mode, [0, 0, 0, 1, -1])
        units = cells.all(2)
        assert (cells == units[:, :, None]).all()
        assert units.any(1).all()
        assert not units.all(1).any()
    assert not of("intra_region", [0, 0, 1])[:, 2].any()  # a region of one unit is never asked about itself
    assert (of("inter_region", [0, 0, 1]).all(2).sum(1) <= 2).all()
    assert not of("inter_region", [0, 0, 0]).all(2).all(1).any()  # one region: as neuron
    assert (of("neuron", [0]).all(2).sum(1) == 0).all()  # one unit: in time


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="masking modes"):
        BinnedTransformer(modes=["causal"])
    with pytest.raises(ValueError, match="one T for all"):
        BinnedTransformer().fit([low_rank(5, 0), low_rank(5, 0, bins=4)])
    with pytest.raises(ValueError, match="one code a unit"):
        BinnedTransformer().fit(low_rank(5, 0), np.zeros(3, int))
