"""The contrastive loss against a naive loop, the embedding space, the population path."""

import math

import numpy as np
import pytest
import torch

from neurobridge.bridge.alignment import AlignmentHead, EmbeddingSpace, info_nce, population_response
from neurobridge.neuro.batch import collate_windows


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
        torch.tensor(math.log(7.0), dtype=torch.float64),
    )
    assert float(ours) == pytest.approx(naive_info_nce(predicted, target, image, 7.0), rel=1e-9)


def test_the_inverse_temperature_is_clamped():
    x, image = torch.eye(3), torch.arange(3)
    assert float(info_nce(x, x, image, torch.tensor(50.0))) == float(
        info_nce(x, x, image, torch.tensor(math.log(100.0)))
    )


def test_embedding_space_inverts_and_whitens():
    torch.manual_seed(0)
    embeddings = torch.randn(200, 6) * torch.tensor([5.0, 3, 2, 1, 0.5, 0.1]) + 4
    space = EmbeddingSpace.fit(embeddings, dimensions=6, whitening=1.0)
    target = space(embeddings)
    torch.testing.assert_close(target.std(0, correction=0), torch.ones(6), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(space.inverse(target), embeddings, rtol=1e-4, atol=1e-4)
    assert EmbeddingSpace.fit(embeddings, dimensions=2, whitening=0.0)(embeddings).shape == (200, 2)


def windows(values=None):
    def window(count):
        value = None if values is None else [values] * count
        return [0] * count, [10] * count, value

    return collate_windows(
        unit_rows=[[0, 1], [2]],
        regions=[[0, 0], [0]],
        windows=[[window(4), window(1)], [window(2), window(2)]],
        window_ms=100,
        bin_ms=10,
    )


def test_population_response_standardises_counts():
    batch = windows()
    bias = torch.log(torch.full((2, 2), 0.2))  # 0.2 expected spikes a bin, 1 a chunk of 50 ms
    response = population_response(batch, bias, torch.zeros(4, 2, dtype=torch.bool), 50)
    assert response.shape == (4, 2, 2)
    scale = math.sqrt(2)
    torch.testing.assert_close(response[0, :, 0] * scale, torch.tensor([3.0, -1.0]))
    torch.testing.assert_close(response[2, :, 0], torch.tensor([1.0, -1.0]))
    assert (response[2:, :, 1] == 0).all(), "a padded unit says nothing"
    hidden = torch.tensor([[True, False]] * 4)
    assert (population_response(batch, bias, hidden, 50)[:, :, 0] == 0).all()


def test_population_response_keeps_values():
    response = population_response(windows(2.5), torch.zeros(2, 2), torch.zeros(4, 2, dtype=torch.bool), 100)
    assert float(response[2, 0, 0]) == pytest.approx(5.0)


def test_head_shapes_and_window_length():
    head = AlignmentHead(
        units=3, chunks=2, tokens=4, width=16, heads=2, queries=2, loadings=5, hidden=8, dimensions=7, dropout=0.1
    )
    batch = windows()
    out = head(torch.randn(4, 4, 16), torch.randn(4, 2, 2), batch.unit_row)
    assert out.shape == (4, 7)
    with pytest.raises(AssertionError, match="another length"):
        head(torch.randn(4, 6, 16), torch.randn(4, 2, 2), batch.unit_row)
