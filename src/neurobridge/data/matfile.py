"""MATLAB files: v7.3 is HDF5 with a 512-byte header, axes in reverse order and strings behind object references.

Of v5 files the numeric arrays are read here, by the format's documentation ("MAT-File Format", MathWorks): scipy's
reader ends the process with a segmentation fault on some damaged files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from neurobridge.data.findings import reading
from neurobridge.errors import UserError

MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(6, 16)
MOST_BYTES = 2**28
HEAD_BYTES = 128


@contextmanager
def open_mat(path: Path) -> Iterator[h5py.File]:
    """A v7.3 file to read. Raises UserError for a pointer, a v5 file, a damaged or foreign one, also while reading."""
    with reading(path):
        with path.open("rb") as head:
            old = head.read(19) == b"MATLAB 5.0 MAT-file"
        if old:
            raise UserError(f"{path} is a MATLAB v5 file: expected v7.3; save it with -v7.3, or download it again")
        with h5py.File(path, "r") as file:
            yield file


def read_strings(dataset: h5py.Dataset) -> list[str]:
    """The strings of a cell array (or of one field of a struct array): object references to UTF-16 code units."""
    file = dataset.file
    return [_string(file[reference]) for reference in dataset[()].ravel()]


def _string(dataset: h5py.Dataset) -> str:
    if dataset.attrs.get("MATLAB_empty"):
        return ""
    return np.asarray(dataset[()], dtype="<u2").tobytes().decode("utf-16-le")


def read_mat5(path: Path) -> dict[str, np.ndarray]:
    """The real numeric arrays of a v5 file, by name, in MATLAB's order of axes; all else is passed over.

    Raises UserError for a pointer, a damaged file or a foreign one.
    """
    with reading(path):
        content = path.read_bytes()
        if content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
            raise ValueError("no header of a MATLAB v5 file")
        order = "<" if content[126:128] == b"IM" else ">"
        arrays = {}
        for kind, data in _elements(content[HEAD_BYTES:], order):
            if kind == COMPRESSED:
                kind, data = next(_elements(zlib.decompressobj().decompress(data, MOST_BYTES), order), (0, b""))
            if kind == MATRIX:
                arrays |= _array(list(_elements(data, order)), order)
        return arrays


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, bytes) of each data element; a short one has its four bytes inside its tag."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        short = kind >> 16
        begin, end = (at + 4, at + 4 + short) if short else (at + 8, at + 8 + size)
        if end > len(data) or short > 4:
            raise ValueError("it ends inside an array")
        yield kind & 0xFFFF, data[begin:end]
        at = at + 8 if short else end + (-size % 8 if kind != COMPRESSED else 0)


def _array(parts: list[tuple[int, bytes]], order: str) -> dict[str, np.ndarray]:
    """Name -> array of the parts of a matrix: flags, dimensions, name, real part; nothing if it is not numeric."""
    if len(parts) < 4 or parts[0][1][0 if order == "<" else 3] not in NUMERIC_CLASSES:
        return {}
    shape = np.frombuffer(parts[1][1], dtype=f"{order}i4").tolist()
    kind, values = parts[3]
    numbers = np.frombuffer(values, dtype=order + NUMBERS[kind])
    if min(shape) < 0 or np.prod(shape, dtype=float) != len(numbers):
        raise ValueError(f"an array of {shape} holds {len(numbers)} numbers")
    return {parts[2][1].decode("ascii", "replace"): numbers.reshape(shape, order="F")}
