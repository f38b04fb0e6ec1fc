"""Checkpoints that can be trusted: written beside and renamed, sealed by a checksum, the last two kept.

A sealed file is what torch.save writes, then the word and the SHA-256 of all before it. One rename makes both visible.
"""

from __future__ import annotations

import io
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from neurobridge.errors import atomic_path, helping

WORD = b"neurobridge sha256 "
KEPT = 2


def write_sealed(path: Path | str, state: dict[str, Any]) -> None:
    """Write ``state`` at ``path``, whole or not at all. Raises UserError where the disk is full."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sealed = Sealed(file)
        try:
            torch.save(state, sealed)
        except RuntimeError:
            if sealed.failed is not None:
                raise sealed.failed from None  # torch says only that it could not write
            raise
        file.write(WORD + sealed.digest.digest())


def read_sealed(path: Path | str, map_location: Any = None) -> dict[str, Any]:
    """What :func:`write_sealed` wrote. Raises ValueError for anything else."""
    content = Path(path).read_bytes()
    seal = len(WORD) + 32
    body, word, digest = content[:-seal], content[-seal:-32], content[-32:]
    if word != WORD:
        raise ValueError("it is cut off, or none of ours")
    if sha256(body).digest() != digest:
        raise ValueError("it was altered: its checksum does not fit")
    return torch.load(io.BytesIO(body), map_location=map_location or "cpu", weights_only=True)


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


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints folder/step=N.ckpt by step."""
    found = [path for path in folder.glob("step=*.ckpt") if path.stem.removeprefix("step=").isdecimal()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The number of steps that a checkpoint has behind it."""
    return int(path.stem.removeprefix("step="))


def forget_old(folder: Path) -> None:
    """Delete all checkpoints in ``folder`` but the last :data:`KEPT`."""
    if not helping():
        for old in checkpoints(folder)[:-KEPT]:
            old.unlink()


def newest(folder: Path, origin: str, *, steps: int) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be used, and what it holds; those that cannot are named and set aside.

    ``origin``: what the training is; a checkpoint with another 'origin', or beyond its ``steps``, is not taken up.
    """
    for path in reversed(checkpoints(folder)):
        try:
            found = read_sealed(path)
            if found.get("origin") == origin and step_of(path) <= steps:
                return path, found
            reason = "it belongs to another training"
        except ValueError as error:
            reason = str(error)
        if not helping():
            path.replace(path.with_suffix(".ckpt.unusable"))
            print(
                f"neurobridge: the checkpoint {path} cannot be used, {reason}: it was set aside and the one before it "
                "is taken (the start, if there is none)",
                file=sys.stderr,
            )
    return None
