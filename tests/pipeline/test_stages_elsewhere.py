"""Latents, expectations, scores and pictures are computed on the run's device; seen without an accelerator."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from neurobridge.bridge.adapter import Adapter
from neurobridge.bridge.alignment import ImageHead
from neurobridge.bridge.features import FeatureTarget
from neurobridge.data.datamodule import Batcher
from neurobridge.neuro.masking import Masker, nothing_hidden
from neurobridge.neuro.modes import MODES
from neurobridge.pipeline.alignment import predict_windows
from neurobridge.pipeline.chunk_latents import chunk_latents
from neurobridge.pipeline.device import device, image_device
from neurobridge.pipeline.explained import Drawer, Guess, Photographs, looking
from neurobridge.pipeline.joint_encoding import expected_responses
from neurobridge.pipeline.latent_readings import dreamer, expected_in_chunks, mean_latents
from neurobridge.pipeline.new_units import still_the_same
from neurobridge.pipeline.pictures import paint, sketch
from neurobridge.pipeline.plan import made_up
from neurobridge.pipeline.spike_scores import hide_unit, masked_tasks, predict
from neurobridge.training.generator_training import encode_images
from neurobridge.training.image_settings import ImageSettings
from neurobridge.training.settings import RunSettings, WindowSettings
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.generator import Generator

WORLD = runpy.run_path(str(Path(__file__).parents[1] / "elsewhere.py"))
THERE, placed = WORLD["THERE"], WORLD["placed"]
make_model, elsewhere = WORLD["make_model"], WORLD["elsewhere"]


def test_pictures_from_the_small_generator():
    torch.manual_seed(0)
    sizes = {"image_size": 32, "grid": 4, "condition_width": 16, "channels": (16, 16), "sketch_width": 32}
    generator = Generator(autoencoder=PatchPCA(), **sizes).freeze()
    adapter = Adapter(embedding_width=32, condition_width=16, tokens=16, depth=1, heads=4, hidden=32, grid=4)
    placed(generator)
    placed(adapter.eval())
    condition = adapter(torch.randn(2, 32).to(THERE))
    for start in (None, torch.rand(2, 3, 32, 32).to(THERE)):
        options = {"seeds": [0, 1], "steps": 2, "guidance": 2.0, "start": start}
        drawn = generator.sample(condition, adapter.null.detach(), **options)
        assert drawn.device == THERE
    painted = paint(generator, condition, adapter.null, seeds=[0, 1], steps=1, guidance=2.0)
    assert painted.shape == (2, 32, 32, 3)
    assert sketch(generator, adapter, np.zeros((2, 32), np.float32)).shape == (2, 32, 32, 3)
    assert encode_images(generator, np.zeros((2, 32, 32, 3), np.uint8)).device.type == "cpu"


@pytest.fixture
def session():
    """A session of Poisson spikes and images, its model and its head, on the device THERE."""
    made = made_up(0, 8, 20.0, RunSettings(window=WindowSettings(window_ms=100)))
    model = make_model()
    model.units.extend(made.recording.unit_keys, log_rates=torch.full((8,), -0.5))
    rows = {made.name: model.units.rows_of(made.recording.unit_keys)}
    batcher = Batcher([made], rows_of_units=rows, bin_ms=10, device=THERE)
    tokens = len(model.encoder.latent_times(100))
    head = ImageHead(tokens=tokens, width=16, queries=2, hidden=8, dimensions=7)
    return made, placed(model.eval()), placed(head.eval()), batcher


def test_latents_predictions_and_expectations_of_a_session(session):
    _, model, head, batcher = session
    rows, maps = np.arange(6), torch.randn(64, 9, 5).half()
    assert predict_windows(model, head, batcher, 0, rows).shape == (6, 7)
    assert chunk_latents(model, batcher, 0, most=20)[0].shape[1] == 2 * 16
    assert mean_latents(model, batcher, 0, "train", np.arange(3)).shape[0] == 3
    assert expected_responses(model, batcher, 0, maps, np.arange(4)).shape == (4, 8)
    assert expected_in_chunks(model, batcher, 0, maps, np.arange(4)).shape == (4, 8, 2)


def test_dreams_of_a_session(session):
    _, model, _, batcher = session
    encoding = SimpleNamespace(noise=SimpleNamespace(model=np.eye(8)), offset=np.zeros(8))
    known = SimpleNamespace(encoding=encoding, test=SimpleNamespace(repeats=2.0))
    dream = dreamer(model, batcher, 0, torch.randn(64, 9, 5).half(), np.arange(4), known)
    assert dream(torch.tensor([0, 1, 3]), torch.Generator().manual_seed(0)).device.type == "cpu"


def test_scores_of_spikes(session):
    made, model, _, batcher = session
    rows = np.arange(6)
    for plan in (hide_unit(1), nothing_hidden):
        assert np.isfinite(predict(model, batcher, 0, rows, plan)).all()
    made.rows = lambda split: rows
    assert masked_tasks(model, batcher, 0, MODES)


def test_units_that_are_carried_over(session):
    _, model, _, batcher = session
    vectors = torch.randn(2, 8, 8)
    found = still_the_same(model, batcher, 0, vectors[0], vectors[1], Masker(), seed=0)
    assert found.shape == (8,)


class OneLayer(torch.nn.Module):
    """In the place of a stack of an image encoder's layers: one of 12 numbers."""

    encoders = (SimpleNamespace(resolution=32),)

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(
            torch.nn.Conv2d(3, 12, 4, 4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.layer(images)]


def test_features_are_inverted():
    library = Photographs(
        pixels=np.random.default_rng(0).random((6, 32, 32, 3), np.float32),
        layers=[np.random.default_rng(1).random((6, 12), np.float32)],
        embeddings=np.zeros((6, 4), np.float32),
    )
    target = FeatureTarget(library.layers)
    decoded = target.decoded(target.joined(library.layers)[:2])
    guess = Guess(layout=library.pixels[:2], features=decoded, embedding=library.embeddings[:2])
    drawer = Drawer(library, OneLayer(), steps=2, seed=0, device=THERE)
    assert drawer.inverted(guess).shape == (2, 32, 32, 3)


def test_features_of_pictures_come_back():
    stack = looking(OneLayer(), THERE)
    assert stack(torch.rand(2, 3, 32, 32))[0].device.type == "cpu"


def test_images_are_embedded_where_all_else_is_computed(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    for asked, found in {"auto": "cuda", "gpu": "cuda", "cpu": "cpu"}.items():
        settings = RunSettings(accelerator=asked)
        assert device(settings).type == torch.device(image_device(settings)).type == found
    assert image_device(RunSettings(accelerator="cpu", image=ImageSettings(device="cuda"))) == "cuda"
