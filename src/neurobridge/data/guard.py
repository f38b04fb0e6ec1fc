"""Opening HDF5 files that may be damaged: an error where the HDF5 library would loop for ever or eat all memory."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

HEAP, HEAP_HEADER, OBJECT_HEADER = b"GCOL", 16, 16
MOST_COMPRESSION = 1100
SMALL = 65_536


@contextmanager
def open_hdf5(path: Path | str) -> Iterator[h5py.File]:
    """An HDF5 file to read whole. Raises OSError if it is not HDF5, or damaged so that reading would not end."""
    refuse_endless_heap(Path(path))
    with h5py.File(path, "r") as file:
        file.visititems(_refuse_oversized)
        yield file


def refuse_endless_heap(path: Path) -> None:
    """Raise OSError for a string heap on which the HDF5 library (2.0 and before) loops for ever.

    A global heap collection is a run of objects (HDF5 file format specification 3.0, section III.E), of which number 0
    is the free space that closes it. A hole of zeros, as broken downloads leave, is a free space of length 0.
    """
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(HEAP)
        while at >= 0:
            version, length = data[at + 4 : at + 5], data[at + 8 : at + HEAP_HEADER]
            if version == b"\1" and len(length) == 8:
                _walk_heap(data, at + HEAP_HEADER, at + struct.unpack("<Q", length)[0])
            at = data.find(HEAP, at + 4)


def _walk_heap(data: mmap.mmap, at: int, end: int) -> None:
    while at + OBJECT_HEADER <= min(end, len(data)):
        index, _, _, size = struct.unpack("<HHIQ", data[at : at + OBJECT_HEADER])
        if index == 0 and size == 0:
            raise OSError(f"its text storage is damaged at byte {at}")
        at += size if index == 0 else OBJECT_HEADER + (size + 7) // 8 * 8


def _refuse_oversized(name: str, item: object) -> None:
    """Raise OSError for a data set that claims more than what its stored bytes can hold (gzip: 1032 to 1)."""
    if isinstance(item, h5py.Dataset) and item.shape is not None:
        claimed = int(np.prod(item.shape, dtype=object)) * item.dtype.itemsize
        if claimed > MOST_COMPRESSION * item.id.get_storage_size() + SMALL:
            raise OSError(f"'{name}' claims {claimed} bytes but stores {item.id.get_storage_size()}")
