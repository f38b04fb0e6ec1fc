"""Checkpoints that can be trusted: written beside and renamed, sealed by a checksum, the last two kept.

A sealed file is what torch.save writes, then the word and the SHA-256 of all before it. One rename makes both visible.
"""

from __future__ import annotations

import io
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from neurobridge.errors import atomic_path, helping

WORD = b"neurobridge sha256 "
KEPT = 2


class SealedIO(CheckpointIO):
    """How a Trainer writes and reads checkpoints."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` at ``path``, whole or not at all. Raises UserError where the disk is full."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            sealed = Sealed(file)
            try:
                torch.save(checkpoint, sealed)
            except RuntimeError:
                if sealed.failed is not None:
                    raise sealed.failed from None  # torch says only that it could not write
                raise
            file.write(WORD + sealed.digest.digest())

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict:
        """What :meth:`save_checkpoint` wrote. Raises ValueError for anything else."""
        content = Path(path).read_bytes()
        seal = len(WORD) + 32
        body, word, digest = content[:-seal], content[-seal:-32], content[-32:]
        if word != WORD:
            raise ValueError("it is cut off, or none of ours")
        if sha256(body).digest() != digest:
            raise ValueError("it was altered: its checksum does not fit")
        return torch.load(io.BytesIO(body), map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class Sealed:
    """A file to write to that hashes what goes through it, and remembers why it could not write."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, sha256()
        self.failed: OSError | None = None

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        try:
            return self.file.write(content)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self.file.flush()


class Checkpoints(Checkpoint):
    """Saves at the end of every stretch, as folder/step=N.ckpt; keeps the last :data:`KEPT`.

    ``origin``: what the training is; a checkpoint of another origin is not taken up, nor one beyond its ``steps``. One
    of a shorter training is: it goes on.
    """

    def __init__(self, folder: Path, *, origin: str, steps: int) -> None:
        self.folder, self.origin, self.steps = folder, origin, steps

    def on_save_checkpoint(self, trainer: object, task: object, checkpoint: dict[str, Any]) -> None:
        checkpoint["origin"] = self.origin

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")
        if not helping():
            for old in checkpoints(self.folder)[:-KEPT]:
                old.unlink()

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be used, and what it holds; those that cannot are named and set aside."""
        for path in reversed(checkpoints(self.folder)):
            try:
                found = SealedIO().load_checkpoint(path)
                if found.get("origin") == self.origin and found["global_step"] <= self.steps:
                    return path, found
                reason = "it belongs to another training"
            except ValueError as error:
                reason = str(error)
            if not helping():
                path.replace(path.with_suffix(".ckpt.unusable"))
                print(
                    f"neurobridge: the checkpoint {path} cannot be used, {reason}: it was set aside and the one before "
                    "it is taken (the start, if there is none)",
                    file=sys.stderr,
                )
        return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder`` by step."""
    found = [path for path in folder.glob("step=*.ckpt") if path.stem.removeprefix("step=").isdecimal()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The number of steps that a checkpoint has behind it."""
    return int(path.stem.removeprefix("step="))
