"""Frozen image encoders: one interface over EfficientNet-Lite, CLIP and DINOv2.

Shape letters: B batch, H height, W width, D width of an embedding, C channels, G grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from neurobridge.errors import UserError
from neurobridge.vision.efficientnet import EFFICIENTNETS, EfficientNetTrunk, in_one_pass
from neurobridge.vision.embedding_cache import embed_images, to_tensor
from neurobridge.vision.transformers_encoders import HUB, TransformersTrunk

__all__ = ["ENCODERS", "ImageEncoder", "embed_images", "embed_together", "to_tensor"]

ENCODERS = (*EFFICIENTNETS, *HUB)


def full_name(name: str) -> str:
    """The network that ``name`` stands for, whatever the layer: what a judge's network is compared with."""
    return HUB.get(name, name)


class ImageEncoder(nn.Module):
    """A frozen network whose embedding of an image is one layer's vector, or its map on a coarse grid.

    ``name``: one of :data:`ENCODERS`, another CLIP or DINOv2 on the Hugging Face hub ("owner/model"), or a folder that
    holds one. ``layer``: "block0", "block1", ... is that block's map, adaptively averaged to ``grid`` x ``grid`` and
    flattened in the order channel, row, column; "pooled" is the network's last vector; CLIP and DINOv2 have more (see
    :class:`TransformersTrunk`). None: block7 of EfficientNet-Lite, "projected" of CLIP, "pooled" of DINOv2.
    ``resolution``: side of the input in pixels; None: as the network was trained (128 for EfficientNet-Lite).
    Attributes: ``width`` (D), ``pooled`` (the embedding has no positions), ``network`` (its full name) and
    ``hash`` (of weights, layer and settings). Raises UserError for unknown names and layers and absent weights.
    """

    def __init__(
        self,
        name: str = "efficientnet-lite0",
        *,
        layer: str | None = None,
        grid: int = 4,
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        if name in EFFICIENTNETS:
            self.layer = layer or EfficientNetTrunk.default_layer
            self.trunk = EfficientNetTrunk(name, layer=self.layer, resolution=resolution)
        elif name in HUB or Path(name).is_dir() or name.count("/") == 1:
            self.trunk = TransformersTrunk(name, layer=layer, resolution=resolution)
            self.layer = layer or self.trunk.default_layer
        else:
            raise UserError(
                f"no image encoder is called '{name}', and no such folder exists: choose one of {', '.join(ENCODERS)}, "
                "a model on the Hugging Face hub (owner/model), or a folder"
            )
        self.name, self.network = name, full_name(name)
        self.grid, self.resolution, self.pooled = grid, self.trunk.resolution, self.trunk.pooled
        self.requires_grad_(False)
        self.train(False)

        digest = hashlib.sha1(repr((*self.trunk.identity, None if self.pooled else grid, self.resolution)).encode())
        self.trunk.hash_weights(digest)
        self.hash = digest.hexdigest()[:16]
        with torch.no_grad():
            self.width = self(torch.zeros(1, 3, self.resolution, self.resolution)).shape[1]

    def train(self, mode: bool = True) -> ImageEncoder:
        """Frozen: stays in evaluation mode whatever ``mode`` says."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``images`` [B, 3, H, W] in [0, 1] -> embeddings [B, D]; differentiable with respect to the images."""
        return self.read(self.trunk(images))

    def read(self, features: torch.Tensor) -> torch.Tensor:
        """What the trunk gives, a map [B, C, h, w] or a vector [B, D], as an embedding [B, D]."""
        return features if self.pooled else F.adaptive_avg_pool2d(features, self.grid).flatten(1)


def embed_together(encoders: Sequence[ImageEncoder], images: torch.Tensor) -> list[torch.Tensor]:
    """Embeddings [B, D_k] of ``images`` [B, 3, H, W] by several layers of one network, at one resolution.

    EfficientNet-Lite runs once, as deep as its deepest layer asks; other networks run once a layer. Differentiable.
    """
    trunks = [encoder.trunk for encoder in encoders if isinstance(encoder.trunk, EfficientNetTrunk)]
    if len(trunks) < len(encoders):
        return [encoder(images) for encoder in encoders]
    return [encoder.read(x) for encoder, x in zip(encoders, in_one_pass(trunks, images), strict=True)]
