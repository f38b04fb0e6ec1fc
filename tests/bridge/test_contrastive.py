"""The contrastive loss against a naive loop in float64; repeats of an image are never negatives."""

import math

import numpy as np
import pytest
import torch

from neurobridge.bridge.contrastive import info_nce

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
