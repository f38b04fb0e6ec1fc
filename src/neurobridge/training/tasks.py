"""A task is a model and a loss: a batch in, named losses out. Devices and ranks live in the trainer."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from neurobridge.data.datamodule import WHOLE, Share
from neurobridge.neuro.augmentation import augment
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.decoder import GridDecoder
from neurobridge.neuro.identity import IDEncoder
from neurobridge.neuro.losses import masked_losses, sample_cells
from neurobridge.neuro.masking import Masker, MaskPlan
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.prior import NewUnits
from neurobridge.training.optimiser import RowAdamW
from neurobridge.training.ranks import mean_over_ranks

Loader = Callable[[int, int, Share], Iterable]


class NotFinite(Exception):
    """A loss or a gradient is infinite or not a number: ``what``, at ``step`` (from 1)."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(step, what)
        self.step, self.what = step, what


class Task(lightning.LightningModule):
    """Steps, not epochs, are what counts: an epoch is the stretch between two checkpoints.

    loader(first, last, share) gives the batches of steps first..last: of several processes each takes its share of one
    batch, under one mask, and losses are means over the whole of it. What is random in a step is seeded by the step, so
    that an interrupted run ends where an uninterrupted one ends. ``stopping``: end the stretch before its next step.
    """

    def __init__(
        self, *, loader: Loader, steps: int, checkpoint_every: int, learning_rate: float, weight_decay: float, seed: int
    ):
        super().__init__()
        self.loader, self.steps, self.checkpoint_every = loader, steps, checkpoint_every
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed
        self.stopping = False
        self.current: dict[str, Tensor] = {}  # losses of this step
        self.valid_loss: float | None = None  # at the last checkpoint, of a task that is to end with its lowest

    def origin(self, stage: str) -> str:
        """What tells this training from others: its stage, its course but for its length, and the weights it has."""
        course = [stage, self.checkpoint_every, self.seed]
        weights = [(name, list(value.shape)) for name, value in self.state_dict().items()]
        return sha256(json.dumps([course, weights]).encode()).hexdigest()

    def stretches(self, done: int) -> int:
        """How many stretches are left after ``done`` steps; they end at multiples of checkpoint_every."""
        return -(-self.steps // self.checkpoint_every) - done // self.checkpoint_every

    def train_dataloader(self) -> DataLoader:
        first = self.global_step
        last = (first // self.checkpoint_every + 1) * self.checkpoint_every
        return DataLoader(self.loader(first, min(last, self.steps), self.share), batch_size=None)

    @property
    def share(self) -> Share:
        """Which part of every batch is this process's."""
        alone = self._trainer is None
        return WHOLE if alone else Share(self.trainer.global_rank, self.trainer.world_size)

    def on_train_batch_start(self, batch, batch_idx: int) -> int | None:
        return -1 if self.stopping else None

    def lr_scheduler_step(self, scheduler, metric) -> None:
        if not self.stopping:  # the Trainer would count the step that is left out
            scheduler.step()

    def losses(self, batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Named losses of one batch; 'loss' is their weighted sum, the rest is only logged."""
        raise AssertionError("a task defines its losses")

    def groups(self) -> list[dict]:
        """Parameter groups, with their own 'lr' or 'weight_decay' where these differ from the task's.

        'first' is the step from which a group learns; 'rows': only rows with a gradient move (:class:`RowAdamW`).
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def step_losses(self, batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses of a step; a mixed one holds a list, a batch for each kind of signal, and averages over windows."""
        parts = batch if isinstance(batch, list) else [batch]
        return mean_losses([self.losses(part, rng) for part in parts], [part.windows for part in parts])

    def training_step(self, batch, batch_idx: int) -> Tensor:
        step = self.global_step
        torch.manual_seed(self.seed * 1_000_003 + step + self.global_rank * 1_000_000_007)
        losses = self.current = self.step_losses(batch, np.random.default_rng([self.seed, step, 0, 1]))
        together = self.share.of > 1
        self.log_dict({f"train/{k}": v for k, v in losses.items()}, batch_size=1, sync_dist=together)
        self.log("loss", losses["loss"], prog_bar=True, logger=False, batch_size=1)
        return losses["loss"]

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip by the norm of all gradients, which tells too whether any is infinite or not a number: then no step."""
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(weights, gradient_clip_val or 1.0)
        if not torch.isfinite(norm):
            bad = [name for name, loss in self.current.items() if name != "loss" and not torch.isfinite(loss)]
            raise NotFinite(self.global_step + 1, f"the loss of {', '.join(bad)}" if bad else "a gradient")

    def configure_optimizers(self):
        groups = [{"lr": self.learning_rate, "weight_decay": self.weight_decay} | group for group in self.groups()]
        first = [group.pop("first", 0) for group in groups]
        optimizer = RowAdamW(groups, lr=self.learning_rate, betas=(0.9, 0.98))

        def factor(first: int) -> Callable[[int], float]:
            warmup = max(1, min(100, (self.steps - first) // 10))

            def at(step: int) -> float:
                if step < first:
                    return 0.0
                if step < first + warmup:
                    return (step - first + 1) / warmup
                done = (step - first - warmup) / max(1, self.steps - first - warmup)
                return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))

            return at

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [factor(step) for step in first])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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
        if self.global_rank:
            return  # validation windows are the same on all ranks
        self.eval()
        by_mode: dict[str, list[float]] = defaultdict(list)
        with torch.no_grad():
            for batch, plan in self.validation:
                batch, unit = batch.to(self.device), self.unit(batch)
                for mode, value in masked(self.model, batch, plan, unit=unit, shared=torch.clone).items():
                    self.log(f"valid/{mode}", value, on_epoch=True, batch_size=1, rank_zero_only=True)
                    by_mode[mode].append(value.item())
        self.train()
        if self.validation and self.ends_with_best:
            self.valid_loss = float(np.mean([np.mean(values) for values in by_mode.values()]))


def plan_of(masker: Masker, batch: SpikeBatch, rng: np.random.Generator, share: Share) -> MaskPlan:
    """The plan that ``masker`` draws for a whole batch, of which ``batch`` is this ``share``: as if there were one."""
    if share.of == 1:
        return masker.draw(batch, rng)
    whole = replace(batch, target=batch.target[:1].expand(share.of * batch.windows, -1, -1))
    rows = torch.arange(share.number, whole.windows, share.of)
    return masker.draw(whole, rng).rows(rows.to(batch.target.device))


def mean_losses(parts: Sequence[dict[str, Tensor]], windows: Sequence[int]) -> dict[str, Tensor]:
    """Mean of each named loss over the parts that have it, weighed by their windows."""
    means = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        having = [(part[name], count) for part, count in zip(parts, windows, strict=True) if name in part]
        means[name] = torch.stack([loss * count for loss, count in having]).sum() / sum(count for _, count in having)
    return means


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
