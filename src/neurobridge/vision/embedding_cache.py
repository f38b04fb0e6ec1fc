"""Embeddings of many images, kept on disk under the content hash of the image and the hash of the encoder.

Shape letters: B batch, I images, H height, W width, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from neurobridge.errors import UserError, atomic_path

if TYPE_CHECKING:
    from neurobridge.vision.encoders import ImageEncoder

SHARD = 1024


def embed_images(
    encoder: ImageEncoder,
    ids: np.ndarray,
    pixels: np.ndarray,
    cache_dir: Path | None,
    *,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Embeddings [I, D] float32 of ``pixels`` [I, H, W, 3] uint8 whose content hashes are ``ids`` [I].

    With ``cache_dir``, what is there already is read, and the rest is computed and added as shards of up to 1,024
    images: each appears by an atomic rename, so parallel writers do no harm and a killed run loses one shard at most.
    Values are rounded to float16 with a cache and without one. Shards that cannot be read are computed again.
    ``device`` is where to compute, "auto" for a GPU if there is one; the encoder is back where it was afterwards.
    Raises UserError for an embedding that is not finite in float16.
    """
    title = f"image embeddings ({encoder.name} {encoder.layer})"
    (rows,) = embed_layers(
        encoder, [encoder], ids, pixels, cache_dir, title=title, batch_size=batch_size, device=device, progress=progress
    )
    return rows.astype(np.float32)


def embed_layers(
    network: nn.Module,
    encoders: Sequence[ImageEncoder],
    ids: np.ndarray,
    pixels: np.ndarray,
    cache_dir: Path | None,
    *,
    title: str,
    batch_size: int,
    device: str | torch.device | None,
    progress: bool,
) -> list[np.ndarray]:
    """K arrays [I, D_k] float16: what ``network`` gives for images, an embedding of each of the K ``encoders``.

    Options as in :func:`embed_images`; a folder an encoder. An image that lacks one layer is computed again for all.
    """
    assert len(ids) == len(pixels), "one id an image"
    keys = [str(key) for key in ids]
    folders = [None if cache_dir is None else Path(cache_dir) / encoder.hash for encoder in encoders]
    rows = [
        {} if folder is None else _read_shards(folder, wanted=set(keys), width=encoder.width)
        for folder, encoder in zip(folders, encoders, strict=True)
    ]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    missing = [key for key in first if any(key not in layer for layer in rows)]
    home = next(network.parameters()).device
    if missing:
        network.to(chosen_device(device, home))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress or not missing) as bar:
        task = bar.add_task(title, total=len(missing))
        for start in range(0, len(missing), SHARD):
            shard = missing[start : start + SHARD]
            values: list[list[np.ndarray]] = []
            for low in range(0, len(shard), batch_size):
                batch = pixels[[first[key] for key in shard[low : low + batch_size]]]
                values.append(_embed_batch(network, encoders, batch))
                bar.advance(task, len(batch))
            for k, folder in enumerate(folders):
                block = np.concatenate([batch[k] for batch in values])
                rows[k].update(zip(shard, block, strict=True))
                if folder is not None:
                    _write_shard(folder, shard, block)
    network.to(home)
    return [
        np.stack([layer[key] for key in keys]) if keys else np.zeros((0, encoder.width), np.float16)
        for layer, encoder in zip(rows, encoders, strict=True)
    ]


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Pixels [B, H, W, 3] uint8 -> images [B, 3, H, W] float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255.0


def chosen_device(device: str | torch.device | None, home: torch.device) -> torch.device:
    """None is ``home``, "auto" the first GPU if there is one, else ``home``. Raises UserError for an absent GPU."""
    gpu = torch.cuda.is_available()
    if device is None or (device == "auto" and not gpu):
        return home
    chosen = torch.device("cuda" if device == "auto" else device)
    if chosen.type == "cuda" and not gpu:
        raise UserError("image.device asks for cuda and torch finds no GPU here: take image.device auto or cpu")
    return chosen


def _embed_batch(network: nn.Module, encoders: Sequence[ImageEncoder], pixels: np.ndarray) -> list[np.ndarray]:
    """Pixels [B, H, W, 3] uint8 -> K embeddings [B, D_k] float16; bytes, not floats, travel to the network's device."""
    device = next(network.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float() / 255.0
    with torch.inference_mode():
        layers = network(images)
        layers = [layers] if isinstance(layers, torch.Tensor) else layers
        values = [layer.half().cpu().numpy() for layer in layers]
    for encoder, value in zip(encoders, values, strict=True):
        if not np.isfinite(value).all():
            raise UserError(
                f"layer {encoder.layer} of image encoder '{encoder.name}' exceeds the range of float16: choose another"
            )
    return values


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
