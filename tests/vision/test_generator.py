"""Autoencoders and the conditional latent diffusion, at about 100,000 weights."""

from pathlib import Path

import pytest
import torch

from neurobridge.errors import UserError
from neurobridge.vision.autoencoder import PatchPCA, TinyAutoencoder
from neurobridge.vision.generator import Generator

SHARED = Path(__file__).parents[2] / ".." / "shared"
WEIGHTS = SHARED / "weights"


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")


@pytest.fixture(scope="module")
def generator(images):
    torch.manual_seed(0)
    model = Generator(
        autoencoder=PatchPCA(patch=8, channels=12).fit(images),
        image_size=32,
        grid=2,
        condition_width=8,
        channels=(16, 16),
        heads=2,
    )
    model.fit_latents(images)
    return model.eval()


def condition(count):
    return torch.randn(count, 4, 8, generator=torch.Generator().manual_seed(1))


def null():
    return torch.zeros(4, 8)


def test_all_components_reproduce_the_image(images):
    whole = PatchPCA(patch=4, channels=48).fit(images)
    torch.testing.assert_close(whole.decode(whole.encode(images)), images, atol=1e-4, rtol=0)


def test_more_components_err_less_and_are_orthonormal(images):
    errors = []
    for channels in (2, 6, 12):
        coder = PatchPCA(patch=8, channels=channels).fit(images)
        torch.testing.assert_close(coder.components @ coder.components.T, torch.eye(channels), atol=1e-4, rtol=0)
        errors.append((coder.decode(coder.encode(images)) - images).square().mean().item())
    assert errors == sorted(errors, reverse=True)


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="../shared/weights is absent")
def test_the_tiny_autoencoder_reproduces_a_photograph():
    import numpy as np
    from PIL import Image

    coder = TinyAutoencoder.from_files(WEIGHTS / "taef2_encoder.pth", WEIGHTS / "taef2_decoder.pth")
    photograph = sorted((SHARED / "data" / "images" / "imagenet_samples").glob("*.jpg"))[0]
    image = torch.from_numpy(np.array(Image.open(photograph).convert("RGB"))).permute(2, 0, 1)[None] / 255.0
    latents = coder.encode(image)
    assert latents.shape == (1, 32, 16, 16)
    error = (coder.decode(latents) - image).square().mean()
    assert -10 * torch.log10(error) > 22


def test_the_tiny_autoencoder_needs_its_files(tmp_path):
    (tmp_path / "wrong.pth").write_bytes(b"")
    with pytest.raises(UserError, match="no autoencoder weights"):
        TinyAutoencoder.from_files(tmp_path / "none.pth", tmp_path / "none.pth")
    with pytest.raises(UserError, match="does not hold taef2 weights"):
        TinyAutoencoder.from_files(tmp_path / "wrong.pth", tmp_path / "wrong.pth")


def test_shapes_come_from_the_unet(generator, images):
    assert generator.condition_width == generator.unet.config.cross_attention_dim == 8
    assert generator.encode(images).shape == (40, 12, 4, 4)
    assert generator.sketch(condition(3)).shape == (3, 12, 4, 4)
    drawn = generator.sample(condition(3), null(), seeds=[0, 1, 2], steps=3)
    assert drawn.shape == (3, 3, 32, 32)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert sum(p.numel() for p in generator.unet.parameters()) < 200_000


def test_an_image_depends_on_its_own_seed_and_condition_only(generator):
    together = generator.sample(condition(5), null(), seeds=[7, 8, 9, 10, 11], steps=4)
    alone = generator.sample(condition(5)[2:3], null(), seeds=[9], steps=4)
    torch.testing.assert_close(together[2:3], alone, atol=1e-4, rtol=0)
    other = generator.sample(condition(5)[2:3], null(), seeds=[10], steps=4)
    assert (other - alone).abs().mean() > 1e-3


def test_guidance_one_is_the_conditional_model(generator):
    plain = generator.sample(condition(2), null(), seeds=[0, 1], steps=3, guidance=1.0)
    same = generator.sample(condition(2), null() + 5.0, seeds=[0, 1], steps=3, guidance=1.0)
    guided = generator.sample(condition(2), null() + 5.0, seeds=[0, 1], steps=3, guidance=4.0)
    assert torch.equal(plain, same)
    assert not torch.equal(plain, guided)


def test_weak_sampling_stays_near_its_start(generator, images):
    start = generator.decode(generator.encode(images[:3]))
    distances = [
        (generator.sample(condition(3), null(), seeds=[0, 1, 2], steps=10, start=start, strength=s) - start)
        .abs()
        .mean()
        for s in (0.1, 0.5, 1.0)
    ]
    assert distances[0] < distances[1] < distances[2]


def test_it_samples_from_null(generator):
    drawn = generator.sample(null().expand(2, -1, -1), null(), seeds=[0, 1], steps=2)
    assert torch.isfinite(drawn).all()


def test_a_frozen_generator_passes_gradients_to_the_condition_only(images):
    torch.manual_seed(0)
    model = Generator(
        autoencoder=PatchPCA(patch=8, channels=12).fit(images),
        image_size=32,
        grid=2,
        condition_width=8,
        channels=(16, 16),
        heads=2,
    ).freeze()
    tokens = condition(6).requires_grad_()
    model.loss(images[:6], tokens, torch.Generator().manual_seed(0)).backward()
    assert tokens.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


def test_the_loss_is_repeatable(generator, images):
    losses = [generator.loss(images[:6], condition(6), torch.Generator().manual_seed(s)).item() for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_saved_and_read_it_draws_the_same(generator, tmp_path):
    generator.save(tmp_path)
    again = Generator.load(tmp_path)
    want = generator.sample(condition(2), null(), seeds=[0, 1], steps=3)
    assert torch.equal(again.sample(condition(2), null(), seeds=[0, 1], steps=3), want)

    generator.save(tmp_path / "half", half=True)
    half = Generator.load(tmp_path / "half").sample(condition(2), null(), seeds=[0, 1], steps=3)
    assert (half - want).abs().mean() < 0.01


def test_missing_or_broken_weights_are_a_sentence(generator, tmp_path):
    with pytest.raises(UserError, match="no weights at"):
        Generator.load(tmp_path)
    generator.save(tmp_path)
    (tmp_path / "generator.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read"):
        Generator.load(tmp_path)
