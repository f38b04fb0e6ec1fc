"""Stage align: readout and projector against frozen image embeddings (stage 1), then the last blocks too (stage 2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from neurobridge.bridge.alignment import AlignmentHead, EmbeddingSpace
from neurobridge.data.datamodule import Batcher, StepBatches
from neurobridge.data.images import ImageSet
from neurobridge.data.store import Session
from neurobridge.errors import UserError, atomic_path
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.alignment_inputs import average_repeats, frozen_latents, make_head, respond
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spikes import fit_here, held_out_sessions, make_batcher, make_masker, pretraining_sessions
from neurobridge.training.align_task import AlignTask
from neurobridge.vision.encoders import ImageEncoder, embed_images


@dataclass(kw_only=True)
class ImageData:
    """images [I]; embeddings [I, width] of the frozen encoder; train [I] bool: shown in a train split."""

    images: ImageSet
    embeddings: np.ndarray
    train: np.ndarray


def sessions_with_images(run: RunFolder) -> list[Session]:
    """Every session to align: pretraining ones, then held-out ones, those that show images."""
    sessions = [*pretraining_sessions(run.settings), *held_out_sessions(run.settings)]
    wanted = set(run.settings.align.sessions or [s.name for s in sessions])
    missing = wanted - {s.name for s in sessions}
    if missing:
        raise UserError(f"align.sessions names '{sorted(missing)[0]}', which is neither in sessions nor in held_out")
    sessions = [s for s in sessions if s.name in wanted]
    images = ImageSet.read(run.settings.data / "images.h5")
    for session in sessions:
        session.attach_images(images)
    sessions = [s for s in sessions if (s.image_row >= 0).any()]
    if not sessions:
        raise UserError(f"no session under {run.settings.data} shows images: alignment and pictures need stimuli")
    return sessions


def image_encoder(run: RunFolder) -> ImageEncoder:
    image = run.settings.image
    return ImageEncoder(name=image.encoder, layer=image.layer, grid=image.grid, resolution=image.resolution)


def embedded_images(run: RunFolder, sessions: Sequence[Session]) -> ImageData:
    """All images with their embeddings (cached beside the data). Raises UserError where an image is in two splits."""
    data = run.settings.data
    images = ImageSet.read(data / "images.h5")
    options = run.settings.image
    embeddings = embed_images(
        image_encoder(run),
        images.ids,
        images.pixels,
        data / "embeddings",
        batch_size=options.batch,
        device=options.device,
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


def align(run: RunFolder) -> None:
    """Spikes -> image embedding; encoder frozen, then its last blocks unfrozen -> run/align."""
    settings = run.settings
    options = settings.align
    run.need("adapt")
    model = NeuroBridge.load(run / "adapt")
    sessions = sessions_with_images(run)
    data = embedded_images(run, sessions)
    train = torch.from_numpy(data.embeddings[data.train])
    space = EmbeddingSpace.fit(train, dimensions=settings.image.dimensions, whitening=settings.image.whitening)
    targets = space(torch.from_numpy(data.embeddings))
    torch.manual_seed(settings.seed + 1)
    head = make_head(model, sessions, settings, dimensions=targets.shape[1])
    batcher = make_batcher(model, sessions, settings)

    def loader(first: int, last: int, rank: int) -> StepBatches:
        return StepBatches(
            batcher, split="train", windows=options.windows, groups=options.groups, seed=settings.seed, first=first,
            last=last, rank=rank,
        )  # fmt: skip

    common = {
        "targets": targets,
        "unit_dropout": options.unit_dropout,
        "noise": options.noise,
        "readout_learning_rate": options.readout_learning_rate,
        "loading_learning_rate": options.loading_learning_rate,
        "loader": loader,
        "checkpoint_every": options.checkpoint_every,
        "learning_rate": options.learning_rate,
        "weight_decay": options.weight_decay,
        "seed": settings.seed,
    }
    if options.steps:
        tables = {"latents": frozen_latents(model, batcher)}
        if options.average_repeats:
            tables = average_repeats(model, head, batcher, tables["latents"])
        task = AlignTask(
            model, head, steps=options.steps, mixco=options.mixco, soft=options.mixco > 0, **tables, **common
        )
        fit_here(task, "align", run)
    if options.joint_steps:
        common |= dict.fromkeys(("learning_rate", "readout_learning_rate"), options.joint_learning_rate)
        faster = options.loading_learning_rate / options.learning_rate
        common["loading_learning_rate"] = faster * options.joint_learning_rate
        joint = AlignTask(
            model,
            head,
            steps=options.joint_steps,
            joint_blocks=options.joint_blocks,
            joint_learning_rate=options.joint_learning_rate,
            anti_forgetting=options.anti_forgetting,
            masker=make_masker(settings),
            soft=options.mixco > 0,
            **common,
        )
        fit_here(joint, "align-joint", run)
    model.save(run / "align")
    save_aligned(run, head, space)
    run.save_arrays("align/embeddings.npz", ids=data.images.ids, embeddings=data.embeddings, train=data.train)
    layer = settings.image.layer or image_encoder(run).layer
    run.finish("align", sessions=[s.name for s in sessions], encoder=settings.image.encoder, layer=layer)


def save_aligned(run: RunFolder, head: AlignmentHead, space: EmbeddingSpace) -> None:
    tensors = {f"head.{k}": v for k, v in head.state_dict().items()} | {
        f"space.{k}": v for k, v in space.state_dict().items()
    }
    with atomic_path(run / "align" / "head.safetensors") as path:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    with atomic_path(run / "align" / "head.json") as path:
        path.write_text(json.dumps(head.options))


def load_aligned(run: RunFolder) -> tuple[NeuroBridge, AlignmentHead, EmbeddingSpace]:
    """The aligned encoder, its head and the embedding space."""
    run.need("align")
    tensors = load_file(run / "align" / "head.safetensors")
    head = AlignmentHead(**json.loads((run / "align" / "head.json").read_text()))
    head.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("head.")})
    width, dimensions = tensors["space.components"].shape
    space = EmbeddingSpace(width=width, dimensions=dimensions)
    space.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("space.")})
    return NeuroBridge.load(run / "align").eval(), head.eval(), space


@torch.no_grad()
def predict_windows(
    model: NeuroBridge, head: AlignmentHead, batcher: Batcher, index: int, rows: np.ndarray
) -> np.ndarray:
    """Unit-length predictions [len(rows), K] in the embedding space, one a window."""
    model.eval()
    head.eval()
    parts = []
    for batch in batcher.sequence(index, rows, 256):
        response = respond(model, head, batch)
        parts.append(F.normalize(head(model.encode(batch), response, batch.unit_row), dim=-1))
    return torch.cat(parts).numpy()


@torch.no_grad()
def predict_images(
    model: NeuroBridge, head: AlignmentHead, batcher: Batcher, index: int, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Image rows [I], sorted, and unit-length predictions [I, K] from responses and latents averaged over repeats.

    For a head that was trained on averages; the other way is to average the predictions of :func:`predict_windows`.
    """
    model.eval()
    head.eval()
    parts = [(model.encode(batch), respond(model, head, batch)) for batch in batcher.sequence(index, rows, 256)]
    shown = batcher.sessions[index].image_row[rows]
    images, latent = average_by_image(torch.cat([part[0] for part in parts]).numpy(), shown)
    _, response = average_by_image(torch.cat([part[1] for part in parts]).numpy(), shown)
    unit_row = torch.from_numpy(batcher.unit_rows[index])[None]
    predicted = head(torch.from_numpy(latent), torch.from_numpy(response), unit_row)
    return images, F.normalize(predicted, dim=-1).numpy()


def average_by_image(values: np.ndarray, image_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of ``values`` [W, ...] over the windows of each image -> (image rows sorted [I], means [I, ...])."""
    rows, inverse, counts = np.unique(image_rows, return_inverse=True, return_counts=True)
    total = np.zeros((len(rows), *values.shape[1:]), dtype=np.float64)
    np.add.at(total, inverse, values)
    return rows, (total / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
