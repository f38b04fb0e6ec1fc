"""A set of images in one HDF5 file, keyed by content. Splits are made on these keys, never on file names.

A small set is held; of a large one pictures are read from the file when they are asked for (:class:`StoredPixels`).
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from neurobridge.data.guard import open_hdf5
from neurobridge.data.hdf5 import atomic_hdf5, text
from neurobridge.errors import UserError, reading

CONTENT_ID = re.compile("[0-9a-f]{16}")
HELD_BYTES = 128 * 2**20  # of pixels: a set up to this size is held
PICTURES_A_CHUNK, ROWS_AT_ONCE = 8, 256


def content_id(pixels: np.ndarray) -> str:
    """16 hex digits of the SHA-1 of an RGB image [H, W, 3] uint8 (its shape and its bytes)."""
    assert pixels.dtype == np.uint8, "content_id takes uint8"
    assert pixels.ndim == 3, "content_id takes [H, W, 3]"
    digest = hashlib.sha1(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:16]


def is_content_id(key: str) -> bool:
    """False for a name that a lab gave to a picture which is not at hand."""
    return CONTENT_ID.fullmatch(key) is not None


def picture_keys(ids: np.ndarray, dataset: str) -> list[str]:
    """[P]: what tells pictures apart over sessions: content ids as they are, names within their data set, '' for ''."""
    return [key if not key or is_content_id(key) else f"{dataset}/{key}" for key in ids.tolist()]


def read_ids(path: Path) -> set[str]:
    """The ids of an image set, without its pixels; none where there is no file. Raises UserError if it is broken."""
    if not path.is_file():
        return set()
    with reading(path, "image set", "import the images again"), h5py.File(path, "r") as file:
        return set(file["ids"][:].astype(str).tolist())


@dataclass(kw_only=True)
class ImageSet:
    """``ids`` [I] content hashes, unique; ``pixels`` [I, H, W, 3] uint8; ``labels`` name -> [I, ...] (optional).

    Of a large set ``pixels`` are :class:`StoredPixels`: take rows of them, or loop over them.
    """

    ids: np.ndarray
    pixels: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Row of each id. Raises UserError for an id that is not in the set."""
        index = {key: row for row, key in enumerate(self.ids.tolist())}
        missing = [key for key in ids.tolist() if key not in index]
        if missing:
            raise UserError(
                f"{len(missing)} stimuli name images that are not in the image set (first: '{missing[0]}'): "
                "import the images together with the sessions"
            )
        return np.array([index[key] for key in ids.tolist()], dtype=np.int64)

    @staticmethod
    def from_pixels(pixels: np.ndarray, labels: dict[str, np.ndarray] | None = None) -> ImageSet:
        """Hash ``pixels`` [I, H, W, 3] and drop repeated images (the first of each is kept)."""
        ids = np.array([content_id(image) for image in pixels])
        _, first = np.unique(ids, return_index=True)
        first = np.sort(first)
        return ImageSet(ids=ids[first], pixels=pixels[first], labels={k: v[first] for k, v in (labels or {}).items()})

    def write(self, path: Path | str) -> None:
        """Write to HDF5, atomically."""
        with atomic_hdf5(path) as file:
            file.create_dataset("ids", data=self.ids.astype("S16"))
            file.create_dataset("pixels", data=self.pixels, chunks=(1, *self.pixels.shape[1:]), compression="gzip")
            for name, column in self.labels.items():
                file.create_dataset(
                    f"labels/{name}", data=np.char.encode(column, "utf-8") if column.dtype.kind == "U" else column
                )

    @staticmethod
    def read(path: Path | str) -> ImageSet:
        """Read a file written by :meth:`write`. Raises UserError if it is missing or broken.

        The last one that was read is kept, and read again once its file has changed: do not write into its arrays.
        """
        path = Path(path).resolve()
        if not path.is_file():
            raise UserError(
                f"no image set at {path}: import the images, or point --data at a folder that holds images.h5"
            )
        stamp = path.stat()
        return _read(path, stamp.st_ino, stamp.st_size, stamp.st_mtime_ns)

    def _check(self, path: Path) -> None:
        if self.ids.ndim != 1 or self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[3] != 3:
            raise UserError(
                f"{path}: ids have shape {self.ids.shape}, pixels shape {self.pixels.shape} and type "
                f"{self.pixels.dtype}, expected [I] and uint8 [I, H, W, 3]; import the images again"
            )
        short = [name for name, column in self.labels.items() if column.shape[:1] != (len(self),)]
        if len(self.pixels) != len(self) or len(set(self.ids.tolist())) != len(self) or short:
            raise UserError(
                f"{path}: {len(self)} ids ({len(set(self.ids.tolist()))} different) for {len(self.pixels)} pictures"
                f"{f', and label {short[0]!r} of another length' if short else ''}; import the images again"
            )


@functools.lru_cache(maxsize=1)
def _read(path: Path, *stamp: int) -> ImageSet:
    """The image set at ``path``; ``stamp``: what changes when the file does."""
    with reading(path, "image set", "import the images again"), open_hdf5(path) as file:
        labels = {name: text(column[:]) for name, column in file.get("labels", {}).items()}
        stored = file["pixels"]
        by_row = stored.nbytes > HELD_BYTES and (stored.chunks is None or stored.chunks[0] <= PICTURES_A_CHUNK)
        pixels = StoredPixels(path, stamp[1:], stored.shape, stored.dtype) if by_row else stored[:]
        images = ImageSet(ids=file["ids"][:].astype(str), pixels=pixels, labels=labels)  # pyright: ignore
    images._check(path)
    return images


class StoredPixels:
    """Pictures [I, H, W, 3] of an image set that stay in its file; what is taken of them is an array.

    Raises UserError for a file that has gone or changed since it was opened, and for pictures that cannot be read.
    """

    def __init__(self, path: Path, stamp: tuple[int, ...], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.stamp, self.shape, self.dtype, self.ndim = path, stamp, shape, dtype, len(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | list[int] | np.ndarray) -> np.ndarray:
        """One picture [H, W, 3], or those of a slice, of rows or of a mask."""
        wanted = np.arange(len(self))[rows]
        pictures = np.empty((wanted.size, *self.shape[1:]), dtype=self.dtype)
        with reading(self.path, "image set", "import the images again"), h5py.File(self.path, "r") as file:
            now = os.stat(self.path)
            if (now.st_size, now.st_mtime_ns) != self.stamp:
                raise UserError(f"{self.path} has changed since it was opened: start again")
            for at, row in enumerate(wanted.ravel().tolist()):
                file["pixels"].read_direct(pictures, np.s_[row], np.s_[at])
        return pictures[0] if wanted.ndim == 0 else pictures

    def __iter__(self) -> Iterator[np.ndarray]:
        for at in range(0, len(self), ROWS_AT_ONCE):
            yield from self[at : at + ROWS_AT_ONCE]
