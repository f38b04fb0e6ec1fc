"""The IP-Adapter through the loader and the pipelines of diffusers, with tiny weights in the authors' own layout."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neurobridge.errors import UserError
from neurobridge.vision.ip_adapter import EmbeddingCondition, IPAdapter
from neurobridge.vision.protocol import PictureGenerator

TINY = runpy.run_path(str(Path(__file__).parents[1] / "tiny_diffusion.py"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with Stable Diffusion (sd) and weights for it."""
    folder = tmp_path_factory.mktemp("ip")
    (folder / "words").mkdir()
    pipeline = TINY["pipeline"](words=folder / "words")
    pipeline.save_pretrained(folder / "sd")
    TINY["ip_adapter"](folder / "ip-adapter.safetensors", pipeline.unet)
    return folder


@pytest.fixture(scope="module")
def model(files):
    return IPAdapter.load(str(files / "sd"), weights=str(files / "ip-adapter.safetensors"))


def draw(model, embeddings, seeds, **options):
    conditioner = EmbeddingCondition(1024)
    return model.sample(conditioner(embeddings), conditioner.null, seeds=seeds, steps=4, **{"guidance": 3.0, **options})


@pytest.fixture
def embeddings():
    return torch.randn(2, 1024, generator=torch.Generator().manual_seed(0))


def test_the_condition_is_the_embedding(model, embeddings):
    assert isinstance(model, PictureGenerator)
    assert (model.tokens, model.condition_width, model.image_size) == (1, 1024, 16)
    assert "Apache-2.0" in model.licence
    assert "Open RAIL-M" in model.licence
    assert EmbeddingCondition(1024)(embeddings).shape == (2, 1, 1024)
    images = draw(model, embeddings, [1, 1])
    assert images.shape == (2, 3, 16, 16)
    assert not torch.allclose(images[0], images[1], atol=1e-3)
    torch.testing.assert_close(draw(model, embeddings[1:], [1]), images[1:], atol=1e-5, rtol=0)
    assert not torch.allclose(draw(model, embeddings[1:], [2]), images[1:], atol=1e-3)


def test_guidance_pushes_away_from_the_zero_embedding(model, embeddings):
    guided, unguided = (draw(model, embeddings, [1, 2], guidance=guidance) for guidance in (3.0, 1.0))
    assert not torch.allclose(guided, unguided, atol=1e-3)


def test_it_draws_what_the_pipeline_of_diffusers_draws(files, model, embeddings):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(files / "sd", safety_checker=None, requires_safety_checker=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.load_ip_adapter(str(files), subfolder="", weight_name="ip-adapter.safetensors", image_encoder_folder=None)
    one = embeddings[:1, None]
    expected = pipeline(
        prompt="",
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(one), one])],
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(5)],
        output_type="pt",
    ).images
    torch.testing.assert_close(draw(model, embeddings[:1], [5]), expected, atol=1e-5, rtol=0)


def test_a_blurry_start(model, embeddings):
    start = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    reached = model.decode(model.encode(start)).detach()
    little, much = (draw(model, embeddings, [1, 2], start=start, strength=s) for s in (0.3, 1.0))
    assert (little - reached).square().mean() < (much - reached).square().mean()


def test_weights_that_do_not_fit_are_told_in_a_sentence(files, tmp_path):
    model = str(files / "sd")
    with pytest.raises(UserError, match=r"no IP-Adapter weights at 'nowhere.safetensors'"):
        IPAdapter.load(model, weights="nowhere.safetensors")

    other = TINY["ip_adapter"](tmp_path / "wide.safetensors", TINY["unet"](width=1024))
    with pytest.raises(UserError, match=r"cannot be loaded into this model .*made for it"):
        IPAdapter.load(model, weights=str(other))

    face = load_file(files / "ip-adapter.safetensors")
    for name in [name for name in face if name.startswith("image_proj.")]:
        del face[name]
    layers = {"proj.0.weight": (1024, 1024), "proj.0.bias": (1024,), "proj.2.weight": (4 * 768, 1024)}
    layers |= {"proj.2.bias": (4 * 768,), "norm.weight": (768,), "norm.bias": (768,)}
    face |= {f"image_proj.{name}": torch.zeros(shape) for name, shape in layers.items()}
    save_file(face, tmp_path / "face.safetensors")
    with pytest.raises(UserError, match="does not take a pooled image embedding"):
        IPAdapter.load(model, weights=str(tmp_path / "face.safetensors"))


def test_without_a_text_encoder_there_is_no_empty_prompt(files, tmp_path):
    TINY["pipeline"]().save_pretrained(tmp_path / "sd")
    with pytest.raises(UserError, match=r"cannot be loaded .*text_encoder"):
        IPAdapter.load(str(tmp_path / "sd"), weights=str(files / "ip-adapter.safetensors"))
