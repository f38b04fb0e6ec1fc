"""What a run knows of images: pixels, embeddings, the space of the targets, and the maps that the backbone reads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from neurobridge.bridge.alignment import EmbeddingSpace, ImageHead
from neurobridge.bridge.image_maps import ImageMaps
from neurobridge.data.images import ImageSet
from neurobridge.data.store import Session
from neurobridge.errors import UserError, atomic_path
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.device import image_device
from neurobridge.pipeline.folder import RunFolder
from neurobridge.training.joint_task import Seen
from neurobridge.training.settings import RunSettings
from neurobridge.vision.encoders import ImageEncoder, embed_images
from neurobridge.vision.feature_stack import FeatureStack, embed_stack


@dataclass(kw_only=True)
class ImageData:
    """images [I]; embeddings [I, width] of the frozen encoder; train [I] bool: shown in a train split."""

    images: ImageSet
    embeddings: np.ndarray
    train: np.ndarray

    def library(self, most: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of the training images, sorted; of more than ``most`` so many, drawn by ``rng``."""
        rows = np.flatnonzero(self.train)
        return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


@dataclass(kw_only=True)
class StackFeatures:
    """K layers [I, D] float16 of all images of the data folder, and the side of each layer's grid (0: none).

    digest: of network, layers and images; folder: where what is fitted to them is kept (None: nowhere).
    """

    layers: list[np.ndarray]
    grids: list[int]
    digest: str = ""
    folder: Path | None = None

    def of(self, images: np.ndarray) -> list[np.ndarray]:
        """K layers of some images, by row."""
        return [layer[images] for layer in self.layers]


@dataclass(kw_only=True)
class Bridge:
    """The image side of a model: its head, the space of its targets, and how images become the maps that it reads."""

    head: ImageHead
    space: EmbeddingSpace
    maps: ImageMaps

    def save(self, folder: Path) -> None:
        """Write head.safetensors (tensors) and head.json (sizes) into ``folder``."""
        parts = {"head": self.head, "space": self.space, "maps": self.maps}
        tensors = {f"{name}.{k}": v.contiguous() for name, part in parts.items() for k, v in part.state_dict().items()}
        with atomic_path(folder / "head.safetensors") as path:
            save_file(tensors, path)
        with atomic_path(folder / "head.json") as path:
            path.write_text(json.dumps({"head": self.head.options, "maps": self.maps.options}))

    @classmethod
    def load(cls, folder: Path) -> Bridge:
        """Read what :meth:`save` wrote."""
        tensors, options = load_file(folder / "head.safetensors"), json.loads((folder / "head.json").read_text())

        def part(name: str) -> dict[str, torch.Tensor]:
            return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}

        head, maps = ImageHead(**options["head"]), ImageMaps(**options["maps"])
        width, dimensions = tensors["space.components"].shape
        space = EmbeddingSpace(width=width, dimensions=dimensions)
        for name, module in {"head": head, "space": space, "maps": maps}.items():
            module.load_state_dict(part(name))
        return cls(head=head, space=space, maps=maps)

    @staticmethod
    def there(folder: Path) -> bool:
        """Whether a stage left one in ``folder``."""
        return (folder / "head.safetensors").is_file()


def image_encoder(settings: RunSettings) -> ImageEncoder:
    """The frozen network whose embedding is the target."""
    image = settings.image
    return ImageEncoder(name=image.encoder, layer=image.layer, grid=image.grid, resolution=image.resolution)


def feature_stack(settings: RunSettings, layers: Sequence[str], *, option: str = "encoding.layers") -> FeatureStack:
    """Some layers of the run's image encoder, which ``option`` names."""
    return FeatureStack(settings.image.encoder, layers=layers, resolution=settings.image.resolution, option=option)


def cache(settings: RunSettings, name: str) -> Path:
    """Where what is computed of the images is kept: beside the data, or in the run folder where that cannot be."""
    return (settings.data if os.access(settings.data, os.W_OK) else settings.out) / name


def stack_features(settings: RunSettings, images: ImageSet, layers: Sequence[str] | None = None) -> StackFeatures:
    """Features of all images (``layers``: by default encoding.layers), cached beside the data."""
    stack = feature_stack(settings, layers or settings.encoding.layers)
    embedded = embed_stack(
        stack, images.ids, images.pixels, cache(settings, "embeddings"), device=image_device(settings)
    )
    digest = sha256(repr([encoder.hash for encoder in stack.encoders]).encode() + np.asarray(images.ids).tobytes())
    return StackFeatures(
        layers=embedded, grids=stack.grids, digest=digest.hexdigest(), folder=cache(settings, "encodings")
    )


def show_images(settings: RunSettings, sessions: Sequence[Session]) -> ImageSet | None:
    """Tell the sessions of the run's own folder which images their windows show; None if there are no images."""
    path = settings.data / "images.h5"
    if not path.is_file():
        return None
    images = ImageSet.read(path)
    for session in sessions:
        if session.recording.has_stimuli and session.dataset == settings.data.name:
            session.attach_images(images)
    return images if any((s.image_row >= 0).any() for s in sessions) else None


def embedded_images(settings: RunSettings, images: ImageSet, sessions: Sequence[Session]) -> ImageData:
    """All images with their embeddings (cached beside the data). Raises UserError where an image is in two splits."""
    options = settings.image
    embeddings = embed_images(
        image_encoder(settings),
        images.ids,
        images.pixels,
        cache(settings, "embeddings"),
        batch_size=options.batch,
        device=image_device(settings),
    )
    in_split = {split: np.zeros(len(images), dtype=bool) for split in ("train", "valid", "test")}
    for session in sessions:
        for split, seen in in_split.items():
            rows = session.image_row[session.rows(split)]
            seen[rows[rows >= 0]] = True
    twice = np.flatnonzero(in_split["train"] & (in_split["test"] | in_split["valid"]))
    if len(twice):
        raise UserError(
            f"image {images.ids[twice[0]]} is in the train split and in a held-out one: split by image content"
        )
    return ImageData(images=images, embeddings=embeddings, train=in_split["train"])


def new_bridge(settings: RunSettings, model: NeuroBridge, data: ImageData, features: StackFeatures) -> Bridge:
    """Space and maps fitted on training images, and an untrained head. Raises UserError for options at odds."""
    options = settings.align
    if options.readout == "cls" and not settings.model.cls:
        raise UserError("align.readout is cls, but the model has no [CLS] token: pretrain it with --model.cls true")
    depth = len(model.encoder.blocks)
    if options.level is not None and options.level > depth:
        raise UserError(f"align.level is {options.level}, but the model has {depth} blocks: give 0 to {depth}, or null")
    train = np.flatnonzero(data.train)
    space = EmbeddingSpace.fit(
        torch.from_numpy(data.embeddings[train]),
        dimensions=settings.image.dimensions,
        whitening=settings.image.whitening,
    )
    head = new_head(settings, model, space.components.shape[1])
    return Bridge(head=head, space=space, maps=make_maps(features, train))


def new_head(settings: RunSettings, model: NeuroBridge, dimensions: int) -> ImageHead:
    """An untrained head from the model's latents to ``dimensions`` of the embedding space."""
    options = settings.align
    return ImageHead(
        tokens=len(model.encoder.latent_times(settings.window.window_ms)),
        width=model.width,
        dimensions=dimensions,
        queries=options.queries,
        hidden=options.hidden,
        dropout=options.dropout,
        readout=options.readout,
        in_front=model.encoder.in_front,
        level=options.level,
    )


def make_maps(features: StackFeatures, train: np.ndarray) -> ImageMaps:
    """How images become maps, fitted on those of the rows ``train``."""
    return ImageMaps.fit(features.of(train), features.grids, side=MAP_SIDE, components=MAP_WIDTH)


def seen_by(bridge: Bridge, data: ImageData, features: StackFeatures | None) -> Seen:
    """What a task is told of the images; without features the backbone reads none."""
    maps = None if features is None else bridge.maps.table(features.layers)
    return Seen(maps=maps, targets=bridge.space(torch.from_numpy(data.embeddings)))


def sessions_of(run: RunFolder, sessions: Sequence[Session]) -> list[Session]:
    """Those of ``sessions`` that are to be aligned: named in align.sessions (or all), and showing images."""
    settings = run.settings
    wanted = set(settings.align.sessions or [s.name for s in sessions])
    missing = wanted - {s.name for s in sessions}
    if missing:
        raise UserError(f"align.sessions names '{sorted(missing)[0]}', which is neither in sessions nor in held_out")
    sessions = [s for s in sessions if s.name in wanted]
    show_images(settings, sessions)
    sessions = [s for s in sessions if (s.image_row >= 0).any()]
    if not sessions:
        raise UserError(f"no session under {settings.data} shows images: alignment and pictures need stimuli")
    return sessions


MAP_SIDE, MAP_WIDTH = 8, 128
