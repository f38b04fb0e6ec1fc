"""The cache of embeddings under two writers at once, a killed run, and options of speed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from neurobridge.data.images import ImageSet
from neurobridge.errors import UserError
from neurobridge.vision import embedding_cache
from neurobridge.vision.encoders import ImageEncoder, embed_images

WRITER = """
import sys, time
from pathlib import Path
import numpy as np, torch
from neurobridge.vision import embedding_cache
from neurobridge.vision.encoders import ImageEncoder, embed_images
torch.set_num_threads(1)
folder, number = Path(sys.argv[1]), int(sys.argv[2])
embedding_cache.SHARD = 3
images = np.load(folder / "images.npz")
encoder = ImageEncoder(layer="block1", grid=2, resolution=32)
rows = slice(0, 20) if number == 0 else slice(8, 30)
(folder / f"ready{number}").touch()
while not (folder / "go").exists():
    time.sleep(0.005)
values = embed_images(encoder, images["ids"][rows], images["pixels"][rows], folder / "cache", progress=False)
np.save(folder / f"values{number}.npy", values)
"""


@pytest.fixture(scope="module")
def encoder():
    return ImageEncoder(layer="block1", grid=2, resolution=32)


@pytest.fixture(scope="module")
def images():
    return ImageSet.from_pixels(np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8))


@pytest.fixture
def computed(encoder):
    """How many images the encoder has seen, one entry a batch."""
    sizes: list[int] = []
    handle = encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    yield sizes
    handle.remove()


def test_two_processes_fill_one_cache(encoder, images, tmp_path, computed):
    want = embed_images(encoder, images.ids, images.pixels, None, progress=False)
    np.savez(tmp_path / "images.npz", ids=images.ids.astype(str), pixels=images.pixels)
    source = Path(embedding_cache.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(source)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)], env=environment) for n in range(2)
    ]
    while not all((tmp_path / f"ready{n}").exists() for n in range(2)):
        assert all(w.poll() is None for w in writers), "a writer died"
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [w.wait(timeout=120) for w in writers] == [0, 0]

    np.testing.assert_allclose(np.load(tmp_path / "values0.npy"), want[:20], atol=2e-3)
    np.testing.assert_allclose(np.load(tmp_path / "values1.npy"), want[8:], atol=2e-3)
    computed.clear()
    again = embed_images(encoder, images.ids, images.pixels, tmp_path / "cache", progress=False)
    np.testing.assert_allclose(again, want, atol=2e-3)
    assert not computed, "everything was there"
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_killed_run_goes_on_where_it_stopped(encoder, images, tmp_path, computed, monkeypatch):
    monkeypatch.setattr(embedding_cache, "SHARD", 6)

    def power_cut(*_):
        if len(computed) == 5:
            raise KeyboardInterrupt

    handle = encoder.register_forward_hook(power_cut)
    with pytest.raises(KeyboardInterrupt):
        embed_images(encoder, images.ids, images.pixels, tmp_path, batch_size=3, progress=False)
    handle.remove()
    assert sum(computed) == 15  # two shards of six are safe, three images of the third are lost

    computed.clear()
    got = embed_images(encoder, images.ids, images.pixels, tmp_path, batch_size=3, progress=False)
    assert sum(computed) == 30 - 12
    np.testing.assert_allclose(got, embed_images(encoder, images.ids, images.pixels, None, progress=False), atol=2e-3)


def test_the_batch_size_is_kept_and_changes_nothing(encoder, images, computed):
    one = embed_images(encoder, images.ids, images.pixels, None, batch_size=7, progress=False)
    assert computed == [7, 7, 7, 7, 2]
    two = embed_images(encoder, images.ids, images.pixels, None, batch_size=30, device="auto", progress=False)
    np.testing.assert_allclose(one, two, atol=2e-3)
    assert one.dtype == np.float32
    assert next(encoder.parameters()).device.type == "cpu"


def test_progress_names_the_encoder(encoder, images, capsys):
    embed_images(encoder, images.ids[:3], images.pixels[:3], None)
    assert "image embeddings (efficientnet-lite0 block1)" in capsys.readouterr().out
    embed_images(encoder, images.ids[:0], images.pixels[:0], None)
    assert capsys.readouterr().out.strip() == ""


def test_numbers_beyond_float16_are_refused(encoder, images, tmp_path):
    handle = encoder.register_forward_hook(lambda _, __, output: output * 1e9)
    with pytest.raises(UserError, match="block1 of image encoder 'efficientnet-lite0' exceeds"):
        embed_images(encoder, images.ids, images.pixels, tmp_path, progress=False)
    handle.remove()
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_named(encoder, images):
    with pytest.raises(UserError, match=r"image\.device"):
        embed_images(encoder, images.ids, images.pixels, None, device="cuda", progress=False)
