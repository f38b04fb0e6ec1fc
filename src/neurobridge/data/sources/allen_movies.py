"""Frames of the natural movies of Allen Visual Coding as images: from which files, which table, which split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurobridge.data.frames import read_frames
from neurobridge.data.importing import add_images
from neurobridge.data.sources.allen_file import MOVIES
from neurobridge.errors import UserError

STACKS = (".npy", ".tif", ".tiff")
NEAR = 15  # frames at 30 Hz: half a second

Films = dict[str, dict[int, str]]  # movie -> frame -> image


def movie_files(folder: Path) -> dict[str, Path]:
    """Movie -> its stack of frames, or folder of them. Raises UserError for a folder without any."""
    found = {path.stem: path for path in sorted(folder.glob(f"{MOVIES}*")) if path.is_dir() or path.suffix in STACKS}
    if not found:
        raise UserError(
            f"no movie at {folder}: give a folder with natural_movie_one.npy, .tiff, or a folder natural_movie_one"
        )
    return found


def add_movies(out: Path, files: dict[str, Path]) -> Films:
    """Add every frame to the images of ``out``. Raises UserError where they cannot be read, or differ in size."""
    films = {}
    for name, path in files.items():
        read = dict(read_frames(path))
        films[name] = dict(zip(read, add_images(out, read.values()), strict=True))
    return films


def film_of(table: str) -> str:
    """The movie that a table plays: ``natural_movie_one_more_repeats`` and ``_shuffled`` play natural_movie_one."""
    return table.removesuffix("_more_repeats").removesuffix("_shuffled")


def film_splits(film: dict[int, str]) -> dict[str, str]:
    """Image -> split: the fifth of ten parts of a movie is valid, the last test; near these: none."""
    numbers = np.array(sorted(film), dtype=int)
    part = np.arange(len(numbers)) * 10 // max(1, len(numbers))
    split = np.select([part == 4, part == 9], ["valid", "test"], "train")
    held = np.flatnonzero(split != "train")
    found: dict[str, str] = {}
    for place, (number, name) in enumerate(zip(numbers.tolist(), split.tolist(), strict=True)):
        if name == "train" and (np.abs(held - place) <= NEAR).any():
            name = "none"
        found[film[number]] = name if found.get(film[number], name) == name else "none"
    return found
