"""Stage align: readout and projector against frozen image embeddings (stage 1), then the last blocks too (stage 2)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from neurobridge.bridge.alignment import ImageHead
from neurobridge.data.datamodule import Batcher, Share, StepBatches
from neurobridge.data.store import Session
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.device import device
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.image_data import (
    Bridge,
    embedded_images,
    image_encoder,
    new_bridge,
    seen_by,
    sessions_of,
    show_images,
    stack_features,
)
from neurobridge.pipeline.spikes import (
    fit_here,
    held_out_sessions,
    joint_options,
    make_batcher,
    make_masker,
    pretraining_sessions,
)
from neurobridge.pipeline.teaching import lessons_of
from neurobridge.training.joint_task import JointTask


def sessions_with_images(run: RunFolder) -> list[Session]:
    """Every session to align: pretraining ones, then held-out ones, those that show images."""
    return sessions_of(run, [*pretraining_sessions(run.settings), *held_out_sessions(run.settings)])


def align(run: RunFolder) -> None:
    """Latents -> image embedding; encoder frozen, then its last blocks and the units unfrozen -> run/align."""
    settings = run.settings
    options = settings.align
    run.need("adapt")
    model = NeuroBridge.load(run / "adapt")
    sessions = sessions_with_images(run)
    images = show_images(settings, sessions)
    assert images is not None, "sessions_with_images lets no other pass"
    data, features = embedded_images(settings, images, sessions), stack_features(settings, images)
    torch.manual_seed(settings.seed + 1)
    there = Bridge.there(run / "adapt")
    bridge = Bridge.load(run / "adapt") if there else new_bridge(settings, model, data, features)
    batcher = make_batcher(model, sessions, settings, by_area=True)

    def loader(first: int, last: int, share: Share) -> StepBatches:
        return StepBatches(
            batcher, split="train", windows=options.windows, groups=options.groups, seed=settings.seed, first=first,
            last=last, share=share,
        )  # fmt: skip

    common = joint_options(settings) | {
        "seen": seen_by(bridge, data, features if model.memory is not None else None),
        "masker": make_masker(settings),
        "lessons": lessons_of(settings, batcher, data, features),
        "decode_weight": 1.0,
        "loader": loader,
        "checkpoint_every": options.checkpoint_every,
        "learning_rate": options.joint_learning_rate,
        "weight_decay": 0.0,
        "seed": settings.seed,
    }
    if options.steps:
        alone = {"masked_weight": 0.0, "encode_weight": 0.0, "steps": options.steps}
        fit_here(JointTask(model, bridge.head, learns="head", **common | alone), "align", run)
    if options.joint_steps:
        common |= {
            "masked_weight": options.anti_forgetting,
            "encode_weight": options.anti_forgetting,
            "steps": options.joint_steps,
            "joint_blocks": options.joint_blocks,
            "joint_learning_rate": options.joint_learning_rate,
            "unit_learning_rate": options.joint_unit_learning_rate,
        }
        fit_here(JointTask(model, bridge.head, learns="joint", **common), "align-joint", run)
    model.save(run / "align")
    bridge.save(run / "align")
    run.save_arrays("align/embeddings.npz", ids=data.images.ids, embeddings=data.embeddings, train=data.train)
    layer = settings.image.layer or image_encoder(settings).layer
    run.finish("align", sessions=[s.name for s in sessions], encoder=settings.image.encoder, layer=layer)


def load_aligned(run: RunFolder) -> tuple[NeuroBridge, Bridge]:
    """The aligned encoder and its image side, ready for use on the run's device (space and maps on the CPU)."""
    run.need("align")
    bridge, there = Bridge.load(run / "align"), device(run.settings)
    bridge.head.eval().to(there)
    return NeuroBridge.load(run / "align").eval().to(there), bridge


@torch.no_grad()
def predict_windows(model: NeuroBridge, head: ImageHead, batcher: Batcher, index: int, rows: np.ndarray) -> np.ndarray:
    """Unit-length predictions [len(rows), K] in the embedding space, one a window."""
    model.eval()
    head.eval()
    batches = batcher.sequence(index, rows, 256)
    found = [F.normalize(head(model.encode(batch, level=head.level)), dim=-1).cpu() for batch in batches]
    return torch.cat(found).numpy()
