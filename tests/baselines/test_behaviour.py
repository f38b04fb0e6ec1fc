"""Behaviour out of features: folds are blocks that keep their distance, lags are found, nothing leaks."""

import numpy as np
import pytest

from neurobridge.baselines.behaviour import blocks_of, decode, predict_from


@pytest.fixture(scope="module")
def walk():
    """A slow target of two dimensions, features that show it three moments earlier, and their times."""
    rng = np.random.default_rng(0)
    time = np.arange(900) * 0.05
    target = np.stack([np.sin(time), np.cos(0.7 * time)], axis=1)
    features = target @ rng.normal(size=(2, 8)) + 0.3 * rng.normal(size=(900, 8))
    lagged = np.stack([np.roll(target, shift, axis=0) for shift in (0, 3, 6)], axis=1)[6:]
    return features[6:], lagged, time[6:]


@pytest.mark.parametrize("method", ["ridge", "k-NN"])
def test_the_lag_is_found_and_the_target_decoded(walk, method):
    features, targets, times = walk
    noise = np.random.default_rng(1).normal(size=(len(times), 5))
    found = decode([noise, features], targets[:, ::-1], times, guard_s=0.5, method=method)
    assert found.features == [1] * 5
    assert found.lags == [2] * 5, "the third is the one that the features show"
    mean, low, high = found.r2
    assert 0.85 < low <= mean <= high < 1
    np.testing.assert_array_equal(found.truth, targets[:, 0])


def test_noise_decodes_nothing_and_a_constant_target_has_no_score(walk):
    _, targets, times = walk
    noise = np.random.default_rng(2).normal(size=(len(times), 10))
    assert decode([noise], targets, times, guard_s=0.0).r2[0] < 0.05
    flat = np.concatenate([targets, np.full_like(targets[..., :1], 3.0)], axis=2)
    found = decode([walk[0]], flat, times, guard_s=0.0)
    assert np.isnan(found.by_target).tolist() == [False, False, True]
    assert found.r2[0] > 0.8
    assert np.isnan(decode([noise], flat[..., 2:], times, guard_s=0.0).r2).all()


def test_training_rows_keep_their_distance(walk):
    """The time alone decodes what is slow, by the moments next to it; at a distance it does not."""
    features, targets, times = walk
    assert np.bincount(blocks_of(len(times), 5)).min() >= len(times) // 20
    near, far = (decode([times[:, None]], targets, times, guard_s=s, method="k-NN").r2[0] for s in (0.0, 0.5))
    assert far < near - 0.02
    assert decode([features], targets, times, guard_s=1e6).r2[0] > 0.8, "a block keeps rows to be trained on"
    train, test = np.arange(600), np.arange(600, len(times))
    prediction, lag, candidate = predict_from([features], targets, times, train, test, guard_s=0.0)
    assert (prediction.shape, lag, candidate) == ((len(test), 2), 0, 0)


def test_what_cannot_be_decoded_is_refused(walk):
    features, targets, times = walk
    with pytest.raises(ValueError, match="need 40 moments"):
        decode([features[:30]], targets[:30], times[:30], guard_s=0.0)
    with pytest.raises(ValueError, match="finite"):
        decode([np.where(features > 1, np.nan, features)], targets, times, guard_s=0.0)
