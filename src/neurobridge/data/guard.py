"""Opening HDF5 files that may be damaged: an error where the HDF5 library would loop for ever or eat all memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from neurobridge.data.heap import text_can_be_read

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
    """Raise OSError for text storage on which the HDF5 library (2.0 and before) loops for ever."""
    if not text_can_be_read(path):
        raise OSError("its text storage is damaged")


def _refuse_oversized(name: str, item: object) -> None:
    """Raise OSError for a data set that claims more than what its stored bytes can hold (gzip: 1032 to 1)."""
    if isinstance(item, h5py.Dataset) and item.shape is not None:
        claimed = int(np.prod(item.shape, dtype=object)) * item.dtype.itemsize
        if claimed > MOST_COMPRESSION * item.id.get_storage_size() + SMALL:
            raise OSError(f"'{name}' claims {claimed} bytes but stores {item.id.get_storage_size()}")
