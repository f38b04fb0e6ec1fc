"""How a Trainer writes and reads the sealed checkpoints of a run (:mod:`neurobridge.sealed`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from neurobridge.errors import UserError, helping
from neurobridge.sealed import forget_old, newest, read_sealed, write_sealed
from neurobridge.training.sharding import whole
from neurobridge.training.task import Task

BEST = "best.ckpt"


class SealedIO(CheckpointIO):
    """Sealed files in the place of the Trainer's own."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` at ``path``, whole or not at all. Raises UserError where the disk is full."""
        write_sealed(path, checkpoint)

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict:
        """What :meth:`save_checkpoint` wrote. Raises ValueError for anything else."""
        return read_sealed(path, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Saves at the end of every stretch, as folder/step=N.ckpt; keeps the last two.

    Of a task that has a ``valid_loss`` the weights at its lowest are kept beside them, as folder/best.ckpt: training
    goes on from the last state and ends with these, if their loss is lower beyond chance.

    ``origin``: what the training is; a checkpoint of another origin is not taken up, nor one beyond its ``steps``. One
    of a shorter training is: it goes on.
    """

    def __init__(self, folder: Path, *, origin: str, steps: int) -> None:
        self.folder, self.origin, self.steps = folder, origin, steps
        self.lowest = np.inf

    def on_fit_start(self, trainer: lightning.Trainer, task: Task) -> None:
        mine = [self.origin, task.names()]
        if not trainer.strategy.reduce_boolean_decision(trainer.strategy.broadcast(mine) == mine):
            raise UserError(
                "the processes of this training see different units or options: let all nodes read the same data "
                "folder and the same --config"
            )

    def on_save_checkpoint(self, trainer: object, task: Task, checkpoint: dict[str, Any]) -> None:
        checkpoint["origin"], checkpoint["valid_parts"] = self.origin, task.valid_parts

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: Task) -> None:  # pyright: ignore
        self._keep_best(trainer, task)
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")
        forget_old(self.folder)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be used, and what it holds; those that cannot are named and set aside."""
        return newest(self.folder, self.origin, steps=self.steps)

    def _keep_best(self, trainer: lightning.Trainer, task: Task) -> None:
        """Where training was stopped within a stretch is no place to judge it: none that was not stopped has it."""
        step, loss = task.global_step, task.valid_loss
        lower = loss is not None and loss < self.lowest
        if not trainer.strategy.broadcast(lower and not (step % task.checkpoint_every and step != self.steps)):
            return  # as the first process says: where weights are cut, all have to put them together
        self.lowest = loss
        with task.averaged():
            state = {name: whole(value) for name, value in task.state_dict().items()}
            if not helping():
                kept = {"origin": self.origin, "step": step, "loss": loss, "state_dict": state}
                kept["parts"] = task.valid_parts
                write_sealed(self.folder / BEST, kept)

    def best(self, done: int) -> dict[str, Any] | None:
        """What was kept at the lowest ``valid_loss`` up to step ``done``; what is later is made again by going on."""
        path = self.folder / BEST
        if not path.is_file():
            return None
        try:
            kept = read_sealed(path)
        except ValueError as error:
            if not helping():
                path.replace(path.with_suffix(".ckpt.unusable"))
                print(f"neurobridge: {path}, the best weights so far, cannot be used, {error}", file=sys.stderr)
            return None
        if kept["origin"] != self.origin or kept["step"] > done:
            return None
        self.lowest = kept["loss"]
        return kept


def beyond_chance(lower: Sequence[float], higher: Sequence[float]) -> bool:
    """Whether losses of the same parts of the valid windows differ by more than twice the error of their difference.

    Where nothing is known of parts, every difference counts. Parts of a recording that is short disagree by chance.
    """
    difference = np.subtract(higher, lower) if len(lower) == len(higher) else np.zeros(0)
    if len(difference) < 2:
        return True
    return bool(difference.mean() > 2 * difference.std(ddof=1) / len(difference) ** 0.5)
