"""From readings to pictures: the same way for any reading, its decoy, and noise that repeats take away or do not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neurobridge.evaluation.images import pixcorr
from neurobridge.pipeline.decoding import Decoded, Presentations, Split
from neurobridge.pipeline.explained import Drawer, Photographs, dreams_of, guess, windowed_readings
from neurobridge.pipeline.image_data import StackFeatures
from neurobridge.training.settings import EncodingSettings, RunSettings
from neurobridge.vision.encoders import to_tensor
from neurobridge.vision.feature_stack import FeatureStack

LAYERS, TEST = ["block2@2", "block4@2"], 8


@pytest.fixture(scope="module")
def world():
    """A stack; 90 photographs, 82 of them the library; readings [90, R] that follow their coarse pixels; layers."""
    stack = FeatureStack(layers=LAYERS, resolution=64)
    coarse = torch.rand(90, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    pixels = (F.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1) * 255).byte().numpy()
    layers = [layer.numpy() for layer in stack(to_tensor(pixels))]
    expected = coarse.flatten(1).numpy() * 4

    def photographs(rows):
        embeddings = layers[0][rows].astype(np.float32)
        return Photographs(
            pixels=pixels[rows].astype(np.float32) / 255, layers=[x[rows] for x in layers], embeddings=embeddings
        )

    return stack, photographs(slice(TEST, None)), photographs(slice(0, TEST)), expected, layers


def found(world, noise=0.1, **options):
    _, library, _, expected, _ = world
    dream = dreams_of(expected[TEST:], noise**2 * np.eye(expected.shape[1]))
    return guess(dream, expected[:TEST], library, steps=0, seed=0, **options)


def test_a_guess_looks_like_its_image_in_every_target(world):
    _, library, true, expected, _ = world
    one = found(world)
    assert one.layout.shape == true.pixels.shape
    assert pixcorr(one.layout, true.pixels).mean() > 0.5
    close = np.corrcoef(one.embedding - library.embeddings.mean(0), true.embeddings - library.embeddings.mean(0))
    assert np.diag(close[:TEST, TEST:]).mean() > close[:TEST, TEST:].mean() + 0.2
    pale = found(world, noise=30.0)
    assert pale.layout.std(0).mean() < 0.2 * one.layout.std(0).mean(), "what says little moves little"
    smaller = found(world, valid=0.1 * expected[:TEST] + expected.mean(0), known=true)
    assert not np.allclose(smaller.layout, one.layout)


def test_a_decoy_has_the_layout_of_another_image_and_the_features_of_its_own(world):
    stack, library, _, _, _ = world
    one = found(world)
    drawer = Drawer(library, stack, steps=12, seed=0)
    rows = drawer.rows(one)
    assert set(rows) == {"posterior mean", "features inverted", "nearest by decoded features"}
    assert {array.shape for array in rows.values()} == {one.layout.shape}
    np.testing.assert_array_equal(rows["features inverted"], drawer.inverted(one))
    decoy, other = drawer.inverted(one, shift=3), np.roll(one.layout, 3, axis=0)
    assert pixcorr(decoy, other).mean() > 0.6 > pixcorr(decoy, one.layout).mean() + 0.3
    assert set(Drawer(library, stack, steps=0, seed=0).rows(one)) == {"posterior mean"}


def test_presentations_scatter_less_in_an_average_and_the_encoding_errs_as_much(world, tmp_path):
    """Readings of an average over ten presentations; valid images shown twelve times say what ten take away."""
    _, library, _, expected, layers = world
    rng = np.random.default_rng(0)
    units = expected[:, :6]
    several = units[:TEST, None] + rng.normal(size=(TEST, 12, 6))
    settings = RunSettings(data=tmp_path, out=tmp_path / "run", encoding=EncodingSettings(layers=LAYERS))
    settings.image.resolution = 64

    def read(presentations):
        split = {"images": np.arange(TEST), "decoded": np.zeros((TEST, 2)), "single": np.zeros((TEST, 2))}
        decoded = Decoded(
            session="one",
            areas=np.full(6, "V1"),
            encoding=None,
            valid=Split(**split, responses=several.mean(1), repeats=12.0, presentations=presentations),
            test=Split(**split, responses=units[:TEST], repeats=10.0, presentations=None),
            train_images=np.arange(TEST, 90),
            train_responses=units[TEST:] + np.random.default_rng(1).normal(size=(82, 6)),
        )
        return windowed_readings(settings, decoded, StackFeatures(layers=layers, grids=[2, 2]), np.arange(TEST, 90))

    same = torch.zeros(4000, dtype=torch.long)
    known, unknown = (read(p) for p in (Presentations(decoded=np.zeros((TEST, 12, 2)), responses=several), None))
    scatter = [float(r.dream(same, torch.Generator().manual_seed(0)).var(0).mean()) for r in (known, unknown)]
    assert 0.7 < scatter[1] - scatter[0] < 1.1, "nine tenths of one presentation's variance, which is 1"
    assert known.library.shape == (TEST, 82)
    drawn = known.likelihood(np.repeat(library.pixels[:1], TEST, axis=0))
    np.testing.assert_allclose(drawn, known.library[:, 0], rtol=0.02)
