"""Stage adapter: conditions for a frozen picture generator, learnt from training images alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from neurobridge.bridge.adapter import Adapter
from neurobridge.data.images import ImageSet
from neurobridge.errors import UserError, atomic_path, helping
from neurobridge.pipeline.alignment import sessions_with_images
from neurobridge.pipeline.device import device
from neurobridge.pipeline.folder import REFUSED, RunFolder, as_yaml
from neurobridge.pipeline.image_data import ImageData, cache, embedded_images, image_encoder
from neurobridge.pipeline.oracle import measure_oracle, require_oracle
from neurobridge.pipeline.spikes import fit_here
from neurobridge.terminal import console
from neurobridge.training.generator_training import encode_images, train_condition, train_generator
from neurobridge.training.task import Task
from neurobridge.vision.autoencoder import TinyAutoencoder
from neurobridge.vision.encoders import embed_images
from neurobridge.vision.generator import Generator
from neurobridge.vision.ip_adapter import EmbeddingCondition, IPAdapter
from neurobridge.vision.protocol import PictureGenerator
from neurobridge.vision.stable_diffusion import LatentEncoder, StableDiffusion

CHECKPOINTS = "checkpoints/adapter"


def adapter(run: RunFolder) -> None:
    """Embedding -> condition, by the denoising loss through a frozen generator, on training images -> run/adapter."""
    run.need("align")
    kinds = {"small": small_adapter, "stable-diffusion": diffusion_adapter, "ip-adapter": pretrained_adapter}
    kinds[run.settings.generator.kind](run)


def small_adapter(run: RunFolder) -> None:
    """The small generator, shipped, given, or trained here with its adapter."""
    settings = run.settings
    options = settings.generator
    data = load_images(run)
    pixels, ids = data.images.pixels[data.train], data.images.ids[data.train]
    encoder = image_encoder(run.settings)
    common = {
        "sketch_steps": options.sketch_steps,
        "batch_size": options.batch,
        "learning_rate": options.adapter_learning_rate,
        "seed": settings.seed,
        "train": trainer(run),
    }
    if options.train_steps:
        train_generator(
            pixels,
            ids,
            run / "adapter",
            encoder=encoder,
            autoencoder=tiny_autoencoder(options.tiny_autoencoder),
            steps=options.train_steps,
            noise=options.adapter_noise,
            cache_dir=cache(settings, "embeddings"),
            **common,
        )
        source = "trained on this data set's training images"
    else:
        generator = Generator.load(options.weights or shipped_weights()).freeze().to(device(settings))
        torch.manual_seed(settings.seed + 2)
        fresh = Adapter(
            embedding_width=encoder.width,
            condition_width=generator.condition_width,
            tokens=generator.tokens,
            depth=1,
            heads=4,
            hidden=256,
            grid=None if encoder.pooled else encoder.grid,
            noise=options.adapter_noise,
        )
        train_condition(
            generator,
            fresh,
            encode_images(generator, pixels),
            torch.from_numpy(data.embeddings[data.train]),
            out=run.path,
            steps=options.adapter_steps,
            **common,
        )
        fresh.save(run / "adapter")
        source = str(options.weights or "shipped with the package: procedural scenes")
    finish(run, Generator.licence, generator=source, images=len(ids))


def diffusion_adapter(run: RunFolder) -> None:
    """An adapter for Stable Diffusion; training images that it does not see have to be recognised in its pictures."""
    settings, options = run.settings, run.settings.generator
    data = load_images(run)
    rows = np.random.default_rng(settings.seed).permutation(np.flatnonzero(data.train))
    held, rows = np.split(rows, [oracle_images(run, len(rows) // 2)])
    generator = load_diffusion(run)
    images, embeddings = data.images, torch.from_numpy(data.embeddings)
    torch.manual_seed(settings.seed + 2)
    fresh = Adapter(
        embedding_width=embeddings.shape[1],
        condition_width=generator.condition_width,
        tokens=generator.tokens,
        noise=options.adapter_noise,
    )
    there = cache(settings, "latents")
    latents = embed_images(LatentEncoder(generator), images.ids[rows], images.pixels[rows], there)
    train_condition(
        generator,
        fresh,
        torch.from_numpy(latents).unflatten(1, generator.latent_shape),
        embeddings[rows],
        out=run.path,
        steps=options.adapter_steps,
        sketch_steps=0,
        batch_size=options.batch,
        learning_rate=options.adapter_learning_rate,
        seed=settings.seed,
        train=trainer(run),
    )
    if helping():
        return
    fresh.save(run / "adapter")
    mend = (
        "train on (generator.adapter_steps, also with another generator.adapter_learning_rate), on more images, or to "
        "another image.encoder; or lower that threshold"
    )
    facts = pass_gate(run, generator, fresh, held, mend)
    shutil.rmtree(run / CHECKPOINTS / fingerprint(run))
    finish(run, generator.licence, generator=f"Stable Diffusion, {options.model}", images=len(rows), **facts)


def pretrained_adapter(run: RunFolder) -> None:
    """Nothing to train: an IP-Adapter; training images have to be recognised in its pictures."""
    options = run.settings.generator
    data = load_images(run)
    rows = np.random.default_rng(run.settings.seed).permutation(np.flatnonzero(data.train))
    generator = load_ip_adapter(run)
    width = data.embeddings.shape[1]
    if width != generator.condition_width:
        raise UserError(
            f"the IP-Adapter takes image embeddings of {generator.condition_width} numbers and image.encoder gives "
            f"{width}: set image.encoder and image.layer to those it was made with (CLIP ViT-H/14, projected, has 1024)"
        )
    mend = "check that image.encoder, its weights and its layer are those that the IP-Adapter was made with"
    held = rows[: oracle_images(run, len(rows))]
    facts = pass_gate(run, generator, EmbeddingCondition(width), held, mend)
    source = f"Stable Diffusion, {options.model}, with {options.ip_adapter}"
    finish(run, generator.licence, generator=source, images=0, **facts)


def pass_gate(
    run: RunFolder, generator: PictureGenerator, conditioner: Adapter | EmbeddingCondition, rows: np.ndarray, mend: str
) -> dict:
    """What the oracle reached on the images ``rows``, for the run folder. Raises UserError where that is not enough."""
    settings = run.settings
    data = load_images(run)
    oracle = measure_oracle(
        generator,
        conditioner,
        conditioner.null,
        data.images.pixels[rows],
        data.embeddings[rows],
        target=settings.image.encoder,
        steps=settings.reconstruct.steps,
        guidance=settings.reconstruct.guidance,
        seed=settings.seed,
    )
    facts = asdict(oracle) | {"threshold": settings.generator.oracle_two_way}
    try:
        require_oracle(oracle, settings.generator.oracle_two_way, mend)
    except UserError:
        with atomic_path(run / REFUSED) as path:
            path.write_text(json.dumps(facts))
        raise
    return {"oracle": facts}


def oracle_images(run: RunFolder, most: int) -> int:
    """How many images the gate draws."""
    wanted = run.settings.generator.oracle_images
    if wanted < 2:
        raise UserError(f"generator.oracle_images is {wanted}: two-way identification needs two images at least")
    return min(wanted, most)


def finish(run: RunFolder, licence: str, **facts: object) -> None:
    """Say what the generator may be used for, and keep it with the other facts."""
    console.print(f"licence: {licence}", markup=False, soft_wrap=True)
    (run / REFUSED).unlink(missing_ok=True)
    run.finish("adapter", licence=licence, **facts)


def trainer(run: RunFolder) -> Callable[..., None]:
    """What trains an adapter in this run. Options of the generator may change until it passed: each has checkpoints."""

    def train(task: Task, *, stage: str, out: Path, average: float) -> None:
        fit_here(task, stage, run, average=average, folder=run / CHECKPOINTS / fingerprint(run))

    return train


def fingerprint(run: RunFolder) -> str:
    """Names the training of an adapter: options that only the gate reads leave it as it is."""
    options = as_yaml(run.settings)
    kept = {k: v for k, v in options["generator"].items() if k != "oracle_two_way"} | {"seed": options["seed"]}
    return hashlib.sha1(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def load_diffusion(run: RunFolder) -> StableDiffusion:
    """Stable Diffusion on the run's device, in its precision."""
    options = run.settings.generator
    model = StableDiffusion.load(
        options.model, precision=precision(run), checkpoint_gradients=options.checkpoint_gradients
    )
    return model.to(device(run.settings))


def load_ip_adapter(run: RunFolder) -> IPAdapter:
    """Stable Diffusion with its IP-Adapter on the run's device, in its precision."""
    options = run.settings.generator
    model = IPAdapter.load(
        options.model,
        weights=options.ip_adapter,
        precision=precision(run),
        checkpoint_gradients=options.checkpoint_gradients,
    )
    return model.to(device(run.settings))


def precision(run: RunFolder) -> torch.dtype:
    """Of the frozen networks."""
    return torch.bfloat16 if run.settings.precision == "bf16-mixed" else torch.float32


def tiny_autoencoder(folder: Path | None) -> TinyAutoencoder | None:
    """The latent space given by path, if one is."""
    if folder is None:
        return None
    encoder, decoder = folder / "taef2_encoder.pth", folder / "taef2_decoder.pth"
    for path in (encoder, decoder):
        if not path.is_file():
            raise UserError(
                f"no tiny autoencoder weights at {path}: give generator.tiny_autoencoder the folder that holds them"
            )
    return TinyAutoencoder.from_files(encoder, decoder)


def load_generator(run: RunFolder) -> tuple[PictureGenerator, Adapter | EmbeddingCondition]:
    """The generator that the adapter stage used, and what makes its conditions (with ``null``, the one of nothing)."""
    run.need("adapter")
    options = run.settings.generator
    if options.kind == "stable-diffusion":
        return load_diffusion(run), Adapter.load(run / "adapter")
    if options.kind == "ip-adapter":
        generator = load_ip_adapter(run)
        return generator, EmbeddingCondition(generator.condition_width)
    there = device(run.settings)
    own = run / "adapter" if options.train_steps else options.weights
    generator = Generator.load(own or shipped_weights()).freeze()
    return generator.to(there), Adapter.load(run / "adapter").to(there)


def shipped_weights() -> Path:
    """The generator that comes with the package."""
    return Path(str(files("neurobridge") / "weights"))


def load_images(run: RunFolder) -> ImageData:
    """Images and their embeddings, as the align stage left them; of a model that was exported they are made again."""
    images = ImageSet.read(run.settings.data / "images.h5")
    if not (run / "align" / "embeddings.npz").is_file():  # no picture goes along with an exported model
        return embedded_images(run.settings, images, sessions_with_images(run))
    kept = run.load_arrays("align/embeddings.npz")
    if kept["ids"].tolist() != images.ids.tolist():
        raise UserError(f"{run.settings.data / 'images.h5'} changed since the align stage: start a new run")
    return ImageData(images=images, embeddings=kept["embeddings"], train=kept["train"])
