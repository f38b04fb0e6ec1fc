"""A set of images in one HDF5 file, keyed by content. Splits are made on these keys, never on file names."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from neurobridge.data.guard import open_hdf5
from neurobridge.data.hdf5 import atomic_hdf5, text
from neurobridge.errors import UserError, reading

CONTENT_ID = re.compile("[0-9a-f]{16}")


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
    """``ids`` [I] content hashes, unique; ``pixels`` [I, H, W, 3] uint8; ``labels`` name -> [I, ...] (optional)."""

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
        images = ImageSet(ids=file["ids"][:].astype(str), pixels=file["pixels"][:], labels=labels)
    images._check(path)
    return images
