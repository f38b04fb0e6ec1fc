"""How a Trainer writes and reads the sealed checkpoints of a run (:mod:`neurobridge.sealed`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from neurobridge.errors import UserError
from neurobridge.sealed import forget_old, newest, read_sealed, write_sealed
from neurobridge.training.task import Task


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

    ``origin``: what the training is; a checkpoint of another origin is not taken up, nor one beyond its ``steps``. One
    of a shorter training is: it goes on.
    """

    def __init__(self, folder: Path, *, origin: str, steps: int) -> None:
        self.folder, self.origin, self.steps = folder, origin, steps

    def on_fit_start(self, trainer: lightning.Trainer, task: Task) -> None:
        mine = [self.origin, task.names()]
        if not trainer.strategy.reduce_boolean_decision(trainer.strategy.broadcast(mine) == mine):
            raise UserError(
                "the processes of this training see different units or options: let all nodes read the same data "
                "folder and the same --config"
            )

    def on_save_checkpoint(self, trainer: object, task: object, checkpoint: dict[str, Any]) -> None:
        checkpoint["origin"] = self.origin

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")
        forget_old(self.folder)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be used, and what it holds; those that cannot are named and set aside."""
        return newest(self.folder, self.origin, steps=self.steps)
