"""Decoders of embeddings and pixels that ours has to beat: they learn a planted code, the same for the same seed."""

import math

import numpy as np
import pytest
import torch

from neurobridge.baselines.cnn import CNNDecoder, FieldLayer, gaussian_fields
from neurobridge.baselines.contrastive import ContrastiveDecoder, contrastive_loss
from neurobridge.baselines.ridge import RidgeDecoder

SHORT = {"steps": 120, "batch": 64, "hidden": 64, "dropout": 0.1, "learning_rate": 3e-3}


def planted(rows, seed, bins=6, units=20, latent=5):
    """Responses [I, T, N] that carry an embedding [I, D] in time bins 2 and 3 only."""
    mixing = np.random.default_rng(9).normal(size=(latent, units))
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(rows, latent))
    response = rng.normal(size=(rows, bins, units))
    response[:, 2:4] += (1.2 * embedding @ mixing)[:, None]
    return response, embedding


def top1(predicted, target) -> float:
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    return float(((unit(predicted) @ unit(target).T).argmax(1) == np.arange(len(target))).mean())


@pytest.mark.parametrize("image", [[0, 1, 2, 3], [0, 1, 0, 2]])
def test_the_loss_equals_a_naive_loop(image):
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))[image]
    s = 5.0 * (p / np.linalg.norm(p, axis=1)[:, None]) @ (t / np.linalg.norm(t, axis=1)[:, None]).T
    total = 0.0
    for i in range(4):
        same = [j for j in range(4) if image[j] == image[i]]
        for scores in (s[i], s[:, i]):
            total -= sum(scores[j] - math.log(np.exp(scores).sum()) for j in same) / len(same) / 8
    scale = torch.tensor(math.log(5.0), dtype=torch.float64)
    assert float(contrastive_loss(torch.tensor(p), torch.tensor(t), torch.tensor(image), scale)) == pytest.approx(total)


@pytest.mark.parametrize("attention", [False, True])
def test_contrastive_mlps_identify_held_out_rows(attention):
    response, embedding = planted(400, 0)
    held_out, truth = planted(40, 1)
    decoder = ContrastiveDecoder(attention=attention, **SHORT).fit(response, embedding)
    predicted = decoder.predict(held_out)
    assert predicted.shape == (40, 5)
    np.testing.assert_allclose(np.linalg.norm(predicted, axis=1), 1, rtol=1e-5)
    assert top1(predicted, truth) > 0.25, "chance is 0.025"
    assert np.mean(decoder.losses[-10:]) < np.mean(decoder.losses[:10]) - 1
    again = ContrastiveDecoder(attention=attention, **SHORT).fit(response, embedding)
    np.testing.assert_array_equal(predicted, again.predict(held_out))
    other = ContrastiveDecoder(attention=attention, seed=1, **SHORT).fit(response, embedding)
    assert not np.array_equal(predicted, other.predict(held_out))


def test_attention_finds_the_bins_that_tell_and_wants_time():
    response, embedding = planted(400, 0)
    decoder = ContrastiveDecoder(attention=True, **SHORT).fit(response, embedding)
    weights = decoder.time_weights(planted(40, 1)[0]).mean(0)
    assert weights.sum() == pytest.approx(1)
    assert weights[2:4].min() > weights[[0, 1, 4, 5]].max()
    with pytest.raises(ValueError, match="attention over time"):
        ContrastiveDecoder(attention=True).fit(response.mean(1), embedding)


def test_responses_without_time_are_their_own_mean():
    response, embedding = planted(100, 0)
    short = {**SHORT, "steps": 5}
    averaged = ContrastiveDecoder(**short).fit(response[:, :1], embedding).predict(response[:, :1])
    np.testing.assert_array_equal(
        ContrastiveDecoder(**short).fit(response[:, 0], embedding).predict(response[:, 0]), averaged
    )


def test_fields_paint_where_they_are():
    centres = np.array([[0.2, 0.2], [0.8, 0.5]])
    fields = gaussian_fields(centres, side=8)
    assert np.unravel_index(fields[1].argmax(), (8, 8))[1] == 6, "x is the column"
    np.testing.assert_allclose(fields.mean((1, 2)), 1)
    layer = FieldLayer(units=2, channels=3, side=8, fields=torch.as_tensor(fields, dtype=torch.float32))
    x = torch.randn(4, 2)
    naive = sum(
        x[:, n, None, None, None] * layer.weight[n][:, None, None] * torch.as_tensor(fields[n], dtype=torch.float32)
        for n in range(2)
    )
    torch.testing.assert_close(layer(x), naive)
    learned = FieldLayer(units=2, channels=3, side=8, fields=None).fields()
    torch.testing.assert_close(learned.mean((1, 2)), torch.ones(2))


@pytest.mark.parametrize("known", [False, True])
def test_the_convolutional_decoder_draws_where_the_spot_was(known):
    """Units with receptive fields answer to a bright spot; pictures of new responses show it in its place."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0.1, 0.9, (30, 2))
    axis = (np.arange(32) + 0.5) / 32

    def data(rows, rng):
        spot = rng.uniform(0.2, 0.8, (rows, 2))
        light = np.exp(-((axis[:, None] - spot[:, None, None, 1]) ** 2 + (axis - spot[:, None, None, 0]) ** 2) / 0.02)
        response = np.exp(-((spot[:, None] - centres) ** 2).sum(-1) / 0.05) + 0.1 * rng.normal(size=(rows, 30))
        return response, np.repeat((255 * light[..., None]).astype(np.uint8), 3, -1)

    options = {"size": 16, "side": 4, "channels": 8, "steps": 90, "batch": 32, "learning_rate": 1e-2}
    responses, pixels = data(300, rng)
    decoder = CNNDecoder(**options).fit(responses, pixels, centres if known else None)
    held_out, truth = data(30, np.random.default_rng(1))
    drawn = decoder.predict(held_out)
    assert drawn.shape == (30, 16, 16, 3)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    truth = truth.reshape(30, 16, 2, 16, 2, 3).mean((2, 4)) / 255
    assert top1(drawn.reshape(30, -1) - drawn.mean(0).ravel(), truth.reshape(30, -1) - truth.mean(0).ravel()) > 0.3
    assert np.mean(decoder.losses[-10:]) < 0.85 * np.mean(decoder.losses[:10])


def test_pictures_are_the_same_for_the_same_seed():
    rng = np.random.default_rng(0)
    responses, pixels = rng.normal(size=(40, 6)), rng.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    options = {"size": 16, "side": 4, "channels": 4, "steps": 5, "batch": 8}
    first, again, other = (CNNDecoder(seed=s, **options).fit(responses, pixels).predict(responses) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_ridge_for_a_generator_is_as_spread_as_what_it_decodes():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 5))
    responses = hidden @ rng.normal(size=(5, 12)) + 3.0 * rng.normal(size=(400, 12))
    embeddings = 7.0 + hidden @ rng.normal(size=(5, 8)) + rng.normal(size=(400, 8))
    embeddings[:, 3] = 2.0
    ridge = RidgeDecoder().fit(responses[:300], embeddings[:300])
    plain, spread = ridge.predict(responses[300:]), ridge.predict_spread(responses[300:])
    np.testing.assert_allclose(spread[:, 3], 2.0, atol=1e-6)
    kept = np.arange(8) != 3
    plain, spread, true = plain[:, kept], spread[:, kept], embeddings[300:, kept]
    assert (plain.std(0) < 0.8 * true.std(0)).all()
    np.testing.assert_allclose(spread.std(0), true.std(0), rtol=0.3)
    np.testing.assert_allclose(spread.mean(0), true.mean(0), atol=0.6)
    along = [np.corrcoef(a, b)[0, 1] for a, b in zip(plain.T, spread.T, strict=True)]
    np.testing.assert_allclose(along, 1.0)
