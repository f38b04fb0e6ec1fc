"""The files of TVSD: where they are, and whose.

``monkey{F,N}/THINGS_normMUA.mat`` or ``THINGS_MUA_trials.mat`` (v7.3), ``_logs/things_imgs.mat`` (v7.3) and
``_logs/1024chns_mapping_20220105.mat`` (v5). In the wild they also lie in one folder, with prefixes (``monkeyF_``,
``f_``), or are git-annex links without content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neurobridge.errors import UserError

CHANNELS = 1024
AREAS = {"F": (("V1", 512), ("IT", 320), ("V4", 192)), "N": (("V1", 512), ("V4", 256), ("IT", 256))}
KINDS = {
    "norm": re.compile(r"THINGS_normMUA\.mat$", re.IGNORECASE),
    "trials": re.compile(r"THINGS_MUA_trials\.mat$", re.IGNORECASE),
    "images": re.compile(r"things_imgs\.mat$", re.IGNORECASE),
    "mapping": re.compile(r"1024chns_mapping\w*\.mat$", re.IGNORECASE),
}
NAMES = {
    "norm": "THINGS_normMUA.mat",
    "trials": "THINGS_MUA_trials.mat",
    "images": "_logs/things_imgs.mat",
    "mapping": "_logs/1024chns_mapping_20220105.mat",
}
SOURCE = "gin.g-node.org/paolo_papale/TVSD"


@dataclass(kw_only=True)
class Monkey:
    """The files of one animal, ``letter`` F or N; ``files`` kind -> path (norm, trials, images, mapping)."""

    letter: str
    files: dict[str, Path] = field(default_factory=dict)

    def need(self, kind: str) -> Path:
        """Path of a kind of file. Raises UserError if it was not found."""
        if kind not in self.files:
            raise UserError(
                f"monkey {self.letter} has no {NAMES[kind]} beside its other files: download it from {SOURCE}"
            )
        return self.files[kind]

    @property
    def regions(self) -> np.ndarray:
        """Area of each channel [C], in physical order."""
        return np.array([area for area, size in AREAS[self.letter] for _ in range(size)])


def locate(path: Path) -> list[Monkey]:
    """The animals under a folder (the release's, one animal's, or a flat one) or of one file; never raises."""
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and folder.name in ("_logs", "logs"):
        folder = folder.parent
    if not folder.is_dir():
        return []
    below = [f for f in sorted(folder.iterdir()) if f.is_dir() and _letter(f.name)] if path.is_dir() else []
    found: list[tuple[str | None, str, Path]] = []
    for place in (f / part for f in (folder, *below) for part in ("", "_logs", "logs")):
        for file in sorted(place.glob("*.mat")):
            kind = next((kind for kind, pattern in KINDS.items() if pattern.search(file.name)), None)
            if kind and (path.is_dir() or kind in ("images", "mapping") or file == path):
                found.append((monkey_of(file), kind, file))
    letters = sorted({letter for letter, _, _ in found if letter})
    monkeys = [Monkey(letter=letter) for letter in letters]
    for monkey in monkeys:
        for whose in (monkey.letter, None):  # a file that does not say whose it is serves all
            for _, kind, file in (entry for entry in found if entry[0] == whose):
                monkey.files.setdefault(kind, file)
    return monkeys


def monkey_of(file: Path) -> str | None:
    """F or N from a file's prefix (``monkeyF_``, ``f_``) or its folders; None if they do not say."""
    prefix = re.match(r"([FN])_", file.name, flags=re.IGNORECASE)
    if prefix:
        return prefix.group(1).upper()
    return next(filter(None, map(_letter, (file.name, *(p.name for p in list(file.absolute().parents)[:2])))), None)


def _letter(name: str) -> str | None:
    match = re.search(r"monkey[ _-]?([FN])(?![a-z])", name, flags=re.IGNORECASE)
    return match.group(1).upper() if match else None


def recognises(path: Path) -> bool:
    """Is this the release's folder, an animal's, or one of its files? Cheap, never raises."""
    try:
        if path.is_dir():
            return any({"norm", "trials"} & set(monkey.files) for monkey in locate(path))
        return any(pattern.search(path.name) for pattern in KINDS.values())
    except OSError:
        return False
