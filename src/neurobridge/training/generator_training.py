"""Train a small generator with its adapter on a set of images, or a new adapter through a frozen generator.

Shape letters: B batch, I images, H height, W width, D width of an embedding, C latent channels, h, w latent sides.

No spikes are involved: images, their embeddings, and the denoising loss.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from neurobridge.bridge.adapter import Adapter
from neurobridge.errors import helping
from neurobridge.training.condition_task import ConditionTask
from neurobridge.training.trainer import fit
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.encoders import ImageEncoder, embed_images, to_tensor
from neurobridge.vision.generator import Generator
from neurobridge.vision.protocol import TrainableGenerator

WORKSHOP = "checkpoints"  # folder of a training that is not done
Train = Callable[..., None]


def train_generator(
    pixels: np.ndarray,
    ids: np.ndarray,
    out: Path | str,
    *,
    encoder: ImageEncoder,
    autoencoder: nn.Module | None = None,
    steps: int = 2000,
    sketch_steps: int = 3000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    image_size: int = 64,
    grid: int = 4,
    condition_width: int = 64,
    channels: tuple[int, ...] = (64, 128),
    sketch_width: int = 192,
    noise: float = 0.2,
    half: bool = False,
    cache_dir: Path | None = None,
    progress: bool = True,
    train: Train = fit,
) -> tuple[Generator, Adapter]:
    """Fit the autoencoder, embed ``pixels`` [I, H, W, 3] uint8, train generator and adapter, write both into ``out``.

    ``ids`` [I] are content hashes, for the cache of embeddings. ``autoencoder`` defaults to 48 principal components of
    8 x 8 patches. ``steps`` of ``batch_size`` images follow ``sketch_steps`` of the regression alone. What is written
    is an exponential moving average of the weights (``half``: as float16). Killed, it goes on from its last checkpoint
    when called again. An encoder whose embedding is a map must have this ``grid``. ``train``: see
    :func:`train_condition`.
    """
    assert encoder.pooled or encoder.grid == grid, "the encoder's grid is the generator's"
    out = Path(out)
    embeddings = torch.from_numpy(embed_images(encoder, ids, pixels, cache_dir, progress=progress))
    generator, latents = _new_generator(
        pixels,
        autoencoder=autoencoder,
        seed=seed,
        image_size=image_size,
        grid=grid,
        condition_width=condition_width,
        channels=tuple(channels),
        sketch_width=sketch_width,
    )
    adapter = Adapter(
        embedding_width=embeddings.shape[1],
        condition_width=condition_width,
        tokens=grid * grid,
        depth=1,
        heads=4,
        hidden=256,
        grid=None if encoder.pooled else encoder.grid,
        noise=noise,
    )
    train_condition(
        generator,
        adapter,
        latents,
        embeddings,
        steps=steps,
        sketch_steps=sketch_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        out=out / WORKSHOP,
        train=train,
    )
    generator.save(out, half=half)
    adapter.save(out, half=half)
    if not helping():
        shutil.rmtree(out / WORKSHOP, ignore_errors=True)
    return generator, adapter


def train_condition(
    generator: TrainableGenerator,
    adapter: Adapter,
    latents: torch.Tensor,
    embeddings: torch.Tensor,
    *,
    out: Path,
    steps: int,
    sketch_steps: int = 3000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    average: float = 0.995,
    seed: int = 0,
    train: Train = fit,
) -> None:
    """Train the adapter, and every parameter of the generator that is not frozen (:class:`ConditionTask`).

    A generator without a regression takes no ``sketch_steps``. ``latents`` [I, C, h, w] from ``generator.encode``,
    ``embeddings`` [I, D]. Both modules hold at the end a moving average of the weights, of decay ``average``. ``train``
    fits a task as :func:`fit` does; losses and checkpoints go to ``out``, from which a killed training goes on: every
    draw depends on (``seed``, step) only, so that it ends where an uninterrupted one ends. Raises UserError at the
    first loss or gradient that is no finite number.
    """
    task = ConditionTask(
        generator,
        adapter,
        latents=latents,
        embeddings=embeddings,
        steps=steps,
        sketch_steps=sketch_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    train(task, stage="adapter", out=out, average=average)
    adapter.cpu().eval()
    generator.eval()


def encode_images(generator: Generator, pixels: np.ndarray) -> torch.Tensor:
    """Standardised latents [I, C, h, w] of ``pixels`` [I, H, W, 3] uint8."""
    there = next(generator.parameters()).device
    parts = (to_tensor(pixels[low : low + 64]).to(there) for low in range(0, len(pixels), 64))
    with torch.no_grad():
        return torch.cat([generator.encode(part).cpu() for part in parts])


def _new_generator(
    pixels: np.ndarray, *, autoencoder: nn.Module | None, seed: int, image_size: int, **sizes
) -> tuple[Generator, torch.Tensor]:
    """An untrained generator, its autoencoder and latent statistics fitted on ``pixels``, and their latents."""
    torch.manual_seed(seed)
    some = np.random.default_rng(seed).permutation(len(pixels))[:4000]
    generator = Generator(autoencoder=autoencoder or PatchPCA(), image_size=image_size, **sizes)
    images = to_tensor(pixels[some])
    if isinstance(generator.autoencoder, PatchPCA):
        generator.autoencoder.fit(generator.resize(images))
    generator.fit_latents(images)
    return generator, encode_images(generator, pixels)
