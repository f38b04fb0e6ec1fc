"""The tasks on spikes alone: masked prediction (pretraining, adaptation), and calibration of an IDEncoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from neurobridge.data.datamodule import Share
from neurobridge.neuro.augmentation import augment
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.decoder import GridDecoder
from neurobridge.neuro.identity import IDEncoder
from neurobridge.neuro.losses import masked_losses, sample_cells
from neurobridge.neuro.masking import Masker, MaskPlan
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.prior import NewUnits
from neurobridge.training.ranks import mean_over_ranks
from neurobridge.training.task import Task


class MaskedTask(Task):
    """Masked prediction: pretraining (all weights), or adaptation (``only_units``: the body is frozen).

    masker draws the plans; unit_learning_rate: of unit embeddings and biases, where it is not the task's;
    unit_weight_decay: of unit embeddings, in steps that draw them; ``cells``: with a grid decoder, queries a window in
    training; ``augmentation``: options of :func:`augment`. unfreeze_every: in adaptation, one more backbone block from
    the top learns after each such number of steps, at a tenth of the rate (0: the body stays frozen). validation:
    batches with frozen plans, scored at every checkpoint; pretraining ends with the weights that did best there.
    new_units: vectors that learn in the place of the
    vocabulary's, with a decay of new_unit_decay towards their prior.
    """

    passes = ("step_losses", "valid_losses")

    def __init__(
        self,
        model: NeuroBridge,
        *,
        masker: Masker,
        only_units: bool = False,
        unit_learning_rate: float | None = None,
        unit_weight_decay: float = 0.0,
        unfreeze_every: int = 0,
        cells: int = 512,
        augmentation: dict | None = None,
        validation: Sequence[tuple[SpikeBatch, MaskPlan]] = (),
        new_units: NewUnits | None = None,
        new_unit_decay: float = 0.0,
        **options,
    ) -> None:
        super().__init__(**options)
        self.model, self.masker, self.only_units = model, masker, only_units
        self.new_units, self.new_unit_decay = new_units, new_unit_decay
        self.unit_learning_rate = self.learning_rate if unit_learning_rate is None else unit_learning_rate
        self.unit_weight_decay = unit_weight_decay
        self.unfreeze_every, self.cells, self.augmentation = unfreeze_every, cells, augmentation or {}
        self.validation = list(validation)
        self.ends_with_best = not only_units
        for parameter in model.body():
            parameter.requires_grad_(not only_units)
        if only_units and unfreeze_every:
            model.encoder.blocks.requires_grad_(True)
        if new_units is not None:
            model.units.embedding.requires_grad_(False)

    def names(self) -> list[str]:
        return self.model.units.keys

    def groups(self) -> list[dict]:
        table = self.model.units
        alone = {"weight_decay": 0.0, "rows": True}
        units = {"params": [table.embedding], "lr": self.unit_learning_rate} | alone
        units["weight_decay"] = self.unit_weight_decay
        if self.new_units is not None:
            units |= {"params": [self.new_units.epsilon], "weight_decay": self.new_unit_decay}
        units = [units, {"params": [table.bias], "lr": self.unit_learning_rate} | alone]
        if not self.only_units:
            return [*units, {"params": [table.dataset]} | alone, {"params": self.model.body()}]
        blocks = list(self.model.encoder.blocks)[::-1] if self.unfreeze_every else []
        return units + [
            {"params": list(block.parameters()), "lr": self.learning_rate / 10, "first": (i + 1) * self.unfreeze_every}
            for i, block in enumerate(blocks)
        ]

    def losses(self, batch: SpikeBatch, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = augment(batch, rng, number=self.share.number, **self.augmentation)
        losses = masked(self.model, batch, self.plan(batch, rng), unit=self.unit(batch), cells=self.cells)
        return losses | {"loss": torch.stack(list(losses.values())).mean()}

    def plan(self, batch: SpikeBatch, rng: np.random.Generator) -> MaskPlan:
        """This process's part of the plan for the whole batch."""
        return plan_of(self.masker, batch, rng, self.share)

    def unit(self, batch: SpikeBatch) -> Tensor | None:
        """Vectors [G, N, E] that stand for the vocabulary's; None for the vocabulary's own."""
        return None if self.new_units is None else self.new_units(batch.unit_row)

    def on_train_epoch_end(self) -> None:
        if self.global_rank and self._device_mesh is None:
            return  # validation windows are the same on all ranks; where weights are cut, all help with them
        self.eval()
        by_mode: dict[str, list[float]] = defaultdict(list)
        parts = []
        with torch.no_grad(), self.averaged():
            for batch, plan in self.validation:
                found = self.valid_losses(batch.to(self.device), plan)
                parts.append(float(np.mean([value.item() for value in found.values()])))
                for mode, value in found.items():
                    self.log(f"valid/{mode}", value, on_epoch=True, batch_size=1, rank_zero_only=True)
                    by_mode[mode].append(value.item())
        self.train()
        if self.validation and self.ends_with_best:
            self.valid_loss = float(np.mean([np.mean(values) for values in by_mode.values()]))
            self.valid_parts = parts

    def valid_losses(self, batch: SpikeBatch, plan: MaskPlan) -> dict[str, Tensor]:
        """Loss of each mode in the plan, of this batch alone."""
        return masked(self.model, batch, plan, unit=self.unit(batch), shared=torch.clone)


def plan_of(masker: Masker, batch: SpikeBatch, rng: np.random.Generator, share: Share) -> MaskPlan:
    """The plan that ``masker`` draws for a whole batch, of which ``batch`` is this ``share``: as if there were one."""
    if share.of == 1:
        return masker.draw(batch, rng)
    whole = replace(batch, target=batch.target[:1].expand(share.of * batch.windows, -1, -1))
    rows = torch.arange(share.number, whole.windows, share.of)
    return masker.draw(whole, rng).rows(rows.to(batch.target.device))


def masked(
    model: NeuroBridge,
    batch: SpikeBatch,
    plan: MaskPlan,
    *,
    unit: Tensor | None = None,
    cells: int | None = None,
    shared: Callable[[Tensor], Tensor] = mean_over_ranks,
) -> dict[str, Tensor]:
    """Loss of each mode in the plan; of ``cells`` sampled cells a window if the decoder asks for a query a cell.

    ``shared``: as in :func:`masked_losses`; by default the batch is this process's part of one.
    """
    scored, target, asked = plan.scored(batch), batch.target, None
    if cells is not None and isinstance(model.decoder, GridDecoder):
        asked, scored = sample_cells(scored, target, cells)
        target = target.flatten(1).gather(1, asked)
    prediction = model(batch, plan, unit=unit, cells=asked)
    return masked_losses(prediction, target, plan, scored, poisson=batch.event_value is None, shared=shared)


class IdentityTask(Task):
    """Train an IDEncoder through a frozen body: half of a session's windows calibrate, the other half are predicted."""

    def __init__(self, model: NeuroBridge, encoder: IDEncoder, *, masker: Masker, **options) -> None:
        super().__init__(**options)
        self.model, self.encoder, self.masker = model, encoder, masker
        model.requires_grad_(False)

    def groups(self) -> list[dict]:
        return [{"params": list(self.encoder.parameters())}]

    def losses(self, batch: SpikeBatch, rng: np.random.Generator) -> dict[str, Tensor]:
        counts = batch.target.unflatten(0, (batch.groups, -1))
        half = counts.shape[1] // 2
        unit = self.encoder(counts[:, :half], batch.unit_mask)
        plan = plan_of(self.masker, batch, rng, self.share)
        plan.mode.view(batch.groups, -1)[:, :half] = -1  # calibration windows are not scored
        losses = masked(self.model, batch, plan, unit=unit)
        return losses | {"loss": torch.stack(list(losses.values())).mean()}
