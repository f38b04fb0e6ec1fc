"""The task of alignment: spikes against frozen image embeddings; the encoder frozen (stage 1) or in part not (2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobridge.bridge.alignment import AlignmentHead
from neurobridge.bridge.contrastive import Mixture, info_nce, mixco, soft_clip
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.masking import Masker, MaskPlan, nothing_hidden
from neurobridge.neuro.model import NeuroBridge
from neurobridge.training.ranks import across_ranks
from neurobridge.training.tasks import Task, masked


class AlignTask(Task):
    """InfoNCE between the readout of the spikes and frozen image embeddings.

    targets [I, K]: one row an image. joint_blocks 0 is stage 1: the encoder is frozen, and ``latents`` may hold those
    of every window of each session [W, M, D], so that it need not run at every step (units are then dropped from the
    population path only). Above 0 it is stage 2: the last blocks, the norm and the unit embeddings learn too (the whole
    encoder, if it has no more blocks than that), and anti_forgetting weighs the masked reconstruction.
    loading_learning_rate: of the loadings alone. They start at the order of one on responses of the order of
    1 / sqrt(units), so that at the rate of the other weights they would hardly move. They have no weight decay.
    averages: standardised responses of every window of each session [W, C, N], to be looked up instead of the batch's
    own (averages over repeats). mixco: share of the steps on mixed inputs; soft: SoftCLIP afterwards, not InfoNCE.
    Negatives come from all ranks.
    """

    def __init__(
        self,
        model: NeuroBridge,
        head: AlignmentHead,
        *,
        targets: Tensor,
        readout_learning_rate: float,
        loading_learning_rate: float,
        joint_blocks: int = 0,
        joint_learning_rate: float = 0.0,
        anti_forgetting: float = 0.0,
        unit_dropout: float = 0.0,
        noise: float = 0.0,
        masker: Masker | None = None,
        latents: Sequence[Tensor] = (),
        averages: Sequence[Tensor] = (),
        mixco: float = 0.0,
        soft: bool = False,
        **options,
    ) -> None:
        super().__init__(**options)
        self.model, self.head, self.latents = model, head, list(latents)
        self.averages, self.mixco, self.soft = list(averages), mixco, soft
        self.register_buffer("targets", targets, persistent=False)
        self.joint_learning_rate, self.anti_forgetting, self.unit_dropout = (
            joint_learning_rate,
            anti_forgetting,
            unit_dropout,
        )
        self.noise, self.readout_learning_rate = noise, readout_learning_rate
        self.loading_learning_rate = loading_learning_rate
        self.masker = masker
        model.requires_grad_(False)
        self.unfrozen: list[nn.Parameter] = []
        if joint_blocks:
            blocks = model.encoder.blocks[-joint_blocks:]
            whole = joint_blocks >= len(model.encoder.blocks)
            parts = [model.encoder] if whole else [*blocks, model.encoder.norm]
            self.unfrozen = [*(p for part in parts for p in part.parameters()), model.units.embedding]
            for parameter in self.unfrozen:
                parameter.requires_grad_(True)

    def groups(self) -> list[dict]:
        head = self.head
        population = [p for path in (head.population, head.attention) if path is not None for p in path.parameters()]
        population.append(head.log_scale)
        mine = {id(p) for p in (*population, head.loading)}
        latent = [p for p in self.head.parameters() if id(p) not in mine]
        groups: list[dict] = [{"params": population}, {"params": latent, "lr": self.readout_learning_rate}]
        if head.loading is not None:
            groups.append({"params": [head.loading], "lr": self.loading_learning_rate, "weight_decay": 0.0})
        if self.unfrozen:
            groups.append({"params": self.unfrozen, "lr": self.joint_learning_rate, "weight_decay": 0.0})
        return groups

    def losses(self, batch: SpikeBatch, rng: np.random.Generator) -> dict[str, Tensor]:
        plan = nothing_hidden(batch)
        if self.unit_dropout:
            share = rng.random((batch.windows, 1)) * 2 * self.unit_dropout
            dropped = rng.random(plan.hidden_unit.shape) < share
            plan.hidden_unit |= torch.from_numpy(dropped).to(plan.hidden_unit.device)
        latent, response = self.encode(batch, plan), self.responses(batch, plan, rng)
        mixture = None
        if self.global_step < self.mixco * self.steps:
            mixture = Mixture.draw(batch.stimulus, batch.groups, rng)
            latent, response = mixture(latent), mixture(response)
        predicted = self.head(latent, response, batch.unit_row)
        name, contrast = self.contrast(predicted, batch.stimulus, mixture)
        losses = {name: contrast, "loss": contrast}
        if self.masker is not None and self.anti_forgetting and self.unfrozen:
            kept = masked(self.model, batch, self.masker.draw(batch, rng))
            losses |= kept
            losses["loss"] = contrast + self.anti_forgetting * torch.stack(list(kept.values())).mean()
        return losses

    def contrast(self, predicted: Tensor, stimulus: Tensor, mixture: Mixture | None) -> tuple[str, Tensor]:
        """The contrastive loss of the rows of all ranks, with its name."""
        partner = stimulus if mixture is None else stimulus[mixture.partner]
        share = torch.ones_like(predicted[:, 0]) if mixture is None else mixture.share
        predicted, stimulus, partner, share = (across_ranks(x) for x in (predicted, stimulus, partner, share))
        known = stimulus >= 0  # a window whose picture is not known has no target
        name = "mixco" if mixture else "soft_clip" if self.soft else "info_nce"
        if not known.any():
            return name, 0.0 * predicted.sum()
        image, scale = stimulus[known], self.head.log_scale
        pairs = predicted[known], self.targets[image]
        if mixture is not None:
            return name, mixco(*pairs, image, scale, partner[known], share[known])
        return name, soft_clip(*pairs, scale) if self.soft else info_nce(*pairs, image, scale)

    def encode(self, batch: SpikeBatch, plan: MaskPlan) -> Tensor:
        """Latents of the batch: looked up where they were given, computed otherwise."""
        if self.latents:
            return torch.cat(look_up(self.latents, batch)).to(self.device, torch.float32)
        with torch.set_grad_enabled(bool(self.unfrozen)):
            return self.model.encode(batch, plan)

    def responses(self, batch: SpikeBatch, plan: MaskPlan, rng: np.random.Generator) -> Tensor:
        """What the head's population path sees, with Gaussian noise of ``noise`` standard deviations."""
        if self.averages:
            units = batch.unit_row.shape[1]
            found = [F.pad(x, (0, units - x.shape[-1])) for x in look_up(self.averages, batch)]
            there = batch.per_window(batch.unit_mask)
            seen = there & ~plan.hidden_unit
            share = seen.sum(1, keepdim=True).clamp(min=1) / there.sum(1, keepdim=True)
            response = torch.cat(found).to(self.device) * (seen / share.sqrt())[:, None]
        else:
            response = self.head.respond(batch, self.model.units.bias, plan.hidden_unit, self.model.encoder.chunk_ms)
        if self.noise:
            drawn = torch.from_numpy(rng.standard_normal(response.shape, dtype=np.float32)).to(response)
            response = response + self.noise * drawn * (response != 0) / response.shape[-1] ** 0.5
        return response


def look_up(tables: Sequence[Tensor], batch: SpikeBatch) -> list[Tensor]:
    """What tables [W, ...], one a session, hold of the batch's windows: one part a session of the batch."""
    rows = batch.row.view(batch.groups, -1).cpu()
    return [tables[i][r] for i, r in zip(batch.session.tolist(), rows, strict=True)]
