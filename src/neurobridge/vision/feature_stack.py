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
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from neurobridge.errors import UserError
from neurobridge.vision.efficientnet import EfficientNetTrunk
from neurobridge.vision.embedding_cache import SHARD, _read_shards, _write_shard, embed_images, to_tensor
from neurobridge.vision.encoders import ImageEncoder


class FeatureStack(nn.Module):
    """Layers of one network; ``layers`` are "block4@8" (the map of block4 on an 8 x 8 grid) or "pooled" (a vector).

    ``encoders``: one :class:`ImageEncoder` a layer, in the order given; ``grids``: side of its map, 0 for a vector.
    Raises UserError for a layer that does not read like that, and whatever :class:`ImageEncoder` refuses.
    """

    def __init__(
        self, name: str = "efficientnet-lite0", *, layers: Sequence[str], resolution: int | None = None
    ) -> None:
        super().__init__()
        if not layers or len(set(layers)) < len(layers):
            raise UserError(f"image.stack is {list(layers)}: name at least one layer, each of them once")
        parsed = [_parse(layer) for layer in layers]
        self.layers = tuple(layers)
        self.encoders = nn.ModuleList(
            ImageEncoder(name, layer=layer, grid=grid or 1, resolution=resolution) for layer, grid in parsed
        )
        self.grids = [0 if encoder.pooled else grid for encoder, (_, grid) in zip(self._all(), parsed, strict=True)]
        for layer, encoder, grid in zip(layers, self._all(), self.grids, strict=True):
            if not encoder.pooled and grid == 0:
                raise UserError(f"image.stack names the layer '{layer}' without a grid: write '{layer}@8' for 8 x 8")

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """``images`` [B, 3, H, W] in [0, 1] -> K embeddings [B, D_k]; differentiable with respect to the images.

        EfficientNet-Lite runs once, as deep as its deepest layer asks; other networks run once a layer.
        """
        encoders = self._all()
        trunks = [encoder.trunk for encoder in encoders]
        if not all(isinstance(trunk, EfficientNetTrunk) for trunk in trunks):
            return [encoder(images) for encoder in encoders]
        deepest = max(trunks, key=lambda trunk: (len(trunk.blocks), trunk.pooled))
        size = (deepest.resolution, deepest.resolution)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

        wanted = {len(trunk.blocks) for trunk in trunks}
        maps, x = {}, deepest.stem((images * 255.0 - 127.0) / 128.0)
        for depth, block in enumerate(deepest.blocks, 1):
            x = block(x)
            if depth in wanted:
                maps[depth] = x

        out = []
        for encoder, trunk in zip(encoders, trunks, strict=True):
            x = maps[len(trunk.blocks)]
            pooled = trunk.head(x).mean(dim=(2, 3)) if trunk.pooled else F.adaptive_avg_pool2d(x, encoder.grid)
            out.append(pooled.flatten(1))
        return out

    def _all(self) -> list[ImageEncoder]:
        return list(self.encoders)  # pyright: ignore


def embed_stack(
    stack: FeatureStack,
    ids: np.ndarray,
    pixels: np.ndarray,
    cache_dir: Path | None,
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> list[np.ndarray]:
    """K arrays [I, D_k] float16 of ``pixels`` [I, H, W, 3] uint8 whose content hashes are ``ids`` [I].

    The cache is that of :func:`embed_images`: a folder a layer, atomic shards, safe for parallel writers, resumable;
    an image that lacks one layer is passed through the network again for all of them. Values equal those of
    ``embed_images`` on each layer but for rounding in the network.
    """
    assert len(ids) == len(pixels), "one id an image"
    encoders = stack._all()
    if not isinstance(encoders[0].trunk, EfficientNetTrunk):
        parts = (embed_images(encoder, ids, pixels, cache_dir, progress=progress) for encoder in encoders)
        return [part.astype(np.float16) for part in parts]
    keys = [str(key) for key in ids]
    folders = [None if cache_dir is None else Path(cache_dir) / encoder.hash for encoder in encoders]
    rows = [
        {} if folder is None else _read_shards(folder, wanted=set(keys), width=encoder.width)
        for folder, encoder in zip(folders, encoders, strict=True)
    ]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    missing = [key for key in first if any(key not in layer for layer in rows)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress or not missing) as bar, torch.inference_mode():
        task = bar.add_task(f"image features ({encoders[0].name}, {len(encoders)} layers)", total=len(missing))
        for start in range(0, len(missing), SHARD):
            shard = missing[start : start + SHARD]
            values: list[list[np.ndarray]] = []
            for low in range(0, len(shard), batch_size):
                batch = pixels[[first[key] for key in shard[low : low + batch_size]]]
                values.append([layer.half().numpy() for layer in stack(to_tensor(batch))])
                bar.advance(task, len(batch))
            for k, folder in enumerate(folders):
                block = np.concatenate([batch[k] for batch in values])
                rows[k].update(zip(shard, block, strict=True))
                if folder is not None:
                    _write_shard(folder, shard, block)
    return [
        np.stack([layer[key] for key in keys]) if keys else np.zeros((0, encoder.width), np.float16)
        for layer, encoder in zip(rows, encoders, strict=True)
    ]


def _parse(layer: str) -> tuple[str, int]:
    """Name of the layer and side of its grid, 0 if none is named."""
    name, _, grid = layer.partition("@")
    if "@" in layer and not (grid.isdecimal() and int(grid) > 0):
        raise UserError(
            f"image.stack names the layer '{layer}': write 'block4@8' for the map of block4 on 8 x 8, or pooled"
        )
    return name, int(grid or 0)
