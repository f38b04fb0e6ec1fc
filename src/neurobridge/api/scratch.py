"""Where recordings and models lie that nobody named: one folder a process, gone with it."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import tempfile
from pathlib import Path

_numbers = itertools.count()


@functools.cache
def _root() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="neurobridge-")


def new_folder(name: str) -> Path:
    """An empty place of its own for a ``name`` ('model', 'recording'); not made yet."""
    return Path(_root().name) / f"{name}-{next(_numbers)}"


def is_scratch(path: Path) -> bool:
    """Whether ``path`` will be gone when this process ends."""
    return path.resolve().is_relative_to(Path(_root().name).resolve())


def place(source: Path, target: Path) -> None:
    """The file ``source`` at ``target`` too: one file with two names where the disk allows, a copy where it does not.

    Files of a data folder are replaced whole and never changed in place, so that each name keeps what it has.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
