"""Train a small generator with its adapter on a set of images, or a new adapter through a frozen generator.

Shape letters: B batch, I images, H height, W width, D width of an embedding, C latent channels, h, w latent sides.

No spikes are involved: images, their embeddings, and the denoising loss.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from neurobridge.bridge.adapter import Adapter
from neurobridge.errors import UserError
from neurobridge.sealed import forget_old, newest, write_sealed
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.encoders import ImageEncoder, embed_images, to_tensor
from neurobridge.vision.generator import Generator
from neurobridge.vision.protocol import TrainableGenerator

CHECKPOINTS = "checkpoints"


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
) -> tuple[Generator, Adapter]:
    """Fit the autoencoder, embed ``pixels`` [I, H, W, 3] uint8, train generator and adapter, write both into ``out``.

    ``ids`` [I] are content hashes, for the cache of embeddings. ``autoencoder`` defaults to 48 principal components of
    8 x 8 patches. ``steps`` of ``batch_size`` images follow ``sketch_steps`` of the regression alone. What is written
    is an exponential moving average of the weights (``half``: as float16). Killed, it goes on from its last checkpoint
    when called again. An encoder whose embedding is a map must have this ``grid``.
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
        checkpoints=out / CHECKPOINTS,
        progress=progress,
    )
    generator.save(out, half=half)
    adapter.save(out, half=half)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return generator, adapter


def train_condition(
    generator: TrainableGenerator,
    adapter: Adapter,
    latents: torch.Tensor,
    embeddings: torch.Tensor,
    *,
    steps: int,
    sketch_steps: int = 3000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    average: float = 0.995,
    seed: int = 0,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 60.0,
    keep_checkpoint: bool = False,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train the adapter, and every parameter of the generator that is not frozen, by the denoising and sketch losses.

    A generator without a regression takes no ``sketch_steps``. All runs on the device that holds the generator.
    ``latents`` [I, C, h, w] from ``generator.encode``, ``embeddings`` [I, D]. The first ``sketch_steps`` train the
    regression only (no UNet, hence cheap, in batches four times as large); then everything trains, what the regression
    has trained at a fifth of the rate unless the generator is frozen. In both phases the learning rate warms up and
    falls as a cosine; ``average`` is the decay of the moving average of the weights, which both modules hold at the
    end. With ``checkpoints``, a folder, the state is written there every ``checkpoint_seconds``, sealed, the last two
    are kept, and the newest sound one of this training is read at the start (``keep_checkpoint``: written at the end
    too, so that another call has nothing to do). Every draw depends on (``seed``, step) only, so an interrupted run
    ends where an uninterrupted one ends. Returns the mean losses of every 50 steps. Raises UserError at the first loss
    or gradient that is no finite number.
    """
    assert generator.sketches or sketch_steps == 0, "there is no regression to train"
    sketcher = generator.sketcher.parameters() if generator.sketches else ()
    device = next(iter(generator.parameters())).device
    adapter.to(device)
    refined = [p for p in generator.unet.parameters() if p.requires_grad]
    sketching = [p for p in (*sketcher, *adapter.parameters()) if p.requires_grad]
    parameters, groups = [*sketching, *refined], [{"params": sketching}, {"params": refined}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    averaged = [p.detach().clone() for p in parameters]
    history: list[dict[str, float]] = []
    first = 0
    adapter.fit_statistics(embeddings)
    course = [steps, sketch_steps, batch_size, learning_rate, average, seed, list(latents.shape)]
    origin = sha256(json.dumps([course, [list(p.shape) for p in parameters]]).encode()).hexdigest()
    if checkpoints is not None and (found := newest(checkpoints, origin, steps=steps + sketch_steps)):
        state = found[1]
        with torch.no_grad():
            for parameter, value in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        averaged, first, history = [v.to(device) for v in state["averaged"]], state["step"], state["history"]

    def keep(step: int) -> None:
        assert checkpoints is not None
        state = {"origin": origin, "step": step, "history": history, "optimizer": optimizer.state_dict()}
        state |= {"parameters": [p.detach() for p in parameters], "averaged": averaged}
        write_sealed(checkpoints / f"step={step}.ckpt", state)
        forget_old(checkpoints)

    adapter.train()
    total = sketch_steps + steps
    sums: dict[str, float] = {}
    saved = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("generator", total=total, completed=first)
        for step in range(first, total):
            rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
            warm = step < sketch_steps
            rows = torch.randint(0, len(latents), (4 * batch_size if warm else batch_size,), generator=rng)

            some, condition = latents[rows].to(device), adapter(embeddings[rows].to(device), rng)
            if warm:
                losses = {"sketch": generator.sketch_loss(some, condition)}
            else:
                losses = generator.latent_losses(some, condition, rng)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            if not torch.isfinite(norm):
                refuse(step + 1, losses)
            rate = learning_rate * _schedule(step, sketch_steps, total)
            optimizer.param_groups[0]["lr"] = rate if warm or not refined else 0.2 * rate
            optimizer.param_groups[1]["lr"] = rate
            optimizer.step()

            decay = min(average, (1 + step) / (10 + step))
            torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1.0 - decay)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / 50
            if (step + 1) % 50 == 0:
                history.append({"step": float(step + 1), **sums})
                bar.update(task, description="generator " + " ".join(f"{k} {v:.3f}" for k, v in sums.items()))
                sums = {}
            bar.advance(task)
            if checkpoints is not None and time.monotonic() - saved > checkpoint_seconds and (step + 1) % 50 == 0:
                keep(step + 1)
                saved = time.monotonic()

    if checkpoints is not None and keep_checkpoint and first < total:
        keep(total)
    with torch.no_grad():
        for parameter, value in zip(parameters, averaged, strict=True):
            parameter.copy_(value)
    adapter.cpu().eval()
    generator.eval()
    return history


def refuse(step: int, losses: dict[str, torch.Tensor]) -> None:
    """Raise UserError for a step whose gradient is no finite number, with the name of the loss if that is none."""
    bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
    what = f"the loss of {', '.join(bad)}" if bad else "a gradient"
    raise UserError(
        f"the adapter stopped at step {step}, where {what} is no finite number: run again with a lower "
        "generator.adapter_learning_rate"
    )


def encode_images(generator: Generator, pixels: np.ndarray) -> torch.Tensor:
    """Standardised latents [I, C, h, w] of ``pixels`` [I, H, W, 3] uint8."""
    with torch.no_grad():
        return torch.cat([generator.encode(to_tensor(pixels[low : low + 64])) for low in range(0, len(pixels), 64)])


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


def _schedule(step: int, sketch_steps: int, total: int) -> float:
    """Share of the learning rate: in each of the two phases a ramp of 50 steps, then a cosine to 0."""
    start, end = (0, sketch_steps) if step < sketch_steps else (sketch_steps, total)
    done = (step - start) / max(1, end - start)
    return min(1.0, (step - start + 1) / 50) * 0.5 * (1.0 + math.cos(math.pi * done))
