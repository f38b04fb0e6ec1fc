"""Stable Diffusion 1.5 / 2.1 (Rombach et al. 2022) through ``diffusers``, conditioned by tokens that we make ourselves.

Shape letters: B batch, H height, W width, C latent channels, h, w latent height and width, T condition tokens, K their
width (768 for 1.5, 1024 for 2.1: read from the UNet).

The text encoder's 77 tokens are replaced by an adapter's, so neither it nor the tokenizer is loaded. Sampling is
``diffusers.StableDiffusionPipeline`` (or the image-to-image one) with a DDIM scheduler made from the model's own.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import nn

from neurobridge.errors import UserError, needs
from neurobridge.vision.draws import drawn

TOKENS = 77
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # whose classes a model may name
BATCH = 8
OLDEST = (0, 38)  # of diffusers: releases before it run files that a model_index.json names
SAFETY = (
    "The safety checker is off, as it knows nothing of brains: show nobody unfiltered pictures outside your laboratory."
)
LICENCES = {
    768: "Stable Diffusion 1.x: CreativeML Open RAIL-M, which forbids the uses listed in its Attachment A. " + SAFETY,
    1024: "Stable Diffusion 2.x: CreativeML Open RAIL++-M, which forbids the uses listed in its Attachment A. "
    + SAFETY,
}


class StableDiffusion(nn.Module):
    """A frozen Stable Diffusion behind the same interface as the small generator.

    ``pipeline`` is a ``diffusers.StableDiffusionPipeline`` without a safety checker; its scheduler is replaced by DDIM
    of the same noise schedule and prediction type (epsilon or v). ``checkpoint_gradients`` recomputes the UNet's and
    the decoder's activations in the backward pass: slower, with much less memory. The pipeline may be in float32 or
    bfloat16; losses are float32. Pictures have the side that the UNet was trained for.
    """

    sketches = False

    def __init__(self, pipeline: Any, *, checkpoint_gradients: bool = False) -> None:
        super().__init__()
        diffusers = import_diffusers()
        self.pipeline = pipeline
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        pipeline.register_modules(scheduler=self.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        parts = {name: part for name, part in pipeline.components.items() if name != "safety_checker"}
        self.from_image = diffusers.StableDiffusionImg2ImgPipeline(
            **parts, safety_checker=None, requires_safety_checker=False
        )
        self.from_image.set_progress_bar_config(disable=True)

        self.prediction = str(self.scheduler.config.prediction_type)
        if self.prediction not in ("epsilon", "v_prediction"):
            raise UserError(
                f"the model predicts '{self.prediction}', which the denoising loss does not know: give generator.model "
                "one that predicts epsilon or v_prediction"
            )
        self.factor = int(pipeline.vae_scale_factor)
        if checkpoint_gradients:
            self.unet.enable_gradient_checkpointing()
            self.vae.enable_gradient_checkpointing()
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(
        cls, model: str, *, precision: torch.dtype = torch.float32, checkpoint_gradients: bool = False
    ) -> StableDiffusion:
        """From a local folder (with ``model_index.json``) or a hub id.

        Raises UserError where the weights cannot be found, fetched or read.
        """
        return cls(load_pipeline(model, precision=precision, text=False), checkpoint_gradients=checkpoint_gradients)

    @property
    def licence(self) -> str:
        """What the model's family may be used for; its own card has the last word."""
        width = self.unet.config.cross_attention_dim
        return LICENCES.get(width, "An unknown model: read its card for the licence. " + SAFETY)

    @property
    def condition_width(self) -> int:
        """K, read from the UNet."""
        return int(self.unet.config.cross_attention_dim)

    @property
    def tokens(self) -> int:
        """T, as many as the text encoder has."""
        return TOKENS

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        return self.factor * int(self.unet.config.sample_size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        side = self.image_size // self.factor
        return int(self.unet.config.in_channels), side, side

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] at this generator's own side."""
        size = (self.image_size, self.image_size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True).clamp(0.0, 1.0)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] in [0, 1] -> scaled latents [B, C, h, w] float32: the mode of the posterior."""
        pixels = 2.0 * self.resize(images) - 1.0
        latents = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        return latents.float() * self.vae.config.scaling_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, h, w] -> images [B, 3, H, W] in [0, 1], float32."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.device, self.vae.dtype)
        return (self.vae.decode(scaled).sample.float() / 2.0 + 0.5).clamp(0.0, 1.0)

    def latent_losses(
        self,
        latents: torch.Tensor,
        condition: torch.Tensor,
        generator: torch.Generator,
        *,
        part: tuple[int, int] = (0, 1),
    ) -> dict[str, torch.Tensor]:
        """``denoising``: mean squared error of epsilon or v at random timesteps (Ho et al. 2020), a scalar.

        ``latents`` [B, C, h, w] from :meth:`encode`, ``condition`` [B, T, K]. ``generator`` draws noise and timesteps.
        """
        noise = drawn(torch.randn, latents.shape, generator, part).to(latents.device)
        total = int(self.scheduler.config.num_train_timesteps)
        timesteps = drawn(partial(torch.randint, 0, total), (len(latents),), generator, part).to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = noise if self.prediction == "epsilon" else self.scheduler.get_velocity(latents, noise, timesteps)

        dtype = self.unet.dtype
        predicted = self.unet(noisy.to(dtype), timesteps, encoder_hidden_states=condition.to(dtype)).sample

        return {"denoising": F.mse_loss(predicted.float(), target)}

    @torch.no_grad()
    def sample(
        self,
        condition: torch.Tensor,
        null_condition: torch.Tensor,
        *,
        seeds: list[int],
        steps: int = 50,
        guidance: float = 7.5,
        start: torch.Tensor | None = None,
        strength: float = 0.6,
    ) -> torch.Tensor:
        """Draw one image [B, 3, H, W] in [0, 1] for each condition [B, T, K], on the CPU, in float32.

        ``null_condition`` [T, K] is what classifier-free guidance (Ho & Salimans 2022) pushes away from, by
        ``guidance`` (1 or less = off). ``seeds`` holds one integer an image, which draws its noise on the CPU: an image
        depends on its own seed and condition only. With ``start`` [B, 3, H, W] (a blurry image, say), sampling starts
        from these images, noised to ``strength`` of the whole way (1 = forgets them).
        """
        assert len(seeds) == len(condition), "one seed an image"
        parts = []
        rows = range(0, len(condition), self.batch)
        for at in track(rows, "pictures", transient=True, disable=len(rows) < 2):
            some = slice(at, at + self.batch)
            options = self._conditions(condition[some], null_condition, guided=guidance > 1.0) | {
                "num_inference_steps": steps,
                "guidance_scale": guidance,
                "generator": [torch.Generator().manual_seed(int(seed)) for seed in seeds[some]],
                "output_type": "pt",
            }
            if start is None:
                drawn = self.pipeline(height=self.image_size, width=self.image_size, **options)
            else:
                image = self.resize(start[some]).to(self.vae.device, self.vae.dtype)
                drawn = self.from_image(image=image, strength=max(strength, 1.5 / steps), **options)
            parts.append(drawn.images.float().cpu())
        return torch.cat(parts)

    @property
    def batch(self) -> int:
        """How many pictures are drawn at once."""
        return BATCH

    def _conditions(self, condition: torch.Tensor, null: torch.Tensor, *, guided: bool) -> dict[str, Any]:
        """What the pipeline is given: conditions [B, T, K] and the null one [T, K], as embeddings of prompts."""
        where = (self.unet.device, self.unet.dtype)
        negative = null[None].expand(len(condition), -1, -1).to(*where) if guided else None
        return {"prompt_embeds": condition.to(*where), "negative_prompt_embeds": negative}


class LatentEncoder(nn.Module):
    """A generator's autoencoder in the guise of an image encoder, so that latents are cached as embeddings are."""

    name = "latents"

    def __init__(self, generator: StableDiffusion) -> None:
        super().__init__()
        self.generator = generator
        self.layer = f"{generator.image_size} px"
        channels, height, width = generator.latent_shape
        self.width = channels * height * width
        digest = hashlib.sha1(repr((self.name, self.layer, str(generator.vae.dtype))).encode())
        for key, value in sorted(generator.vae.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self.hash = digest.hexdigest()[:16]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] in [0, 1] -> flattened latents [B, C h w]."""
        return self.generator.encode(images).flatten(1)


def load_pipeline(model: str, *, precision: torch.dtype, text: bool) -> Any:
    """``diffusers.StableDiffusionPipeline`` without a safety checker; UserError in a sentence if it cannot be had."""
    diffusers = import_diffusers()
    folder = Path(model).expanduser()
    is_hub_id = model.count("/") == 1 and not model.startswith((".", "~", os.sep)) and not folder.exists()
    if not is_hub_id and not (folder / "model_index.json").is_file():
        raise UserError(
            f"no Stable Diffusion at {folder} (a folder with model_index.json): give generator.model such a folder, or "
            "an id on the hub; docs/generators.md says which"
        )
    check_index(diffusers, str(folder) if not is_hub_id else model)
    left_out = {} if text else {"text_encoder": None, "tokenizer": None}
    try:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            model if is_hub_id else folder,
            low_cpu_mem_usage=has_accelerate(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **left_out,
        )
    except Exception as error:
        raise UserError(
            f"Stable Diffusion '{model}' cannot be loaded ({first_line(error)}): give generator.model a local folder "
            "with model_index.json, or an id on the hub that this machine can reach"
        ) from error
    return pipeline if precision == torch.float32 else pipeline.to(dtype=precision)


def check_index(diffusers: Any, source: str) -> None:
    """Raise UserError for a ``model_index.json`` that would have code of its own, or a foreign library, run."""
    try:
        index = diffusers.StableDiffusionPipeline.load_config(source)
    except Exception as error:
        raise UserError(
            f"the model_index.json of '{source}' cannot be read ({first_line(error)}): give generator.model a local "
            "folder with that file, or an id on the hub that this machine can reach"
        ) from error
    parts = {name: part for name, part in index.items() if not name.startswith("_") and isinstance(part, list)}
    foreign = [name for name, part in parts.items() if len(part) != 2 or part[0] not in LIBRARIES]
    if not isinstance(index.get("_class_name"), str) or foreign:
        raise UserError(
            f"the model_index.json of '{source}' asks for code of its own ({(foreign or ['_class_name'])[0]}), which "
            "is never run: give generator.model one whose parts are of diffusers and transformers"
        )


def has_accelerate() -> bool:
    """True if the library that spares memory while weights are read is there."""
    return find_spec("accelerate") is not None


def first_line(error: BaseException) -> str:
    """The first line of a message, short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def import_diffusers() -> Any:
    """The optional library, or a sentence that says how to get it."""
    with needs("image"):
        import diffusers
    release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    if release < OLDEST:
        raise UserError(
            f"diffusers {diffusers.__version__} runs code that a model's folder brings along: pip install "
            f"'diffusers>={OLDEST[0]}.{OLDEST[1]}'"
        )
    return diffusers
