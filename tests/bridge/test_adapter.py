"""The adapter: shapes, null condition, noise, gradients through a frozen UNet, files."""

import pytest
import torch

from neurobridge.bridge.adapter import Adapter
from neurobridge.errors import UserError
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.generator import Generator


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


def test_saved_and_read_it_is_the_same(adapter, tmp_path):
    adapter.fit_statistics(embeddings(50))
    adapter.save(tmp_path)
    again = Adapter.load(tmp_path)
    assert again.settings == adapter.settings
    assert torch.equal(again(embeddings()), adapter.eval()(embeddings()))
    with pytest.raises(UserError, match="no weights at"):
        Adapter.load(tmp_path / "nowhere")
