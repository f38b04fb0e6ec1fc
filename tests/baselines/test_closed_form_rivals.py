"""Ridge in two more roles: a Wiener filter of behaviour, and weights carried over from earlier sessions."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from neurobridge.baselines.carried import carry_ridge
from neurobridge.baselines.ridge import ridge
from neurobridge.baselines.wiener import fit_wiener, lagged


@pytest.fixture(scope="module")
def moving():
    """Counts [12, 1500] that lead a velocity [1500, 2] by three bins, and the velocity."""
    rng = np.random.default_rng(0)
    velocity = np.stack([np.convolve(rng.normal(size=1500), np.ones(8) / 3, mode="same") for _ in range(2)], 1)
    ahead = np.roll(velocity, -3, axis=0)
    return rng.poisson(np.exp(0.4 + 0.5 * ahead @ rng.normal(size=(2, 12)))).T, velocity


def test_lags_stand_side_by_side_and_stop_at_the_ends():
    counts = np.arange(10).reshape(2, 5)
    np.testing.assert_array_equal(lagged(counts, np.array([0, 2]), 1), [[0, 5, 0, 5, 1, 6], [1, 6, 2, 7, 3, 8]])
    np.testing.assert_array_equal(lagged(counts, np.array([4]), 0), [[4, 9]])
    np.testing.assert_array_equal(lagged(counts, np.array([2]), 1, 3)[0, 2:4], [1 + 2 + 3, 6 + 7 + 8])


def test_a_wiener_filter_finds_how_far_it_has_to_reach(moving):
    counts, velocity = moving
    rows, test = np.arange(1000), np.arange(1000, 1500)
    fitted = fit_wiener(counts, rows, velocity[rows], reaches=(0, 4))
    plain = fit_wiener(counts, rows, velocity[rows], reaches=(0,))
    assert fitted.reach == 4
    ours, theirs = (r2_score(velocity[test], f.predict(counts, test)) for f in (fitted, plain))
    assert ours > theirs + 0.2
    x, x_test = lagged(counts, rows, 4), lagged(counts, test, 4)
    centre, scale = x.mean(0), x.std(0)
    peer = Ridge(fitted.map.alphas[0]).fit((x - centre) / scale, velocity[rows])
    np.testing.assert_allclose(fitted.predict(counts, test), peer.predict((x_test - centre) / scale), atol=1e-8)


def test_blocks_are_honest_where_neighbours_are_alike():
    rng = np.random.default_rng(1)
    walk = np.repeat(rng.normal(size=(60, 1)), 10, axis=0)  # ten rows of each, which tell nothing of the next ten
    features = np.repeat(rng.normal(size=(60, 80)), 10, axis=0)
    shuffled, blocked = (ridge(features, walk, blocks=blocks).out_of_fold for blocks in (False, True))
    assert r2_score(walk, shuffled) > 0.5 > r2_score(walk, blocked)


def session(tuning, names, seed, gain=1.0, rows=300):
    """Embeddings [I, 4], and responses [I, N] of the units ``names`` to them."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(rows, 4))
    drive = embedding @ np.stack([tuning[name] for name in names], 1)
    return embedding, gain * (5 + drive + rng.normal(size=drive.shape))


def test_weights_go_from_day_to_day_by_the_name_of_the_unit():
    rng = np.random.default_rng(2)
    tuning = {f"e{n}": rng.normal(size=4) for n in range(30)}
    days = [[f"e{n}" for n in some] for some in (range(24), range(23, 3, -1))]
    maps = [ridge(x, y) for y, x in (session(tuning, names, seed) for seed, names in enumerate(days))]
    today = [*(f"e{n}" for n in rng.permutation(26)), "never seen"]
    tuning["never seen"] = rng.normal(size=4)
    truth, responses = session(tuning, today, 9, gain=7.0)
    carried = carry_ridge(maps, days, today, responses)
    assert carried.weights.shape == (27, 4)
    np.testing.assert_array_equal(carried.known, [sum(name in day for day in days) for name in today])
    unknown = np.array(today) == "never seen"
    assert not carried.weights[unknown].any()
    both = today.index("e5")
    expected = (maps[0].weights[days[0].index("e5")] + maps[1].weights[days[1].index("e5")]) / 2
    np.testing.assert_allclose(carried.weights[both], expected)
    assert r2_score(truth, carried.predict(responses)) > 0.8  # the gain of today's amplifier is no harm
    strangers = [f"x{n}" for n in range(27)]
    with pytest.raises(ValueError, match="nothing to carry over"):
        carry_ridge(maps, days, strangers, responses)
