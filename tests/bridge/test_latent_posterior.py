"""The posterior mean that dreams train: against closed forms, beyond them, and with nothing to read."""

import numpy as np
import pytest
import torch

from neurobridge.bridge.latent_posterior import LatentPosterior, octave_gain

NOISE = 0.5


def linear_world(count=3000, hidden=6, readings=20, seed=0):
    """Targets [L, 2, 3], normal of covariance C, readings = targets @ mixing + noise; C and the mixing [6, R]."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(hidden, hidden)) / 2
    targets = (rng.normal(size=(count, hidden)) @ root + 3).astype(np.float32)
    mixing = rng.normal(size=(hidden, readings)).astype(np.float32) / 3
    return targets, root.T @ root, mixing


def dreams_of(expected):
    """Dreams of readings with white noise about what is ``expected`` [L, R]."""
    expected = torch.from_numpy(expected)

    def dream(rows, generator):
        return expected[rows] + NOISE * torch.randn(len(rows), expected.shape[1], generator=generator)

    return dream


def observed(expected, seed=9):
    return expected + NOISE * np.random.default_rng(seed).normal(size=expected.shape).astype(np.float32)


@pytest.mark.parametrize("readings", [20, 700], ids=["few numbers to read", "more numbers than dreams"])
def test_it_is_the_posterior_mean_of_a_normal_world(readings):
    targets, covariance, mixing = linear_world(readings=readings)
    dreams = 4000 if readings == 20 else 600
    model = LatentPosterior(components=[6]).fit(
        dreams_of(targets @ mixing), [targets.reshape(-1, 2, 3)], dreams=dreams, steps=0
    )
    true, *_ = linear_world(count=500, seed=1)
    reading = observed(true @ mixing)
    (found,) = model.mean(reading)
    assert found.shape == (500, 2, 3)
    total = mixing.T @ covariance @ mixing + NOISE**2 * np.eye(readings)
    exact = 3 + (reading - 3 * mixing.sum(0)) @ np.linalg.solve(total, mixing.T @ covariance)
    error = ((found.reshape(500, 6) - exact) ** 2).mean() / ((exact - 3) ** 2).mean()
    assert error < (0.003 if readings == 20 else 0.05)


def bent_world():
    """Two targets and readings [L, 8] that are not linear in them; the last 200 are kept apart."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(1500, 3))
    first = np.tanh(hidden @ rng.normal(size=(3, 12))).astype(np.float32)
    second = 40 * (hidden @ rng.normal(size=(3, 5))).astype(np.float32)
    expected = np.hstack([np.sin(2 * hidden), hidden**3, np.abs(hidden)]).astype(np.float32)
    return first.reshape(-1, 3, 4), second, expected


def test_the_net_learns_what_is_not_linear_of_every_target():
    first, second, expected = bent_world()
    dream, reading = dreams_of(expected[:1300]), observed(expected[1300:])
    errors = []
    for steps in (0, 300):
        model = LatentPosterior(components=[12, 5], hidden=64, dropout=0.0).fit(
            dream, [first[:1300], second[:1300]], steps=steps, progress=False
        )
        found = model.mean(reading)
        assert [x.shape for x in found] == [(200, 3, 4), (200, 5)]
        errors.append([((x - t[1300:]) ** 2).mean() for x, t in zip(found, (first, second), strict=True)])
    assert errors[1][0] < 0.85 * errors[0][0]
    assert errors[1][1] < 0.85 * errors[0][1]


def test_readings_that_belong_to_other_images_give_the_prior_mean():
    first, second, expected = bent_world()
    expected = expected[np.random.default_rng(1).permutation(len(expected))]
    targets = [first[:1300], second[:1300]]
    model = LatentPosterior(components=[12, 5], hidden=64).fit(
        dreams_of(expected[:1300]), targets, steps=0, progress=False
    )
    for found, target in zip(model.mean(observed(expected[1300:])), targets, strict=True):
        assert ((found - target.mean(0)) ** 2).mean() < 0.03 * target.var(0).mean()


def test_a_seed_decides_everything_and_nothing_outside_is_drawn_from():
    first, _, expected = bent_world()

    def fitted(seed):
        model = LatentPosterior(components=[4], hidden=8)
        return model.fit(dreams_of(expected), [first], dreams=200, steps=5, seed=seed, progress=False).mean(expected)[0]

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = fitted(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(one, fitted(0))
    assert not np.array_equal(one, fitted(1))


def test_real_readings_say_how_large_the_result_is_to_be():
    """Real readings carry the first two components, at half the size that was dreamt, and nothing of the others."""
    rng = np.random.default_rng(0)
    sizes = np.array([9.0, 8, 7, 6, 2, 1.8, 1.6, 1.4])
    targets = (rng.normal(size=(2000, 8)) * sizes).astype(np.float32)
    model = LatentPosterior(components=[8]).fit(dreams_of(targets), [targets], steps=0, progress=False)
    known = (rng.normal(size=(400, 8)) * sizes).astype(np.float32)
    reading = known.copy()
    reading[:, :4] *= 1.25
    reading[:, 4:] = rng.permutation(reading[:, 4:])
    before = ((model.mean(reading)[0] - known) ** 2).mean(0)
    model.calibrate(reading, [known])
    np.testing.assert_allclose(model.gain[:4], 0.8, atol=0.03)
    assert (model.gain[4:] < 0.15).all()
    after = ((model.mean(reading)[0] - known) ** 2).mean(0)
    assert (after < before).all()
    again = model.gain.clone()
    torch.testing.assert_close(model.calibrate(reading, [known]).gain, again)


def test_components_share_a_gain_by_octaves():
    found = np.random.default_rng(0).normal(size=(50, 20))
    gain = octave_gain(found, found * np.array([2.0] * 4 + [0.5] * 4 + [-1.0] * 8 + [1.0] * 4))
    np.testing.assert_allclose(gain, [2.0] * 4 + [0.5] * 4 + [0.0] * 8 + [1.0] * 4)
    np.testing.assert_allclose(octave_gain(np.zeros((5, 3)), np.ones((5, 3))), 0.0)
