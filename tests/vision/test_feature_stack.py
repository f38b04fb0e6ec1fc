"""Layers of one network in one pass: equal to one encoder each, and cached where they would cache."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neurobridge.data.images import ImageSet
from neurobridge.errors import UserError
from neurobridge.vision.encoders import ImageEncoder, embed_images, to_tensor
from neurobridge.vision.feature_stack import FeatureStack, embed_stack

pytest.importorskip("efficientnet_lite_pytorch")
LAYERS = ("block2@8", "block7@4", "pooled")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return ImageSet.from_pixels(np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def stack() -> FeatureStack:
    return FeatureStack(layers=LAYERS, resolution=64)


def test_one_pass_equals_one_encoder_a_layer(stack: FeatureStack, images: ImageSet) -> None:
    pictures = to_tensor(images.pixels)
    alone = [
        ImageEncoder(layer="block2", grid=8, resolution=64),
        ImageEncoder(layer="block7", grid=4, resolution=64),
        ImageEncoder(layer="pooled", resolution=64),
    ]
    assert [e.hash for e in alone] == [e.hash for e in stack.encoders]
    for encoder, features in zip(alone, stack(pictures), strict=True):
        torch.testing.assert_close(features, encoder(pictures))
    assert stack.grids == [8, 4, 0]


def test_the_cache_is_shared_with_single_encoders(stack: FeatureStack, images: ImageSet, tmp_path: Path) -> None:
    fresh = embed_stack(stack, images.ids, images.pixels, None, progress=False)
    embed_stack(stack, images.ids[:3], images.pixels[:3], tmp_path, progress=False)
    again = embed_stack(stack, images.ids, images.pixels, tmp_path, progress=False)
    blank = np.zeros_like(images.pixels)
    for want, got, encoder in zip(fresh, again, stack.encoders, strict=True):
        np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=1e-2, atol=1e-2)
        np.testing.assert_array_equal(embed_images(encoder, images.ids, blank, tmp_path, progress=False), got)
    cached = embed_stack(stack, images.ids[::-1], blank, tmp_path, progress=False)
    for want, got in zip(again, cached, strict=True):
        np.testing.assert_array_equal(got, want[::-1])


def test_a_lost_layer_is_made_again(stack: FeatureStack, images: ImageSet, tmp_path: Path) -> None:
    want = embed_stack(stack, images.ids, images.pixels, tmp_path, progress=False)
    for shard in (tmp_path / stack.encoders[1].hash).glob("*.npz"):
        shard.write_bytes(b"cut short")
    for left, right in zip(embed_stack(stack, images.ids, images.pixels, tmp_path, progress=False), want, strict=True):
        np.testing.assert_array_equal(left, right)


def test_gradients_reach_the_images(stack: FeatureStack) -> None:
    pictures = torch.rand(1, 3, 64, 64, requires_grad=True)
    sum(layer.sum() for layer in stack(pictures)).backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


@pytest.mark.parametrize("layers", [(), ("block2@8", "block2@8"), ("block2",), ("block2@x",), ("block99@4",)])
def test_layers_that_make_no_sense_are_a_sentence(layers: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        FeatureStack(layers=layers, resolution=64)
