"""The embedding space, the population path with its kinds of time, the readouts."""

import math

import pytest
import torch

from neurobridge.bridge.alignment import AlignmentHead, EmbeddingSpace, TimeAttention, population_response
from neurobridge.neuro.batch import collate_windows


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


def test_each_unit_answers_in_the_window_of_its_area():
    """Against a naive count: bins whose centre lies in the unit's window, mean and deviation for so many bins."""
    batch = collate_windows(
        unit_rows=[[0, 1]],
        regions=[[0, 1]],
        windows=[[([0, 0, 0, 1, 1], [5, 31, 44, 44, 95], None)]],
        window_ms=100,
        bin_ms=10,
    )
    bias = torch.log(torch.tensor([[0.5, 0.25]]))
    window = torch.tensor([[[30, 50], [60, 100]]])
    response = population_response(batch, bias, torch.zeros(1, 2, dtype=torch.bool), 50, window=window)
    expected = [(2 - 2 * 0.5) / math.sqrt(2 * 0.5), (1 - 4 * 0.25) / math.sqrt(4 * 0.25)]
    torch.testing.assert_close(response, torch.tensor([[expected]]) / math.sqrt(2))
    whole = torch.tensor([[[0, 100], [0, 100]]])
    torch.testing.assert_close(
        population_response(batch, bias, torch.zeros(1, 2, dtype=torch.bool), 50, window=whole),
        population_response(batch, bias, torch.zeros(1, 2, dtype=torch.bool), 100),
    )


SIZES = {"units": 3, "chunks": 2, "tokens": 5, "width": 16, "heads": 2, "queries": 2, "loadings": 4, "hidden": 8}
SIZES |= {"dimensions": 7, "dropout": 0.0}


@pytest.mark.parametrize(("readout", "read"), [("average", slice(1, None)), ("cls", slice(0, 1))])
def test_average_and_cls_read_what_they_say(readout, read):
    torch.manual_seed(0)
    head = AlignmentHead(**SIZES, readout=readout, in_front=True)
    torch.nn.init.normal_(head.projector[-1].weight)
    latent, response = torch.randn(4, 5, 16), torch.zeros(4, 2, 2)
    vector = latent[:, read].mean(1)
    expected = head.population.bias + head.linear(vector) + head.projector(vector)
    torch.testing.assert_close(head(latent, response, torch.tensor([[0, 1], [2, 0]])), expected)


@pytest.mark.parametrize("time", ["chunks", "attention"])
def test_without_loadings_the_latents_speak_alone(time):
    head = AlignmentHead(**SIZES | {"loadings": 0}, time=time)
    latent, row = torch.randn(4, 5, 16), torch.tensor([[0, 1], [2, 0]])
    torch.testing.assert_close(head(latent, torch.randn(4, 2, 2), row), head(latent, torch.zeros(4, 2, 2), row))
    assert head(latent, torch.zeros(4, 2, 2), row).shape == (4, 7)


def test_a_hidden_layer_of_the_population_path():
    torch.manual_seed(0)
    head = AlignmentHead(**SIZES, population_hidden=6)
    latent, response, row = torch.randn(4, 5, 16), torch.randn(4, 2, 2), torch.tensor([[0, 1], [2, 0]])
    summed = torch.einsum("gbcn,gnr->gbcr", response.unflatten(0, (2, 2)), head.loading[row]).flatten(0, 1).flatten(1)
    norm, first, _, _, last = head.population
    expected = last(torch.nn.functional.gelu(first(norm(summed))))
    torch.testing.assert_close(
        head(latent, response, row)
        - head(latent, 0 * response, row)
        + last(torch.nn.functional.gelu(first(norm(0 * summed)))),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


def test_attention_over_time_starts_as_the_average_and_follows_its_scores():
    torch.manual_seed(0)
    attention, x = TimeAttention(chunks=3, width=4, heads=2), torch.randn(5, 3, 4)
    torch.testing.assert_close(attention(x), x.mean(1))
    attention.when.data[1] = 50.0
    torch.testing.assert_close(attention(x), x[:, 1])
    attention.when.data[1] = 0.0
    attention.score.weight.data.normal_()
    weight = torch.softmax(x @ attention.score.weight.T, 1)
    naive = torch.stack([sum(weight[:, c, r // 2] * x[:, c, r] for c in range(3)) for r in range(4)], 1)
    torch.testing.assert_close(attention(x), naive)
    head = AlignmentHead(**SIZES, time="attention")
    head(torch.randn(4, 5, 16), torch.randn(4, 2, 2), torch.tensor([[0, 1], [2, 0]])).sum().backward()
    assert head.attention.when.grad.abs().sum() > 0
    odd = AlignmentHead(**SIZES | {"loadings": 5}, time="attention")
    assert odd.attention.when.shape == (2, 1), "loadings that the heads do not divide share their weights"
