"""Both ways in one model: masked spikes, image seen and spikes wanted, spikes seen and image wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from neurobridge.bridge.alignment import ImageHead
from neurobridge.bridge.contrastive import info_nce
from neurobridge.neuro.augmentation import augment
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.losses import cell_loss
from neurobridge.neuro.masking import everything_hidden, nothing_hidden
from neurobridge.neuro.model import NeuroBridge
from neurobridge.training.lessons import Lessons
from neurobridge.training.ranks import across_ranks, mean_over_ranks
from neurobridge.training.tasks import MaskedTask, masked

Learns = Literal["all", "units", "head", "joint"]


@dataclass(kw_only=True)
class Seen:
    """What a task knows of images, one row an image.

    maps [I, positions, W] that the backbone reads (None: it reads none); targets [I, K] in the embedding space.
    """

    maps: Tensor | None
    targets: Tensor


class JointTask(MaskedTask):
    """Masked prediction, encoding (image seen, all spikes hidden) and decoding (spikes seen, image wanted) together.

    The loss is masked_weight times the mean of the masking modes', plus encode_weight times the mean loss of a cell
    given the image, plus decode_weight times InfoNCE between the head's reading of the latents and the image embedding;
    the last two over the windows whose image is known. Negatives come from all ranks. With ``lessons`` taught_weight
    times the error of what a teacher expects of images of the library is added (while the units learn), and a share
    ``dreamt`` of the windows that are decoded are responses that were dreamt up (:class:`Lessons`).

    learns: "all" (pretraining), "units" (a new session: the body and the head are frozen), "head" (readout and
    projector, the encoder frozen) or "joint" (head, unit embeddings, the last joint_blocks of the backbone and its
    norm, at joint_learning_rate; the whole encoder if it has no more blocks than that).
    unit_dropout: mean share of units hidden in a window that is decoded. labelled [I]: images that count as known
    (None: all of them).
    """

    def __init__(
        self,
        model: NeuroBridge,
        head: ImageHead,
        *,
        seen: Seen,
        learns: Learns,
        masked_weight: float = 1.0,
        encode_weight: float = 1.0,
        decode_weight: float = 1.0,
        head_learning_rate: float = 2e-3,
        projector_learning_rate: float = 5e-4,
        head_weight_decay: float = 0.05,
        joint_blocks: int = 0,
        joint_learning_rate: float = 0.0,
        unit_dropout: float = 0.1,
        labelled: Tensor | None = None,
        lessons: Lessons | None = None,
        taught_weight: float = 0.0,
        dreamt: float = 0.0,
        **options,
    ) -> None:
        super().__init__(model, only_units=learns != "all", **options)
        self.lessons, self.taught_weight, self.dreamt = lessons, taught_weight, dreamt
        self.head, self.learns = head, learns
        self.ends_with_best = False  # validation tells of the spikes alone
        self.masked_weight, self.encode_weight, self.decode_weight = masked_weight, encode_weight, decode_weight
        self.head_learning_rate, self.projector_learning_rate = head_learning_rate, projector_learning_rate
        self.head_weight_decay, self.unit_dropout = head_weight_decay, unit_dropout
        self.joint_learning_rate = joint_learning_rate
        known = torch.ones(len(seen.targets), dtype=torch.bool) if labelled is None else labelled
        self.register_buffer("targets", seen.targets, persistent=False)
        self.register_buffer("known", known, persistent=False)
        self.maps = seen.maps
        head.requires_grad_(learns != "units")
        model.units.requires_grad_(learns != "head" and self.new_units is None)
        model.units.bias.requires_grad_(learns != "head")
        if learns == "head":
            model.requires_grad_(False)
        self.joint_blocks = joint_blocks if learns == "joint" else 0
        for parameter in self.unfrozen():
            parameter.requires_grad_(True)
        self.train()

    def norms(self) -> list[nn.BatchNorm1d]:
        return [] if self.model.memory is None else [self.model.memory.norm]

    def unfrozen(self) -> list[nn.Parameter]:
        """Weights of the encoder that learn in the joint stage."""
        encoder = self.model.encoder
        if not self.joint_blocks:
            return []
        parts = [encoder]
        if self.joint_blocks < len(encoder.blocks):
            parts = [*encoder.blocks[-self.joint_blocks :], encoder.norm]
        return [p for part in parts for p in part.parameters()]

    def train(self, mode: bool = True) -> JointTask:
        """What is frozen keeps its statistics, and nothing of it drops out."""
        super().train(mode)
        if self.learns == "units":
            self.head.eval()
        if self.learns == "head":
            self.model.eval()
        if self.learns != "all" and self.model.memory is not None:
            self.model.memory.eval()
        return self

    def groups(self) -> list[dict]:
        groups = [] if self.learns == "head" else super().groups()
        if unfrozen := self.unfrozen():
            groups.append({"params": unfrozen, "lr": self.joint_learning_rate})
        if self.learns != "units":
            common = {"weight_decay": self.head_weight_decay}
            groups.append({"params": self.head.fast(), "lr": self.head_learning_rate} | common)
            groups.append(
                {"params": list(self.head.projector.parameters()), "lr": self.projector_learning_rate} | common
            )
        return groups

    def losses(self, batch: SpikeBatch, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = augment(batch, rng, number=self.share.number, **self.augmentation)
        losses, parts = {}, []
        if self.masked_weight:
            unit = self.unit(batch)
            losses = masked(self.model, batch, self.plan(batch, rng), unit=unit, cells=self.cells)
            parts.append(self.masked_weight * torch.stack(list(losses.values())).mean())
        if self.encode_weight and self.maps is not None:
            losses["encode"] = self.encoded(batch)
            parts.append(self.encode_weight * losses["encode"])
        if self.taught_weight and self.maps is not None and self.lessons is not None and self.learns != "head":
            losses["taught"] = self.taught(rng)
            parts.append(self.taught_weight * losses["taught"])
        if self.decode_weight and self.fits(batch):
            if self.dreamt and self.lessons is not None:
                batch = self.lessons.dreamt(batch, rng, self.dreamt, self.share)
            losses["info_nce"] = self.decoded(batch, *self.shown(batch), rng)
            parts.append(self.decode_weight * losses["info_nce"])
        return losses | {"loss": torch.stack(parts).sum()}

    def shown(self, batch: SpikeBatch) -> tuple[Tensor, Tensor]:
        """Row of the image that each window shows [B], and whether there is one that may be known [B]."""
        image = torch.where(batch.stimulus >= 0, batch.stimulus, 0)
        return image, (batch.stimulus >= 0) & self.known[image]

    def fits(self, batch: SpikeBatch) -> bool:
        """Whether the head was made for windows of this length: data sets of a mixture are cut in ways of their own."""
        tokens = len(self.model.encoder.latent_times(batch.window_ms))
        return tokens * self.model.width == self.head.standard.num_features

    def encoded(self, batch: SpikeBatch) -> Tensor:
        """Mean loss of a cell where the image is known and every spike is hidden, in half of the windows.

        No other part sees less for it, and it is as dear as masked prediction.
        """
        assert self.maps is not None
        batch = batch.unseen(-(-batch.windows // batch.groups // 2))
        image, known = self.shown(batch)
        memory = self.maps[image.cpu()].to(self.device, torch.float32)
        prediction = self.model(batch, everything_hidden(batch), unit=self.unit(batch), memory=memory)
        cells = (batch.per_window(batch.unit_mask) & known[:, None]).to(prediction.dtype)
        loss = cell_loss(prediction, batch.target, poisson=batch.event_value is None).mean(-1)
        return (loss * cells).sum() / mean_over_ranks(cells.sum()).clamp(min=1)

    def taught(self, rng: np.random.Generator) -> Tensor:
        """Error of what is expected of images that nobody was shown, of the units of several sessions at once."""
        assert self.maps is not None
        assert self.lessons is not None
        question = self.lessons.question(rng, self.share)
        memory = self.maps[question.images].to(self.device, torch.float32)
        batch = question.batch.to(self.device)
        return question.loss(self.model(batch, everything_hidden(batch), unit=self.unit(batch), memory=memory))

    def decoded(self, batch: SpikeBatch, image: Tensor, known: Tensor, rng: np.random.Generator) -> Tensor:
        """InfoNCE of the rows of all ranks whose image is known; every rank's head reads them all."""
        plan = nothing_hidden(batch)
        if self.unit_dropout:
            share = rng.random((batch.windows, 1)) * 2 * self.unit_dropout
            plan.hidden_unit |= torch.from_numpy(rng.random(plan.hidden_unit.shape) < share).to(image.device)
        with torch.set_grad_enabled(self.learns != "head"):
            latent = self.model.encode(batch, plan, unit=self.unit(batch), level=self.head.level)
        latent, image, known = (across_ranks(x) for x in (latent, image, known))
        predicted = self.head(latent)
        if not known.any():
            return 0.0 * predicted.sum()
        return info_nce(predicted[known], self.targets[image[known]], image[known], self.head.log_scale)
