"""Stable Diffusion through the real pipelines, tiny: widths, seeds, guidance, image to image, the loss, the cache."""

import json
import runpy
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from neurobridge.errors import UserError
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.encoders import embed_images, to_tensor
from neurobridge.vision.generator import Generator
from neurobridge.vision.protocol import TrainableGenerator
from neurobridge.vision.stable_diffusion import LatentEncoder, StableDiffusion

TINY = runpy.run_path(str(Path(__file__).parents[1] / "tiny_diffusion.py"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Stable Diffusion 1.5 and 2.1 as they lie on a disk, by the width of their cross-attention."""
    folders = {}
    for width, prediction in ((768, "epsilon"), (1024, "v_prediction")):
        folders[width] = tmp_path_factory.mktemp("sd") / str(width)
        TINY["pipeline"](width=width, prediction=prediction).save_pretrained(folders[width])
    return folders


@pytest.fixture(scope="module")
def model(folders):
    return StableDiffusion.load(str(folders[768]))


def conditions(count=3, width=768):
    return torch.randn(count, 77, width, generator=torch.Generator().manual_seed(0))


def draw(model, condition, seeds, null=None, **options):
    null = torch.zeros(condition.shape[1:]) if null is None else null
    return model.sample(condition, null, seeds=seeds, steps=4, **{"guidance": 3.0, **options})


@pytest.mark.parametrize(
    ("width", "prediction", "licence"), [(768, "epsilon", "Open RAIL-M,"), (1024, "v_prediction", "Open RAIL++-M,")]
)
def test_both_versions_are_read_from_their_configuration(folders, width, prediction, licence):
    model = StableDiffusion.load(str(folders[width]))
    assert (model.tokens, model.condition_width, model.image_size) == (77, width, 16)
    assert model.prediction == prediction
    assert type(model.scheduler).__name__ == "DDIMScheduler"
    assert licence in model.licence
    images = draw(model, conditions(2, width), [0, 1])
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert 0.0 <= images.min() < images.max() <= 1.0


def test_all_generators_meet_one_interface(model):
    small = Generator(
        autoencoder=PatchPCA(channels=6), image_size=32, grid=2, condition_width=8, channels=(16, 16), heads=2
    )
    assert isinstance(model, TrainableGenerator)
    assert isinstance(small, TrainableGenerator)
    assert small.licence
    assert (small.sketches, model.sketches) == (True, False)


def test_a_picture_depends_on_its_own_seed_and_condition_only(model):
    condition = conditions()
    together = draw(model, condition, [1, 2, 3])
    torch.testing.assert_close(draw(model, condition[1:2], [2]), together[1:2], atol=1e-5, rtol=0)
    assert not torch.allclose(draw(model, condition[1:2], [5]), together[1:2], atol=1e-3)
    swapped = draw(model, condition[[1]], [1])
    assert not torch.allclose(swapped, together[:1], atol=1e-4)


def test_more_pictures_than_fit_a_batch_are_all_drawn(model, monkeypatch):
    condition = conditions(3)
    whole = draw(model, condition, [1, 2, 3])
    monkeypatch.setattr(StableDiffusion, "batch", 2)
    torch.testing.assert_close(draw(model, condition, [1, 2, 3]), whole, atol=1e-5, rtol=0)


def test_guidance_changes_the_picture_and_uses_the_null_condition(model):
    condition, other = conditions(), torch.ones(77, 768)
    guided = draw(model, condition, [1, 2, 3])
    assert not torch.allclose(guided, draw(model, condition, [1, 2, 3], guidance=6.0), atol=1e-3)
    assert not torch.allclose(guided, draw(model, condition, [1, 2, 3], null=other), atol=1e-3)
    unguided = draw(model, condition, [1, 2, 3], guidance=1.0)
    assert torch.equal(unguided, draw(model, condition, [1, 2, 3], null=other, guidance=1.0))


def test_it_is_the_pipeline_that_draws(model):
    condition = conditions(1)
    latents = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(7))
    arguments = {"prompt_embeds": condition, "negative_prompt_embeds": torch.zeros_like(condition)}
    drawn = model.pipeline(
        **arguments, latents=latents, num_inference_steps=4, guidance_scale=3.0, output_type="latent"
    ).images
    torch.testing.assert_close(model.decode(drawn), draw(model, condition, [7]), atol=1e-5, rtol=0)


def test_a_blurry_start_is_followed_as_far_as_the_strength_says(model):
    start = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    reached = model.decode(model.encode(start)).detach()
    little, much = (draw(model, conditions(2), [1, 2], start=start, strength=s) for s in (0.3, 1.0))
    assert (little - reached).square().mean() < (much - reached).square().mean()
    alone = draw(model, conditions(2)[1:], [2], start=start[1:], strength=0.3)
    torch.testing.assert_close(alone, little[1:], atol=1e-5, rtol=0)
    assert draw(model, conditions(1), [1], start=start[:1], strength=0.0).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("width", [768, 1024])
def test_the_loss_is_the_published_one(folders, width):
    model = StableDiffusion.load(str(folders[width]))
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = conditions(3, width)
    loss = model.latent_losses(latents, condition, torch.Generator().manual_seed(5))["denoising"]

    rng = torch.Generator().manual_seed(5)
    noise = torch.randn(latents.shape, generator=rng)
    steps = torch.randint(0, 1000, (3,), generator=rng)
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[steps][:, None, None, None]
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    predicted = model.unet(noisy, steps, encoder_hidden_states=condition).sample
    target = noise if width == 768 else kept.sqrt() * noise - (1 - kept).sqrt() * latents
    torch.testing.assert_close(loss, (predicted - target).square().mean())


def test_gradients_reach_the_condition_alone_and_checkpointing_does_not_change_them(folders):
    gradients = []
    for checkpointing in (False, True):
        model = StableDiffusion.load(str(folders[768]), checkpoint_gradients=checkpointing)
        assert model.unet.is_gradient_checkpointing is checkpointing
        condition = conditions(2).requires_grad_()
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        model.latent_losses(latents, condition, torch.Generator().manual_seed(0))["denoising"].backward()
        assert all(p.grad is None for p in model.parameters())
        assert sum(1 for _ in model.parameters()) > 100
        gradients.append(condition.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_bfloat16_is_for_the_frozen_networks_only(folders):
    model = StableDiffusion.load(str(folders[768]), precision=torch.bfloat16)
    assert model.unet.dtype == model.vae.dtype == torch.bfloat16
    condition = conditions(1).requires_grad_()
    latents = model.encode(torch.rand(1, 3, 16, 16))
    loss = model.latent_losses(latents, condition, torch.Generator().manual_seed(0))["denoising"]
    loss.backward()
    assert latents.dtype == loss.dtype == condition.grad.dtype == torch.float32
    assert draw(model, condition.detach(), [0]).dtype == torch.float32


def test_latents_are_cached_by_image_and_autoencoder(model, folders, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    encoder = LatentEncoder(model)
    values = embed_images(encoder, np.array(["a", "b", "c"]), pixels, tmp_path, progress=False)
    expected = model.encode(to_tensor(pixels))
    torch.testing.assert_close(
        torch.from_numpy(values).unflatten(1, model.latent_shape), expected, atol=2e-3, rtol=2e-3
    )
    again = embed_images(encoder, np.array(["c"]), np.zeros_like(pixels[:1]), tmp_path, progress=False)
    assert np.array_equal(again[0], values[2])
    assert LatentEncoder(StableDiffusion.load(str(folders[1024]))).hash == encoder.hash, "the same autoencoder"
    model.vae.decoder.conv_out.bias.data += 1
    assert LatentEncoder(model).hash != encoder.hash
    model.vae.decoder.conv_out.bias.data -= 1


def test_what_cannot_be_loaded_is_told_in_a_sentence(folders, tmp_path):
    with pytest.raises(UserError, match=r"no Stable Diffusion at .*give generator.model such a folder"):
        StableDiffusion.load(str(tmp_path))
    (tmp_path / "model_index.json").write_text((folders[768] / "model_index.json").read_text())
    with pytest.raises(UserError, match=r"cannot be loaded .* local folder with model_index.json"):
        StableDiffusion.load(str(tmp_path))
    pipeline = TINY["pipeline"]()
    pipeline.register_modules(scheduler=TINY["scheduler"]("sample"))
    with pytest.raises(UserError, match="predicts 'sample'"):
        StableDiffusion(pipeline)


@pytest.mark.parametrize(
    "part",
    [
        {"_class_name": ["own", "Own"]},
        {"_class_name": None},
        {"unet": ["own", "Own"]},
        {"vae": ["os", "system"]},
        {"text_encoder": ["own.py", "Own", "more"]},
        {"scheduler": ["own"]},
    ],
)
def test_code_that_a_folder_brings_along_is_never_run(folders, tmp_path, part):
    folder, mark = Path(shutil.copytree(folders[768], tmp_path / "model")), tmp_path / "ran"
    for name in ("own.py", "pipeline.py", "unet/own.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    index = json.loads((folder / "model_index.json").read_text()) | part
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model_index\.json of .* asks for code of its own"):
        StableDiffusion.load(str(folder))
    assert not mark.exists()


def test_a_release_of_diffusers_that_runs_such_code_is_refused(folders, monkeypatch):
    monkeypatch.setattr(diffusers, "__version__", "0.37.1")
    with pytest.raises(UserError, match=r"diffusers 0\.37\.1 runs code .* pip install 'diffusers>=0\.38'"):
        StableDiffusion.load(str(folders[768]))
