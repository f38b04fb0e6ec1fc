"""An exponential moving average of the weights (EMA): what a training is validated with, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from neurobridge.training.sharding import like, local, whole


class Average(Callback):
    """Keeps the average of all weights that learn; ``decay``: share of the old one a step, less in the first steps.

    Checkpoints hold it as 'average' beside the weights, so that a training goes on from both.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        self.step = 0

    def on_load_checkpoint(self, trainer: object, task: object, checkpoint: dict[str, Any]) -> None:
        self.kept = checkpoint.get("average", {})

    @torch.no_grad()
    def on_train_start(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        self.step = trainer.global_step
        learning = {name: p for name, p in task.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().clone() for name, p in learning.items()}
        for name, value in self.values.items():  # in the same order on all processes
            if name in self.kept:
                local(value).copy_(local(like(self.kept[name], learning[name])))

    @torch.no_grad()
    def on_train_batch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule, *_: object) -> None:
        if trainer.global_step == self.step:
            return  # more of the step's batch is to come
        self.step = trainer.global_step
        decay = min(self.decay, self.step / (9 + self.step))
        torch._foreach_lerp_([local(v) for v in self.values.values()], self.weights(task), 1.0 - decay)

    def on_save_checkpoint(self, trainer: object, task: object, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = {name: whole(value) for name, value in self.values.items()}

    def weights(self, task: lightning.LightningModule) -> list[Tensor]:
        """The weights of ``task`` in the order of the averages."""
        named = dict(task.named_parameters())
        return [local(named[name].detach()) for name in self.values]

    @torch.no_grad()
    def settle(self, task: lightning.LightningModule) -> None:
        """The weights of ``task`` become their averages."""
        torch._foreach_copy_(self.weights(task), [local(value) for value in self.values.values()])

    @contextmanager
    def instead(self, task: lightning.LightningModule) -> Iterator[None]:
        """Within, ``task`` has the averages for its weights."""
        weights = self.weights(task)
        before = [value.clone() for value in weights]
        self.settle(task)
        yield
        torch._foreach_copy_(weights, before)
