"""Stage adapter: conditions for a frozen picture generator, learnt from training images alone."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

from neurobridge.bridge.adapter import Adapter
from neurobridge.bridge.generator_training import encode_images, train_condition, train_generator
from neurobridge.data.images import ImageSet
from neurobridge.errors import UserError
from neurobridge.pipeline.alignment import ImageData, image_encoder
from neurobridge.pipeline.folder import RunFolder
from neurobridge.training.trainer import MetricsCSV
from neurobridge.vision.autoencoder import TinyAutoencoder
from neurobridge.vision.generator import Generator


def adapter(run: RunFolder) -> None:
    """Embedding -> condition, by the denoising loss through a frozen generator, on training images -> run/adapter."""
    settings = run.settings
    options = settings.generator
    run.need("align")
    data = load_images(run)
    pixels, ids = data.images.pixels[data.train], data.images.ids[data.train]
    encoder = image_encoder(run)
    common = {
        "sketch_steps": options.sketch_steps,
        "batch_size": options.batch,
        "learning_rate": options.adapter_learning_rate,
        "seed": settings.seed,
    }
    history = []
    if options.train_steps:
        train_generator(
            pixels,
            ids,
            run / "adapter",
            encoder=encoder,
            autoencoder=tiny_autoencoder(options.tiny_autoencoder),
            steps=options.train_steps,
            noise=options.adapter_noise,
            cache_dir=settings.data / "embeddings",
            **common,
        )
        source = "trained on this data set's training images"
    else:
        generator = Generator.load(options.weights or shipped_weights()).freeze()
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
        history = train_condition(
            generator,
            fresh,
            encode_images(generator, pixels),
            torch.from_numpy(data.embeddings[data.train]),
            steps=options.adapter_steps,
            checkpoint=run / "checkpoints" / "adapter" / "last.pt",
            **common,
        )
        fresh.save(run / "adapter")
        source = str(options.weights or "shipped with the package: procedural scenes")
    table = MetricsCSV(run / "metrics.csv", stage="adapter", keep_below=0)
    for row in history:
        table.log_metrics({f"train/{k}": v for k, v in row.items() if k != "step"}, int(row["step"]))
    run.finish("adapter", generator=source, images=len(ids))


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


def load_generator(run: RunFolder) -> tuple[Generator, Adapter]:
    """The generator that the adapter stage used, and its adapter."""
    run.need("adapter")
    options = run.settings.generator
    own = run / "adapter" if options.train_steps else options.weights
    generator = Generator.load(own or shipped_weights()).freeze()
    return generator, Adapter.load(run / "adapter")


def shipped_weights() -> Path:
    """The generator that comes with the package."""
    return Path(str(files("neurobridge") / "weights"))


def load_images(run: RunFolder) -> ImageData:
    """Images and their embeddings, as the align stage left them."""
    kept = run.load_arrays("align/embeddings.npz")
    images = ImageSet.read(run.settings.data / "images.h5")
    if kept["ids"].tolist() != images.ids.tolist():
        raise UserError(f"{run.settings.data / 'images.h5'} changed since the align stage: start a new run")
    return ImageData(images=images, embeddings=kept["embeddings"], train=kept["train"])
