"""Contrastive losses against naive loops in float64; repeats of an image are never negatives."""

import math

import numpy as np
import pytest
import torch

from neurobridge.bridge.contrastive import Mixture, info_nce, mixco, soft_clip

SCALE = torch.tensor(math.log(7.0), dtype=torch.float64)


def naive_info_nce(predicted, target, image, scale) -> float:
    n = len(predicted)
    unit = lambda x: x / np.linalg.norm(x)  # noqa: E731
    s = [[scale * unit(predicted[i]) @ unit(target[j]) for j in range(n)] for i in range(n)]
    total = 0.0
    for i in range(n):
        same = [j for j in range(n) if image[j] == image[i]]
        for score in (lambda j, i=i: s[i][j], lambda j, i=i: s[j][i]):
            normaliser = math.log(sum(math.exp(score(j)) for j in range(n)))
            total -= sum(score(j) - normaliser for j in same) / len(same) / (2 * n)
    return total


@pytest.mark.parametrize("image", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1]])
def test_info_nce_equals_a_naive_loop_and_repeats_are_positives(image):
    rng = np.random.default_rng(0)
    predicted, target = rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
    target = target[image]
    ours = info_nce(
        torch.tensor(predicted),
        torch.tensor(target),
        torch.tensor(image),
        SCALE,
    )
    assert float(ours) == pytest.approx(naive_info_nce(predicted, target, image, 7.0), rel=1e-9)


def test_the_inverse_temperature_is_clamped():
    x, image = torch.eye(3), torch.arange(3)
    assert float(info_nce(x, x, image, torch.tensor(50.0))) == float(
        info_nce(x, x, image, torch.tensor(math.log(100.0)))
    )


def log_softmax(scores):
    return scores - math.log(sum(math.exp(s) for s in scores))


def cosines(a, b, scale=7.0):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return scale * a @ b.T


@pytest.mark.parametrize("image", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1]])
def test_mixco_equals_a_naive_loop(image):
    """Row i: its share for each picture like its own, the rest for each picture like its partner's; and back."""
    rng = np.random.default_rng(1)
    predicted, target = rng.standard_normal((5, 4)), rng.standard_normal((5, 4))[image]
    partner, share = [3, 0, 2, 1, 4], [0.3, 0.9, 1.0, 0.6, 1.0]
    s, total = cosines(predicted, target), 0.0
    for i in range(5):
        for source, part in ((i, share[i]), (partner[i], 1 - share[i])):
            same = [j for j in range(5) if image[j] == image[source]]
            for j in same:
                total -= part / len(same) * (log_softmax(s[i])[j] + log_softmax(s[:, j])[i]) / 10
    image = torch.tensor(image)
    ours = mixco(torch.tensor(predicted), torch.tensor(target), image, SCALE, image[partner], torch.tensor(share))
    assert float(ours) == pytest.approx(total, rel=1e-6)
    unmixed = mixco(torch.tensor(predicted), torch.tensor(target), image, SCALE, image[partner], torch.ones(5))
    assert float(unmixed) == pytest.approx(
        float(info_nce(torch.tensor(predicted), torch.tensor(target), image, SCALE)), rel=1e-12
    )


def test_soft_clip_equals_a_naive_loop_and_repeats_share():
    rng = np.random.default_rng(2)
    predicted, target = rng.standard_normal((5, 4)), rng.standard_normal((5, 4))[[0, 1, 0, 2, 3]]
    s, t, total = cosines(predicted, target), cosines(target, target), 0.0
    for i in range(5):
        wanted = np.exp(log_softmax(t[i]))
        total -= (wanted @ log_softmax(s[i]) + wanted @ log_softmax(s[:, i])) / 10
        assert wanted[0] == pytest.approx(wanted[2])
    assert float(soft_clip(torch.tensor(predicted), torch.tensor(target), SCALE)) == pytest.approx(total, rel=1e-9)


def test_a_mixture_stays_in_its_session_and_leaves_unknown_images_alone():
    image = torch.tensor([3, -1, 5, 3, 7, 8, -1, 9])
    drawn = [Mixture.draw(image, 2, np.random.default_rng(seed)) for seed in range(20)]
    for mixture in drawn:
        assert ((mixture.partner < 4) == (torch.arange(8) < 4)).all()
        assert (mixture.share[image < 0] == 1).all()
        assert (image[mixture.partner][mixture.share < 1] >= 0).all()
        rows = torch.randn(8, 2, 3)
        torch.testing.assert_close(mixture(rows)[mixture.share == 1], rows[mixture.share == 1])
    assert 0.2 < torch.cat([m.share < 1 for m in drawn]).float().mean() < 0.5
    first = Mixture.draw(image, 2, np.random.default_rng(0))
    assert torch.equal(first.partner, drawn[0].partner)
    assert torch.equal(first.share, drawn[0].share)
