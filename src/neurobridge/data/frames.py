"""Pictures by frame number: a folder of numbered files, a .npy stack, or a TIFF with a page a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neurobridge.data.pictures import read_pages, read_picture
from neurobridge.errors import UserError, reading

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm")


def frame_files(path: Path) -> dict[int, Path]:
    """Frame -> file of a folder whose pictures end in their number (``0.png``, ``natural_scene_017.tiff``).

    Raises UserError for a folder without pictures, a picture without a number, and a number that is there twice.
    """
    if not path.is_dir():
        raise UserError(f"no pictures at {path}: give a folder of numbered pictures, a .npy stack or a .tiff stack")
    files: dict[int, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
            continue
        number = re.search(r"\d+$", file.stem)
        if number is None:
            raise UserError(f"{file} does not end in a frame number: name the pictures 0.png, 1.png, ...")
        if int(number[0]) in files:
            raise UserError(f"{files[int(number[0])]} and {file} are both frame {int(number[0])}: remove one of them")
        files[int(number[0])] = file
    if not files:
        raise UserError(f"{path} holds no pictures ({', '.join(SUFFIXES)}): name them 0.png, 1.png, ...")
    return dict(sorted(files.items()))


def read_frames(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """(frame, picture [H, W, 3] uint8) of each frame in order; grey becomes RGB. Raises UserError, as above."""
    if path.is_file() and path.suffix.lower() == ".npy":
        yield from enumerate(_stack(path))
    elif path.is_file() and path.suffix.lower() in (".tif", ".tiff"):
        yield from enumerate(read_pages(path))
    else:
        for frame, file in frame_files(path).items():
            yield frame, read_picture(file)


def _stack(path: Path) -> Iterator[np.ndarray]:
    with reading(path, ".npy array", "it may be truncated, or hold objects; save it again"):
        stack = np.load(path, allow_pickle=False, mmap_mode="r")
    grey, coloured = stack.ndim == 3, stack.ndim == 4 and stack.shape[3] == 3
    if stack.dtype != np.uint8 or not (grey or coloured):
        raise UserError(
            f"{path} holds {stack.dtype} of shape {stack.shape}, expected uint8 [frames, H, W] or [frames, H, W, 3]"
        )
    for picture in stack:
        yield np.repeat(picture[..., None], 3, axis=-1) if grey else np.asarray(picture)
