"""CLIP and DINOv2 as frozen image encoders, by hub name or from a local folder, through their ``transformers`` classes.

Radford et al. 2021 (CLIP), Cherti et al. 2023 (the LAION ViT-H/14), Oquab et al. 2023 (DINOv2). Images stay tensors
from end to end, so that a gradient reaches them: resizing, cropping and normalisation follow the folder's
``preprocessor_config.json``, or the published constants where it has none.

Shape letters: B batch, H height, W width, D width of a token or an embedding, T tokens.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from neurobridge.errors import UserError, needs

HUB = {
    "clip-vit-b32": "openai/clip-vit-base-patch32",
    "clip-vit-l14": "openai/clip-vit-large-patch14",
    "clip-vit-h14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "dinov2-small": "facebook/dinov2-small",
    "dinov2-base": "facebook/dinov2-base",
    "dinov2-large": "facebook/dinov2-large",
    "dinov2-giant": "facebook/dinov2-giant",
}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIG_FIELDS = ("model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size")
BILINEAR = 2  # PIL's number


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side to ``side`` (or both, if ``square``), cut the central ``crop``, normalise."""

    side: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    square: bool = False
    mode: str = "bicubic"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 3, crop, crop], normalised."""
        height, width = images.shape[-2:]
        short = min(height, width)
        size = (self.side, self.side) if self.square else (self.side * height // short, self.side * width // short)
        if (height, width) != size:
            images = F.interpolate(images, size=size, mode=self.mode, align_corners=False, antialias=True).clamp(0, 1)
        top, left = (size[0] - self.crop) // 2, (size[1] - self.crop) // 2
        images = images[..., top : top + self.crop, left : left + self.crop]
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


class TransformersTrunk(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> an embedding [B, D], or the patch tokens of one block as a map [B, D, h, w].

    ``name`` is a key of :data:`HUB`, another hub name ("owner/model") or a folder that ``save_pretrained`` wrote.
    ``layer``: "projected" (CLIP's image embedding, the one that is compared with text), "pooled" (the class token
    behind the last norm), "block3" (the patch tokens behind that block, no norm), "block3.class" (its class token).
    ``resolution``: side of the input in pixels, the whole image; None: as the network was trained.
    """

    def __init__(self, name: str, *, layer: str | None, resolution: int | None) -> None:
        super().__init__()
        source = str(HUB.get(name, name))
        self.family = _family(name, source)
        self.default_layer = "projected" if self.family == "clip" else "pooled"
        self.model = _load(name, source, self.family)
        self.config = self.model.config
        self.preprocessing = _preprocessing(source, self.family, self.config, resolution, name)

        layer = layer or self.default_layer
        blocks = self._blocks()
        self.block, self.token = _parse(layer, len(blocks), self.family, name)
        if self.block is not None:
            del blocks[self.block + 1 :]
        self.resolution = self.preprocessing.crop
        self.pooled = self.token != "map"
        fields = tuple(getattr(self.config, field, None) for field in CONFIG_FIELDS)
        self.identity = (fields, layer, self.preprocessing)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = self.preprocessing(images)

        if self.token == "projected":
            return self.model(pixels, interpolate_pos_encoding=True).image_embeds
        if self.token == "pooled":
            options = {"interpolate_pos_encoding": True} if self.family == "clip" else {}
            return self._tower()(pixels, **options).pooler_output

        tokens_BTD = self._tokens(pixels)
        if self.token == "class":
            return tokens_BTD[:, 0]
        side = self.preprocessing.crop // self.config.patch_size
        return tokens_BTD[:, 1:].transpose(1, 2).unflatten(2, (side, side))

    def hash_weights(self, digest: hashlib._Hash) -> None:
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(np.ascontiguousarray(value.numpy()).data)

    def _tower(self) -> nn.Module:
        return self.model.vision_model if self.family == "clip" else self.model

    def _blocks(self) -> nn.ModuleList:
        encoder = self._tower().encoder
        return encoder.layers if self.family == "clip" else encoder.layer

    def _tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, T, D] behind the last block that was kept: the class token, then the patches row by row."""
        if self.family == "clip":
            return self._tower()(pixels, interpolate_pos_encoding=True).last_hidden_state
        return self.model.encoder(self.model.embeddings(pixels)).last_hidden_state


def _parse(layer: str, blocks: int, family: str, name: str) -> tuple[int | None, str]:
    """Number of the block (None: all of them), and what is read: projected, pooled, class or map."""
    whole = ("projected", "pooled") if family == "clip" else ("pooled",)
    if layer in whole:
        return None, layer
    match = re.fullmatch(r"block(\d+)(\.class)?", layer)
    if not match or int(match[1]) >= blocks:
        choice = f"{', '.join(whole)}, block0 to block{blocks - 1}, or block0.class to block{blocks - 1}.class"
        raise UserError(f"image encoder '{name}' has no layer '{layer}': choose {choice}")
    return int(match[1]), "class" if match[2] else "map"


def _family(name: str, source: str) -> str:
    """clip or dinov2."""
    with needs("image"):
        from transformers import PretrainedConfig
    with fetching(source, f"image encoder '{name}'"):
        settings, _ = PretrainedConfig.get_config_dict(source)
    kind = settings.get("model_type")
    families = {"clip": "clip", "clip_vision_model": "clip", "dinov2": "dinov2"}
    if kind is None:
        raise UserError(
            f"{source} holds no config.json that names its type of network: give image.encoder a folder with a CLIP or "
            "a DINOv2 model, as save_pretrained writes it"
        )
    if kind not in families:
        raise UserError(f"{source} holds a network of type '{kind}': an image encoder is a CLIP or a DINOv2 model")
    return families[kind]


def _load(name: str, source: str, family: str) -> Any:
    """The network with all of its weights, in float32."""
    from transformers import CLIPVisionModelWithProjection, Dinov2Model

    network = CLIPVisionModelWithProjection if family == "clip" else Dinov2Model
    with fetching(source, f"image encoder '{name}'"):
        model, report = network.from_pretrained(
            source, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
        )
    absent = sorted(report["missing_keys"])
    if absent:
        raise UserError(
            f"the weights in {source} lack {len(absent)} tensors of a {network.__name__} ({absent[0]}): fetch it again"
        )
    return model.eval()


@contextmanager
def fetching(
    source: str, what: str, *, option: str = "image.encoder", files: str = "config.json and model.safetensors"
) -> Iterator[None]:
    """Whatever goes wrong while a network is found and read becomes one sentence; the libraries stay silent.

    ``source``: a folder or a name on the hub; ``what`` it is for, the ``option`` that named it, and the ``files`` that
    belong there.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if Path(source).is_dir():
        logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if Path(source).is_dir():
            raise UserError(
                f"{source} holds no network that can be read ({first}): give {option} a folder with {files}, "
                "as save_pretrained writes them"
            ) from error
        raise UserError(
            f"the weights of {what} ({source}) are neither on this machine nor could they be fetched: "
            f"run 'hf download {source}' where there is a network, or give {option} a folder that holds them"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _preprocessing(source: str, family: str, config: Any, resolution: int | None, name: str) -> Preprocessing:
    """From the folder's preprocessor_config.json; what that leaves out is as published for the family."""
    found = _preprocessor_settings(source)
    mean, std = (CLIP_MEAN, CLIP_STD) if family == "clip" else (IMAGENET_MEAN, IMAGENET_STD)
    if found.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    elif found.get("do_normalize"):
        mean, std = found.get("image_mean") or mean, found.get("image_std") or std
    trained = config.image_size if family == "clip" else 224
    crop = resolution or _side(found.get("crop_size")) or trained
    if crop % config.patch_size:
        low = crop // config.patch_size * config.patch_size
        raise UserError(
            f"image.resolution {crop} is no multiple of the patch of image encoder '{name}' ({config.patch_size} "
            f"pixels): choose {low or config.patch_size} or {low + config.patch_size}"
        )
    side = _side(found.get("size")) or (trained if family == "clip" else trained * 256 // 224)
    return Preprocessing(
        side=crop if resolution else max(crop, side),
        crop=crop,
        mean=tuple(mean),
        std=tuple(std),
        square=isinstance(found.get("size"), dict) and "height" in found["size"],
        mode="bilinear" if found.get("resample") == BILINEAR else "bicubic",
    )


def _preprocessor_settings(source: str) -> dict[str, Any]:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, ValueError):
        return {}
    return settings


def _side(size: int | dict[str, int] | None) -> int | None:
    """A size as ``transformers`` has written it: 224, {"shortest_edge": 224} or {"height": 224, "width": 224}."""
    if isinstance(size, dict):
        return size.get("shortest_edge") or size.get("height")
    return size
