"""Training a generator on a set of images: it learns, it resumes, and a new adapter fits the frozen result."""

import numpy as np
import pytest
import torch

from neurobridge.bridge.adapter import Adapter
from neurobridge.data.images import ImageSet
from neurobridge.errors import UserError
from neurobridge.training.generator_training import encode_images, train_condition, train_generator
from neurobridge.training.trainer import read_metrics
from neurobridge.vision.encoders import ImageEncoder, embed_images
from neurobridge.vision.generator import Generator

SMALL = {"image_size": 32, "grid": 4, "condition_width": 16, "channels": (16, 16), "sketch_width": 32, "batch_size": 8}


@pytest.fixture(scope="module")
def images():
    """Discs of one colour on a ground of another."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    pixels = np.empty((48, 32, 32, 3), np.uint8)
    for image in pixels:
        disc = (x - rng.integers(8, 24)) ** 2 + (y - rng.integers(8, 24)) ** 2 < rng.integers(4, 9) ** 2
        image[:] = np.where(disc[..., None], rng.integers(0, 256, 3), rng.integers(0, 256, 3))
    return ImageSet.from_pixels(pixels)


@pytest.fixture(scope="module")
def encoder():
    return ImageEncoder(layer="block4", grid=4, resolution=64)


@pytest.fixture(scope="module")
def trained(images, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    settings = {**SMALL, "steps": 50, "sketch_steps": 150, "learning_rate": 5e-3, "cache_dir": folder}
    train_generator(images.pixels, images.ids, folder, encoder=encoder, progress=False, **settings)
    return folder


def new_adapter(encoder):
    return Adapter(embedding_width=encoder.width, condition_width=16, tokens=16, depth=1, heads=4, hidden=32, grid=4)


def two_way(pictures: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of wrong targets that correlate less with a picture than its own."""
    correlation = torch.corrcoef(torch.cat([pictures, targets]).flatten(1))[: len(pictures), len(pictures) :]
    wins = correlation < correlation.diagonal()[:, None]
    return (wins.float().sum() / (len(pictures) * (len(pictures) - 1))).item()


def test_true_embeddings_identify_their_images(images, encoder, trained):
    generator, adapter = Generator.load(trained), Adapter.load(trained)
    embeddings = torch.from_numpy(embed_images(encoder, images.ids, images.pixels, trained, progress=False))
    condition = adapter(embeddings[:24]).detach()
    drawn = generator.sample(condition, adapter.null.detach(), seeds=list(range(24)), steps=5, guidance=1.0)
    targets = torch.from_numpy(images.pixels[:24]).permute(0, 3, 1, 2) / 255.0
    assert two_way(generator.decode(generator.sketch(condition)).detach(), targets) > 0.9
    assert two_way(drawn, targets) > 0.75
    assert not (trained / "checkpoints").exists()


def test_a_new_adapter_learns_through_the_frozen_generator(images, encoder, trained, tmp_path):
    generator = Generator.load(trained).freeze()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    embeddings = torch.from_numpy(embed_images(encoder, images.ids, images.pixels, trained, progress=False))
    torch.manual_seed(1)
    adapter = new_adapter(encoder)
    train_condition(
        generator,
        adapter,
        encode_images(generator, images.pixels),
        embeddings,
        out=tmp_path,
        steps=50,
        sketch_steps=100,
        batch_size=8,
        learning_rate=5e-3,
    )
    rows = read_metrics(tmp_path / "metrics.csv")
    sketch = [float(row["value"]) for row in rows if row["name"] == "train/sketch"]
    assert np.mean(sketch[5:10]) < 0.6 * np.mean(sketch[:5])
    assert "train/denoising" in {row["name"] for row in rows}
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_interrupted_training_ends_where_an_uninterrupted_one_ends(images, encoder, trained, tmp_path):
    embeddings = torch.from_numpy(embed_images(encoder, images.ids, images.pixels, trained, progress=False))

    def run(folder, steps_to_run):
        torch.manual_seed(0)
        generator = Generator.load(trained)
        latents = encode_images(generator, images.pixels)
        adapter = Adapter(
            embedding_width=encoder.width, condition_width=16, tokens=16, depth=1, heads=4, hidden=32, grid=4
        )
        if steps_to_run is not None:
            generator.latent_losses = stop_after(steps_to_run, generator.latent_losses)
        train_condition(
            generator,
            adapter,
            latents,
            embeddings,
            steps=20,
            sketch_steps=50,
            batch_size=4,
            out=folder,
        )
        return torch.cat([p.detach().flatten() for p in (*generator.parameters(), *adapter.parameters())])

    def stop_after(count, losses):
        calls = iter(range(count))

        def counted(*arguments, **named):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return losses(*arguments, **named)

        return counted

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", steps_to_run=10)
    resumed = run(tmp_path / "run", steps_to_run=None)
    assert torch.equal(resumed, run(tmp_path / "whole", steps_to_run=None))


def test_a_kept_checkpoint_leaves_nothing_to_do(images, encoder, trained, tmp_path):
    embeddings = torch.from_numpy(embed_images(encoder, images.ids, images.pixels, trained, progress=False))
    generator = Generator.load(trained).freeze()
    latents = encode_images(generator, images.pixels)
    options = {"steps": 3, "sketch_steps": 3, "batch_size": 4, "out": tmp_path / "run"}
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        adapter = new_adapter(encoder)
        train_condition(generator, adapter, latents, embeddings, **options)
        results.append(torch.cat([p.detach().flatten() for p in adapter.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize("how", ["cut", "flipped", "emptied", "another training"])
def test_a_spoilt_checkpoint_of_an_adapter_is_named_and_the_one_before_is_taken(
    images, encoder, trained, tmp_path, capsys, how
):
    embeddings = torch.from_numpy(embed_images(encoder, images.ids, images.pixels, trained, progress=False))
    generator = Generator.load(trained).freeze()
    latents = encode_images(generator, images.pixels)

    def run(folder, **changes):
        torch.manual_seed(2)
        adapter = new_adapter(encoder)
        options = {"steps": 0, "sketch_steps": 150, "batch_size": 2, "out": folder} | changes
        train_condition(generator, adapter, latents, embeddings, **options)
        return torch.cat([p.detach().flatten() for p in adapter.parameters()])

    whole = run(tmp_path)
    folder = tmp_path / "checkpoints" / "adapter"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["step=100.ckpt", "step=150.ckpt"], "the last two are kept"
    path = folder / "step=150.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    if how == "another training":
        assert not torch.equal(run(tmp_path, seed=5), whole)
        assert capsys.readouterr().err.count("belongs to another training") == 2
        return
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "emptied": b""}[how])
    assert torch.equal(run(tmp_path), whole)
    assert str(path) in capsys.readouterr().err


def test_an_adapter_that_meets_a_number_that_is_none_stops_in_a_sentence(images, encoder, trained, tmp_path):
    embeddings = torch.from_numpy(embed_images(encoder, images.ids, images.pixels, trained, progress=False))
    generator = Generator.load(trained).freeze()
    options = {"steps": 0, "sketch_steps": 30, "batch_size": 2, "learning_rate": 1e30, "out": tmp_path}
    with pytest.raises(UserError, match=r"stopped at step \d+, where the loss of sketch is no finite number"):
        train_condition(generator, new_adapter(encoder), encode_images(generator, images.pixels), embeddings, **options)
