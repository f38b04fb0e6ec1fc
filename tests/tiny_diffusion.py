"""Stable Diffusion and an IP-Adapter for it with some 100,000 weights, out of the real classes: no weights are needed.

The functions are read by ``runpy`` in the tests, and by the benchmark of the adapter.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def autoencoder(channels=(8, 16), latents=4):
    """Half the side a level; every picture is [-1, 1]."""
    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latents,
        norm_num_groups=4,
        scaling_factor=0.5,
    )


def unet(width=768, side=8, channels=(16, 32), latents=4):
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=latents,
        out_channels=latents,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def scheduler(prediction="epsilon"):
    """That of Stable Diffusion 1.5 (PNDM) or 2.1 (DDIM, v)."""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    if prediction == "epsilon":
        return PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **schedule)
    return DDIMScheduler(prediction_type=prediction, clip_sample=False, set_alpha_to_one=False, **schedule)


def text(folder: Path, width=768):
    """A text encoder and its tokenizer of four words."""
    words = ["a", "b</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        eos_token_id=3,
        bos_token_id=2,
    )
    return CLIPTextModel(config).eval(), tokenizer


def pipeline(*, width=768, prediction="epsilon", words: Path | None = None, **sizes):
    """A whole pipeline, from seed 0; ``words``: an empty folder for the tokenizer, if there is to be a text encoder."""
    torch.manual_seed(0)
    parts = {"vae": autoencoder().eval(), "unet": unet(width, **sizes).eval()}
    encoder, tokenizer = text(words, width) if words else (None, None)
    return StableDiffusionPipeline(
        **parts,
        text_encoder=encoder,
        tokenizer=tokenizer,
        scheduler=scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def ip_adapter(path: Path, network, *, embedding=1024, tokens=4) -> Path:
    """Weights of an IP-Adapter for ``network``, as the authors' file has them: a projection, and keys and values."""
    width = network.config.cross_attention_dim
    rng = torch.Generator().manual_seed(0)

    def weight(*shape):
        return torch.randn(*shape, generator=rng) / shape[-1] ** 0.5

    tensors = {
        "image_proj.proj.weight": weight(tokens * width, embedding),
        "image_proj.proj.bias": torch.zeros(tokens * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    number = 1
    for name in network.attn_processors:
        if name.endswith("attn2.processor"):
            attention = network.get_submodule(name.removesuffix(".processor"))
            for part in ("k", "v"):
                tensors[f"ip_adapter.{number}.to_{part}_ip.weight"] = weight(attention.inner_dim, width)
            number += 2
    save_file(tensors, path)
    return path
