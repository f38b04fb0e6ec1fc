"""THINGS pictures (things-initiative.org): concept/concept_01b.jpg to squares, and splits by content and by concept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from neurobridge.data import pictures
from neurobridge.errors import UserError


def find_pictures(root: Path, paths: Iterable) -> dict[PurePosixPath, Path]:
    """THINGS path -> file, of all images. Raises UserError if some are missing."""
    wanted = dict.fromkeys(p for both in paths for part in both for p in part)
    base = next(
        (b for b in (root, root / "object_images", root / "images") if (b / next(iter(wanted))).is_file()), root
    )
    missing = [p for p in wanted if not (base / p).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(wanted)} pictures are not under {root} (first: {missing[0]}): get THINGS from "
            "things-initiative.org, or leave --image_root out"
        )
    return {p: base / p for p in wanted}


def read_picture(file: Path, side: int) -> np.ndarray:
    """The centre square of a picture at ``side`` pixels: uint8 [side, side, 3]. Raises UserError if it is none."""
    return centre_square(pictures.read_picture(file), side)


def centre_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """The centre square of ``pixels`` [H, W, 3] uint8, at ``side`` pixels."""
    rgb = Image.fromarray(pixels)
    width, height = rgb.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = rgb.crop((left, top, left + edge, top + edge))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


class ThingsSplits:
    """Which split a train image belongs to, the same for both monkeys.

    Decided by content where the pictures are at hand, else by THINGS path: a share becomes valid, a train image whose
    picture is also a test image becomes none. By concept: all images of a test concept become none, whole concepts
    become valid.
    """

    def __init__(self, paths: Iterable, ids: dict, *, by_concept: bool, valid_share: float, seed: int) -> None:
        if not 0 <= valid_share < 1:
            raise UserError(f"--valid_share is {valid_share}: give a share from 0 to below 1")
        test = [p for _, tests in paths for p in tests]
        self.ids, self.by_concept, self.valid_share, self.seed = ids, by_concept, valid_share, seed
        self.held = {self.key(p) for p in test}
        self.concepts = {concept_of(p) for p in test} if by_concept else set()

    def key(self, path: PurePosixPath) -> str:
        return self.ids.get(path, str(path))

    def __call__(self, path: PurePosixPath) -> str:
        concept = concept_of(path)
        if self.key(path) in self.held or concept in self.concepts:
            return "none"
        unit = concept if self.by_concept else self.key(path)
        draw = int.from_bytes(hashlib.sha1(f"{self.seed}:{unit}".encode()).digest()[:8], "big") / 2**64
        return "valid" if draw < self.valid_share else "train"

    @property
    def sentence(self) -> str:
        what = "concept" if self.by_concept else "picture" if self.ids else "THINGS path"
        held = "test concepts" if self.by_concept else "test pictures"
        return f"the release's test images; {held} in train are none; valid by sha1 of seed {self.seed} and {what}"


def concept_of(path: PurePosixPath) -> str:
    """Concept of a THINGS path: its folder."""
    return path.parent.name
