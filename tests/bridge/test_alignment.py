"""The embedding space, the head that reads latents alone, the maps that the backbone reads."""

import numpy as np
import pytest
import torch

from neurobridge.bridge.alignment import EmbeddingSpace, ImageHead
from neurobridge.bridge.image_maps import ImageMaps

SIZES = {"tokens": 5, "width": 16, "queries": 2, "hidden": 8, "dimensions": 7, "dropout": 0.0}


def test_embedding_space_inverts_and_whitens():
    torch.manual_seed(0)
    embeddings = torch.randn(200, 6) * torch.tensor([5.0, 3, 2, 1, 0.5, 0.1]) + 4
    space = EmbeddingSpace.fit(embeddings, dimensions=6, whitening=1.0)
    target = space(embeddings)
    torch.testing.assert_close(target.std(0, correction=0), torch.ones(6), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(space.inverse(target), embeddings, rtol=1e-4, atol=1e-4)
    assert EmbeddingSpace.fit(embeddings, dimensions=2, whitening=0.0)(embeddings).shape == (200, 2)


def test_latents_are_standardised_by_statistics_of_training_windows():
    torch.manual_seed(0)
    head = ImageHead(**SIZES)
    latent = 10 + torch.randn(64, 5, 16) * 0.01
    for _ in range(200):
        head(latent)
    head.eval()
    read = head.read(latent)
    assert float(read.abs().mean()) > 0.1, "what varies is as large as what is always there"
    torch.testing.assert_close(read.mean(0), torch.zeros(32), rtol=0, atol=0.05)
    with pytest.raises(AssertionError, match="another length"):
        head(torch.randn(4, 6, 16))


@pytest.mark.parametrize(("readout", "read"), [("average", slice(1, None)), ("cls", slice(0, 1))])
def test_average_and_cls_read_what_they_say(readout, read):
    torch.manual_seed(0)
    head = ImageHead(**SIZES, readout=readout, in_front=True).eval()
    torch.nn.init.normal_(head.projector[-1].weight)
    latent = torch.randn(4, 5, 16)
    vector = head.standard(latent.flatten(1)).view_as(latent)[:, read].mean(1)
    torch.testing.assert_close(head(latent), head.linear(vector) + head.projector(vector))


def test_queries_start_as_the_average_and_follow_place_and_content():
    torch.manual_seed(0)
    head = ImageHead(**SIZES).eval()
    latent = torch.randn(4, 5, 16)
    x = head.standard(latent.flatten(1)).view_as(latent)
    torch.testing.assert_close(head.read(latent), x.mean(1).repeat(1, 2))
    head.place.data[1, 0] = 50.0
    torch.testing.assert_close(head.read(latent)[:, :16], x[:, 1])
    head.content.data.normal_()
    weight = (head.place + x @ head.content).softmax(1)
    naive = torch.stack([sum(weight[:, m, q, None] * x[:, m] for m in range(5)) for q in range(2)], 1)
    torch.testing.assert_close(head.read(latent), naive.flatten(1))
    mine = {id(p) for p in [*head.fast(), *head.projector.parameters()]}
    assert mine == {id(p) for p in head.parameters()}


def test_maps_put_layers_of_several_grids_on_one():
    rng = np.random.default_rng(0)
    fine, coarse, vector = rng.normal(size=(50, 3 * 16)), rng.normal(size=(50, 2 * 4)), rng.normal(size=(50, 4))
    maps = ImageMaps.fit([fine, coarse, vector], [4, 2, 0], side=4, components=6)
    table = maps.table([fine, coarse, vector])
    assert table.shape == (50, 16, 6)
    assert table.dtype == torch.float16
    common = maps.common([fine, coarse, vector])
    np.testing.assert_allclose(common[7, 5, :3], fine[7].reshape(3, 16)[:, 5], rtol=1e-5)
    np.testing.assert_allclose(common[7, :, 5:], np.repeat(vector[7][None], 16, 0), rtol=1e-5)
    deviation = maps([fine, coarse, vector]).flatten(0, 1).std(0)
    assert float(deviation[0]) == pytest.approx(3.0, rel=0.02)
    assert (deviation.diff() <= 1e-4).all(), "in order of their variance"
    again = ImageMaps(**maps.options)
    again.load_state_dict(maps.state_dict())
    torch.testing.assert_close(again.table([fine, coarse, vector]), table)
