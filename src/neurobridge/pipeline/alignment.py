"""Stage align: readout and projector against frozen image embeddings (stage 1), then the last blocks too (stage 2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from neurobridge.bridge.alignment import AlignmentHead, EmbeddingSpace, population_response
from neurobridge.data.datamodule import Batcher, StepBatches
from neurobridge.data.images import ImageSet
from neurobridge.data.store import Session
from neurobridge.errors import UserError, atomic_path
from neurobridge.neuro.masking import nothing_hidden
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spikes import fit_here, held_out_sessions, make_batcher, make_masker, pretraining_sessions
from neurobridge.training.tasks import AlignTask
from neurobridge.vision.encoders import ImageEncoder, embed_images

LATENT_BYTES = 2 * 2**30


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
    head = AlignmentHead(
        units=len(model.units),
        chunks=-(-settings.window.window_ms // settings.model.chunk_ms),
        loadings=options.loadings,
        tokens=len(model.encoder.latent_times(settings.window.window_ms)),
        width=model.width,
        heads=settings.model.heads,
        queries=options.queries,
        hidden=options.hidden,
        dimensions=targets.shape[1],
        dropout=options.dropout,
    )
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
        "loader": loader,
        "checkpoint_every": options.checkpoint_every,
        "learning_rate": options.learning_rate,
        "weight_decay": options.weight_decay,
        "seed": settings.seed,
    }
    if options.steps:
        latents = frozen_latents(model, batcher)
        fit_here(AlignTask(model, head, steps=options.steps, latents=latents, **common), "align", run)
    if options.joint_steps:
        common |= dict.fromkeys(("learning_rate", "readout_learning_rate"), options.joint_learning_rate)
        joint = AlignTask(
            model,
            head,
            steps=options.joint_steps,
            joint_blocks=options.joint_blocks,
            joint_learning_rate=options.joint_learning_rate,
            anti_forgetting=options.anti_forgetting,
            masker=make_masker(settings),
            **common,
        )
        fit_here(joint, "align-joint", run)
    model.save(run / "align")
    save_aligned(run, head, space)
    run.save_arrays("align/embeddings.npz", ids=data.images.ids, embeddings=data.embeddings, train=data.train)
    layer = settings.image.layer or image_encoder(run).layer
    run.finish("align", sessions=[s.name for s in sessions], encoder=settings.image.encoder, layer=layer)


@torch.no_grad()
def frozen_latents(model: NeuroBridge, batcher: Batcher) -> list[torch.Tensor]:
    """Latents [W, M, D] of every window of each session, as float16; none if they would not fit in two gigabytes."""
    tokens = len(model.encoder.latent_times(batcher.sessions[0].window_ms))
    if 2 * tokens * model.width * sum(len(s.starts) for s in batcher.sessions) > LATENT_BYTES:
        return []
    model.eval()
    latents = []
    for index, session in enumerate(track(batcher.sessions, "latents", transient=True)):
        rows = np.arange(len(session.starts))
        parts = [model.encode(batch).half() for batch in batcher.sequence(index, rows, 256)]
        latents.append(torch.cat(parts))
    model.train()
    return latents


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
        nothing = nothing_hidden(batch).hidden_unit
        response = population_response(batch, model.units.bias[batch.unit_row], nothing, model.encoder.chunk_ms)
        parts.append(F.normalize(head(model.encode(batch), response, batch.unit_row), dim=-1))
    return torch.cat(parts).numpy()


def average_by_image(values: np.ndarray, image_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of ``values`` [W, ...] over the windows of each image -> (image rows sorted [I], means [I, ...])."""
    rows, inverse, counts = np.unique(image_rows, return_inverse=True, return_counts=True)
    total = np.zeros((len(rows), *values.shape[1:]), dtype=np.float64)
    np.add.at(total, inverse, values)
    return rows, (total / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
