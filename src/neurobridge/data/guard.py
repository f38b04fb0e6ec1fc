"""Opening HDF5 files that may be damaged: an error where the HDF5 library would loop for ever or eat all memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from neurobridge.data.heap import text_can_be_read
from neurobridge.errors import Absent, Packed

MOST_COMPRESSION = 1100
SMALL = 65_536


@contextmanager
def open_hdf5(path: Path | str) -> Iterator[h5py.File]:
    """A file of ours to read whole. Raises OSError if it is not HDF5, or damaged so that reading would not end."""
    refuse_endless_heap(Path(path))
    with h5py.File(path, "r") as file:
        file.visititems(_refuse_oversized)
        yield file


def read_dataset(dataset: h5py.Dataset) -> np.ndarray:
    """The content of a data set of anybody's file. Raises OSError as :func:`refuse_made_up`, and :class:`Packed`."""
    refuse_made_up(dataset)
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
    for code, _, _, name in filters:
        if not h5py.h5z.filter_avail(code):
            told = name.decode("ascii", "replace").partition(";")[0] or "no name"
            raise Packed(f"compressed, at '{dataset.name}', by the HDF5 filter {code} ({told}), which is not installed")
    return np.zeros(0) if dataset.shape is None else np.asarray(dataset[()])


def refuse_made_up(dataset: h5py.Dataset) -> None:
    """Raise OSError for a data set of which the HDF5 library would make values up, silently.

    One that was created and never (or not all) written, and parts of a virtual or external one whose files are not
    there, read as zeros; one that claims more than its stored bytes can hold would take all memory.
    """
    if dataset.is_virtual:
        _refuse_missing_sources(dataset)
    elif dataset.external:
        _refuse_missing_bytes(dataset)
    elif dataset.size:
        if dataset.id.get_storage_size() == 0:
            raise Absent(f"'{dataset.name}' was created but never written")
        _refuse_oversized(dataset.name, dataset)
        if dataset.chunks is not None:
            chunks = math.prod(-(-size // of) for size, of in zip(dataset.shape, dataset.chunks, strict=True))
            written = dataset.id.get_num_chunks()
            if written < chunks:
                raise Absent(f"'{dataset.name}' has {chunks} chunks, of which {written} were ever written")


def dangling(group: h5py.Group, key: str) -> str:
    """Where the link leads that ``group`` has as ``key``, at whose end nothing is; '' where that is no link."""
    link = group.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        return f"'{link.path}' of {link.filename}"
    return f"'{link.path}'" if isinstance(link, h5py.SoftLink) else ""


def refuse_endless_heap(path: Path) -> None:
    """Raise OSError for text storage on which the HDF5 library (2.0 and before) loops for ever."""
    if not text_can_be_read(path):
        raise OSError("its text storage is damaged")


def _refuse_missing_sources(dataset: h5py.Dataset) -> None:
    """Raise OSError for a virtual data set of which a part is not there."""
    folder, mapped = Path(dataset.file.filename).parent, 0
    for part in dataset.virtual_sources():
        file = folder / part.file_name
        if part.file_name != "." and not file.is_file() and not Path(part.file_name).is_file():
            raise Absent(f"'{dataset.name}' is stitched from {part.file_name}, which is not there")
        if part.file_name == ".":
            there = part.dset_name in dataset.file
        else:
            with h5py.File(file if file.is_file() else part.file_name, "r") as source:
                there = part.dset_name in source
        if not there:
            raise Absent(f"'{dataset.name}' is stitched from '{part.dset_name}' of {part.file_name}, which has none")
        mapped += part.vspace.get_select_npoints()
    if mapped < dataset.size:
        raise Absent(f"'{dataset.name}' has {dataset.size} values, but {mapped} of them stitched from other files")


def _refuse_missing_bytes(dataset: h5py.Dataset) -> None:
    """Raise OSError for a data set in files beside whose bytes are not all there."""
    held = 0
    for name, offset, size in dataset.external:
        file = Path(name)  # as the HDF5 library looks for it
        if not file.is_file():
            raise Absent(f"'{dataset.name}' lies in {name}, which is not there")
        held += min(size, max(0, file.stat().st_size - offset))
    if held < dataset.nbytes:
        raise Absent(f"'{dataset.name}' claims {dataset.nbytes} bytes, but the files beside hold {held}")


def _refuse_oversized(name: str, item: object) -> None:
    """Raise OSError for a data set that claims more than what its stored bytes can hold (gzip: 1032 to 1)."""
    if isinstance(item, h5py.Dataset) and item.shape is not None:
        claimed = int(np.prod(item.shape, dtype=object)) * item.dtype.itemsize
        if claimed > MOST_COMPRESSION * item.id.get_storage_size() + SMALL:
            raise OSError(f"'{name}' claims {claimed} bytes but stores {item.id.get_storage_size()}")
