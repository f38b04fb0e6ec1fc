"""Several layers of one frozen network in a single pass over the images, each cached as an embedding of its own.

What an area answers to lies in several layers at once, at several scales: early blocks want fine grids, late ones
coarse. Each layer is an :class:`ImageEncoder` with its own hash, so the stack shares its cache with ``embed_images``.

Shape letters: B batch, I images, H height, W width, K layers, D width of a layer (channels x grid x grid), C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from neurobridge.errors import UserError
from neurobridge.vision.efficientnet import EfficientNetTrunk
from neurobridge.vision.embedding_cache import embed_images, embed_layers
from neurobridge.vision.encoders import ImageEncoder, embed_together


class FeatureStack(nn.Module):
    """Layers of one network; ``layers`` are "block4@8" (the map of block4 on an 8 x 8 grid) or "pooled" (a vector).

    ``encoders``: one :class:`ImageEncoder` a layer, in the order given; ``grids``: side of its map, 0 for a vector.
    ``option``: what a user calls ``layers``. Raises UserError for a layer that does not read like that, and whatever
    :class:`ImageEncoder` refuses.
    """

    def __init__(
        self,
        name: str = "efficientnet-lite0",
        *,
        layers: Sequence[str],
        resolution: int | None = None,
        option: str = "encoding.layers",
    ) -> None:
        super().__init__()
        if not layers or len(set(layers)) < len(layers):
            raise UserError(f"{option} is {list(layers)}: name at least one layer, each of them once")
        parsed = [_parse(layer, option) for layer in layers]
        self.layers = tuple(layers)
        self.encoders = nn.ModuleList(
            ImageEncoder(name, layer=layer, grid=grid or 1, resolution=resolution) for layer, grid in parsed
        )
        self.grids = [0 if encoder.pooled else grid for encoder, (_, grid) in zip(self._all(), parsed, strict=True)]
        for layer, encoder, grid in zip(layers, self._all(), self.grids, strict=True):
            if not encoder.pooled and grid == 0:
                raise UserError(f"{option} names the layer '{layer}' without a grid: write '{layer}@8' for 8 x 8")

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """``images`` [B, 3, H, W] in [0, 1] -> K embeddings [B, D_k]; differentiable with respect to the images.

        EfficientNet-Lite runs once, as deep as its deepest layer asks; other networks run once a layer.
        """
        return embed_together(self._all(), images)

    def _all(self) -> list[ImageEncoder]:
        return list(self.encoders)  # pyright: ignore


def embed_stack(
    stack: FeatureStack,
    ids: np.ndarray,
    pixels: np.ndarray,
    cache_dir: Path | None,
    *,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> list[np.ndarray]:
    """K arrays [I, D_k] float16 of ``pixels`` [I, H, W, 3] uint8 whose content hashes are ``ids`` [I].

    The cache is that of :func:`embed_images`: a folder a layer, atomic shards, safe for parallel writers, resumable;
    an image that lacks one layer is passed through the network again for all of them. Values equal those of
    ``embed_images`` on each layer but for rounding in the network.
    """
    encoders = stack._all()
    if not isinstance(encoders[0].trunk, EfficientNetTrunk):
        options = {"device": device, "progress": progress}
        parts = (embed_images(encoder, ids, pixels, cache_dir, **options) for encoder in encoders)
        return [part.astype(np.float16) for part in parts]
    title = f"image features ({encoders[0].name}, {len(encoders)} layers)"
    return embed_layers(
        stack, encoders, ids, pixels, cache_dir, title=title, batch_size=batch_size, device=device, progress=progress
    )


def _parse(layer: str, option: str) -> tuple[str, int]:
    """Name of the layer and side of its grid, 0 if none is named."""
    name, _, grid = layer.partition("@")
    if "@" in layer and not (grid.isdecimal() and int(grid) > 0):
        raise UserError(
            f"{option} names the layer '{layer}': write 'block4@8' for the map of block4 on 8 x 8, or pooled"
        )
    return name, int(grid or 0)
