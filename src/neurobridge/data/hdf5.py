"""Writing HDF5 so that a full disk is an error and not a crash."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from neurobridge.errors import atomic_path


@contextmanager
def atomic_hdf5(path: Path | str) -> Iterator[h5py.File]:
    """An HDF5 file to fill, which appears at ``path`` whole or not at all.

    It is built in memory first: the HDF5 library ends the process (a segmentation fault while it closes its objects)
    when the disk fills up under it. Raises UserError when the disk is full.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        yield file
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
