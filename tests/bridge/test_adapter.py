"""The adapter: shapes, null condition, noise, gradients through a frozen UNet, files."""

import runpy
from pathlib import Path

import pytest
import torch

from neurobridge.bridge.adapter import Adapter
from neurobridge.errors import UserError
from neurobridge.training.generator_training import train_condition
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.generator import Generator
from neurobridge.vision.stable_diffusion import StableDiffusion

TINY = runpy.run_path(str(Path(__file__).parents[1] / "tiny_diffusion.py"))


@pytest.fixture
def adapter():
    torch.manual_seed(0)
    return Adapter(embedding_width=20, condition_width=8, tokens=4, depth=1, heads=2, hidden=16)


def embeddings(count=5):
    return 3.0 + 2.0 * torch.randn(count, 20, generator=torch.Generator().manual_seed(0))


def test_full_size_defaults_are_those_of_stable_diffusion():
    adapter = Adapter(embedding_width=32, condition_width=64, hidden=16)
    assert adapter(torch.randn(2, 32)).shape == (2, 77, 64)
    assert len(adapter.refiner) == 4


def test_statistics_standardise(adapter):
    adapter.fit_statistics(embeddings(200))
    x = (embeddings(200) - adapter.mean) / adapter.std
    torch.testing.assert_close(x.mean(0), torch.zeros(20), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(20), atol=1e-5, rtol=0)


def test_in_training_some_rows_become_the_null_condition(adapter):
    torch.nn.init.normal_(adapter.null)
    adapter.train()
    tokens = adapter(embeddings(400), torch.Generator().manual_seed(0))
    dropped = (tokens == adapter.null).all(dim=(1, 2)).float().mean()
    assert 0.05 < dropped < 0.16
    adapter.eval()
    assert not (adapter(embeddings(400)) == adapter.null).all(dim=(1, 2)).any()


def test_noise_is_seeded_and_off_in_evaluation():
    adapter = Adapter(embedding_width=20, condition_width=8, tokens=4, depth=1, heads=2, hidden=16, noise=0.5)
    adapter.train()
    draws = [adapter(embeddings(), torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    adapter.eval()
    assert torch.equal(adapter(embeddings()), adapter(embeddings()))


def test_the_denoising_loss_reaches_the_whole_adapter_and_nothing_else(adapter):
    generator = Generator(
        autoencoder=PatchPCA(patch=8, channels=6),
        image_size=32,
        grid=2,
        condition_width=8,
        channels=(16, 16),
        heads=2,
    ).freeze()
    adapter.train()
    rng = torch.Generator().manual_seed(0)
    generator.loss(torch.rand(40, 3, 32, 32), adapter(embeddings(40), rng), rng).backward()
    assert all(p.grad is None for p in generator.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())


def for_diffusion(width):
    """An adapter of full shape for a tiny Stable Diffusion, and that."""
    torch.manual_seed(0)
    model = StableDiffusion(TINY["pipeline"](width=width, prediction="epsilon" if width == 768 else "v_prediction"))
    adapter = Adapter(embedding_width=20, condition_width=model.condition_width, tokens=model.tokens, depth=1, hidden=8)
    return adapter, model


@pytest.mark.parametrize("width", [768, 1024])
def test_through_stable_diffusion_it_alone_is_trained(width, tmp_path):
    adapter, model = for_diffusion(width)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    old = {name: value.detach().clone() for name, value in adapter.named_parameters()}
    latents = torch.randn(4, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(3)
    adapter.train()
    model.latent_losses(latents, adapter(embeddings(4), rng), rng)["denoising"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters()), "the null condition too"
    assert all(p.grad is None for p in model.parameters())

    adapter.zero_grad()
    options = {"steps": 4, "sketch_steps": 0, "batch_size": 2, "out": tmp_path}
    train_condition(model, adapter, latents, embeddings(4), **options)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not torch.equal(value, old[name]) for name, value in adapter.named_parameters())


def test_saved_and_read_it_draws_the_same_picture(tmp_path):
    adapter, model = for_diffusion(768)
    adapter.save(tmp_path)

    def draw(adapter):
        with torch.no_grad():
            condition = adapter.eval()(embeddings(2))
        assert condition.shape == (2, 77, 768)
        return model.sample(condition, adapter.null.detach(), seeds=[0, 1], steps=3, guidance=2.0)

    assert torch.equal(draw(Adapter.load(tmp_path)), draw(adapter))


def test_saved_and_read_it_is_the_same(adapter, tmp_path):
    adapter.fit_statistics(embeddings(50))
    adapter.save(tmp_path)
    again = Adapter.load(tmp_path)
    assert again.settings == adapter.settings
    assert torch.equal(again(embeddings()), adapter.eval()(embeddings()))
    with pytest.raises(UserError, match="no weights at"):
        Adapter.load(tmp_path / "nowhere")
