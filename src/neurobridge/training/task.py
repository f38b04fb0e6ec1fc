"""A task is a model and a loss: a batch in, named losses out. Devices and ranks live in the trainer."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from hashlib import sha256

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from neurobridge.data.datamodule import WHOLE, Share
from neurobridge.training.optimiser import RowAdamW
from neurobridge.training.sharding import clip, shard

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
    ``parts``: the batch of a step is computed in so many parts, one after another; ``workers``: processes that make
    batches; ``averaged``: within, the weights are those that are validated.
    """

    passes = ("step_losses",)  # methods that compute with the weights

    def __init__(
        self, *, loader: Loader, steps: int, checkpoint_every: int, learning_rate: float, weight_decay: float, seed: int
    ):
        super().__init__()
        self.loader, self.steps, self.checkpoint_every = loader, steps, checkpoint_every
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed
        self.stopping, self.parts, self.workers = False, 1, 0
        self.averaged: Callable[[], AbstractContextManager] = nullcontext
        self.part = 0
        self.current: dict[str, Tensor] = {}  # losses of this step
        self.valid_loss: float | None = None  # at the last checkpoint, of a task that is to end with its lowest
        self.valid_parts: list[float] = []  # the same of parts of the valid windows, to tell how sure it is

    def origin(self, stage: str) -> str:
        """What tells this training from others: its stage, its course but for its length, and the weights it has."""
        course = [stage, self.checkpoint_every, self.seed]
        weights = [(name, list(value.shape)) for name, value in self.state_dict().items()]
        return sha256(json.dumps([course, weights]).encode()).hexdigest()

    def names(self) -> list[str]:
        """What rows of the weights belong to: the same on all processes, or they would train something else."""
        return []

    def norms(self) -> list[torch.nn.BatchNorm1d]:
        """Those that see this process's rows alone, and are to normalise by the rows of all."""
        return []

    def stretches(self, done: int) -> int:
        """How many stretches are left after ``done`` steps; they end at multiples of checkpoint_every."""
        return -(-self.steps // self.checkpoint_every) - done // self.checkpoint_every

    def train_dataloader(self) -> DataLoader:
        first = self.global_step
        last = min((first // self.checkpoint_every + 1) * self.checkpoint_every, self.steps)
        batches = [self.loader(first, last, self.share_of(part)) for part in range(self.parts)]
        options = {"num_workers": self.workers, "pin_memory": self.device.type == "cuda", "worker_init_fn": deaf}
        return InParts(DataLoader(Steps(batches), batch_size=None, **options))

    @property
    def share(self) -> Share:
        """Which part of every batch is now this process's."""
        return self.share_of(self.part)

    def share_of(self, part: int) -> Share:
        """What this process computes as its ``part``-th of a step."""
        if self._trainer is None:
            return WHOLE
        return Share(self.trainer.global_rank * self.parts + part, self.trainer.world_size * self.parts)

    def configure_model(self) -> None:
        if self._device_mesh is not None:
            shard(self, self._device_mesh["data_parallel"], self.passes)

    def twin(self) -> Task:
        """This task with weights of its own; what it knows beside them, data above all, is not copied."""
        shared = {id(value): value for name, value in vars(self).items() if not name.startswith("_")}
        return deepcopy(self, shared)

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
        step, self.part = self.global_step, batch_idx % self.parts
        torch.manual_seed(self.seed * 1_000_003 + step + self.share.number * 1_000_000_007)
        losses = self.current = self.step_losses(batch, np.random.default_rng([self.seed, step, 0, 1]))
        together = self.trainer.world_size > 1
        self.log_dict({f"train/{k}": v for k, v in losses.items()}, batch_size=1, sync_dist=together)
        self.log("loss", losses["loss"], prog_bar=True, logger=False, batch_size=1)
        return losses["loss"]

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip by the norm of all gradients, which tells too whether any is infinite or not a number: then no step."""
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = clip(weights, gradient_clip_val or math.inf)
        if not torch.isfinite(norm) and not self.rescales():
            bad = [name for name, loss in self.current.items() if name != "loss" and not torch.isfinite(loss)]
            raise NotFinite(self.global_step + 1, f"the loss of {', '.join(bad)}" if bad else "a gradient")

    def rescales(self) -> bool:
        """Whether float16 overflowed, as it does at first: the step is left out and the next one scaled down."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler is not None and scaler.get_scale() > 1 and all(map(torch.isfinite, self.current.values()))

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


class Steps(IterableDataset):
    """For each step the list of its parts; ``batches``: a loader a part."""

    def __init__(self, batches: Sequence[Iterable]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches[0])  # pyright: ignore

    def __iter__(self) -> Iterator[list]:
        for parts in zip(*self.batches, strict=True):
            yield list(parts)


def deaf(number: int) -> None:
    """A process that reads batches leaves it to the one that trains to answer Ctrl-C and SIGTERM."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


class InParts:
    """The parts of all steps in a row."""

    def __init__(self, steps: DataLoader) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps) * len(self.steps.dataset.batches)

    def __iter__(self) -> Iterator:
        for parts in self.steps:
            yield from parts


def mean_losses(parts: Sequence[dict[str, Tensor]], windows: Sequence[int]) -> dict[str, Tensor]:
    """Mean of each named loss over the parts that have it, weighed by their windows."""
    means = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        having = [(part[name], count) for part, count in zip(parts, windows, strict=True) if name in part]
        means[name] = torch.stack([loss * count for loss, count in having]).sum() / sum(count for _, count in having)
    return means
