"""Writing HDF5 so that a full disk is an error and not a crash; reading many small arrays of it quickly."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

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


def storable(column: np.ndarray) -> np.ndarray:
    """``column`` as torch_brain can write it: text beyond ASCII as UTF-8 bytes, everything else as it is."""
    if column.dtype.kind != "U" or all(text.isascii() for text in column.ravel().tolist()):
        return column
    return np.char.encode(column, "utf-8")


def text(column: np.ndarray) -> np.ndarray:
    """Bytes or objects that were read, as text; everything else as it is."""
    if column.dtype.kind not in "SO":
        return column
    cells = [x.decode() if isinstance(x, bytes) else str(x) for x in column.ravel().tolist()]
    return np.array(cells, dtype=str).reshape(column.shape)


def has(file: h5py.File, path: str) -> bool:
    """True if every part of ``path`` is there."""
    try:
        return file.id.links.exists(path.encode())
    except (KeyError, ValueError, RuntimeError):  # a group on the way is missing
        return False


def read_array(file: h5py.File, path: str) -> np.ndarray:
    """``file[path][:]`` without the objects in between, which take ten times as long as a small array itself.

    Raises KeyError where there is no data set.
    """
    try:
        dataset = h5py.h5d.open(file.id, path.encode())
    except ValueError as error:
        raise KeyError(f"no data set '{path}'") from error
    array = np.empty(dataset.shape, dataset.dtype)
    if array.size:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array


def read_text(file: h5py.File, group: str, name: str, default: str) -> str:
    """A string attribute of a group, ``default`` where the group or the attribute is missing."""
    if not has(file, group) or not h5py.h5a.exists(file.id, name.encode(), obj_name=group.encode()):
        return default
    attribute = h5py.h5a.open(file.id, name.encode(), obj_name=group.encode())
    value = np.empty(attribute.shape, attribute.dtype)
    attribute.read(value)
    plain = value.tolist()
    return plain.decode() if isinstance(plain, bytes) else str(plain)


def strings(array: np.ndarray) -> np.ndarray:
    """Bytes or objects as str."""
    if array.dtype.kind == "S":
        try:
            return array.astype(str)  # ASCII, the usual case and the quick one
        except UnicodeDecodeError:
            return np.char.decode(array, "utf-8")
    return np.array([x.decode() if isinstance(x, bytes) else str(x) for x in array.tolist()], dtype=str)
