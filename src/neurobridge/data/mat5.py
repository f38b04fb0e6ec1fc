"""MATLAB files of version 5 (saved with -v6 or -v7), by the format's documentation ("MAT-File Format", MathWorks).

Read here, for scipy's reader ends the process with a segmentation fault on some damaged files. What values become is
told in :mod:`matfile`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neurobridge.data.matvalues import Unread, dense, listed, text_rows

MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
UNITS = {**NUMBERS, 16: "u1", 17: "u2", 18: "u4"}  # of text: UTF-8, UTF-16, UTF-32
CELL, STRUCT, OBJECT, CHAR, SPARSE, HANDLE, OPAQUE = 1, 2, 3, 4, 5, 16, 17
NUMERIC_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX, LOGICAL = 0x08, 0x02
MOST_BYTES = 2**31
HEAD_BYTES = 128
MOST_DEPTH = 32
SIGNATURES = (b"\x00\x01IM", b"\x01\x00MI")


def is_mat5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)[124:] in SIGNATURES


def read_variables(path: Path) -> dict[str, Any]:
    """Name -> value of all variables of a v5 file. Raises ValueError or struct.error for a damaged one."""
    content = path.read_bytes()
    if content[124:128] not in SIGNATURES:
        raise ValueError("no header of a MATLAB v5 file")
    order = "<" if content[126:128] == b"IM" else ">"
    variables = {}
    for kind, data in _elements(content[HEAD_BYTES:], order):
        if kind == COMPRESSED:
            kind, data = next(_elements(zlib.decompressobj().decompress(data, MOST_BYTES), order), (0, b""))
        if kind == MATRIX:
            name, value = _matrix(data, order, 0)
            if name:  # without one: what MATLAB keeps for itself, the subsystem of its objects
                variables[name] = value
    return variables


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


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of a matrix; one of no bytes is an empty array."""
    if not data:
        return "", np.zeros((0, 0))
    if depth > MOST_DEPTH:
        raise ValueError("its cells are nested too deeply")
    parts = list(_elements(data, order))
    flags, kind = parts[0][1][1 if order == "<" else 2], parts[0][1][0 if order == "<" else 3]
    if kind == OPAQUE:  # name, then the kinds of object: it has no dimensions
        words = [part.decode("ascii", "replace") for _, part in parts[1:4]]
        return words[0], Unread(f"a MATLAB object of the class {words[-1]}")
    shape = np.frombuffer(parts[1][1], dtype=f"{order}i4").tolist()
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"an array has the shape {shape}")
    name = parts[2][1].decode("ascii", "replace")
    return name, _value(kind, flags, shape, parts[3:], order, depth)


def _value(kind: int, flags: int, shape: list[int], parts: list[tuple[int, bytes]], order: str, depth: int) -> Any:
    if flags & COMPLEX:
        return Unread("complex numbers")
    if kind in NUMERIC_CLASSES:
        numbers = _numbers(parts[0], order) if parts else np.zeros(0)
        array = _shaped(numbers.astype(NUMERIC_CLASSES[kind], copy=False), shape)
        return array != 0 if flags & LOGICAL else array
    if kind == CHAR:
        element, letters = parts[0] if parts else (4, b"")
        return text_rows(np.frombuffer(letters, dtype=order + UNITS[element]), shape)
    if kind == CELL:
        values = [_matrix(part, order, depth + 1)[1] for _, part in parts]
        return listed(values, shape)
    if kind in (STRUCT, OBJECT):
        return _struct(parts[kind - STRUCT :], shape, order, depth)
    if kind == SPARSE:
        rows, ends, values = (_numbers(part, order) for part in parts[:3])
        found = dense(rows, ends, values, shape)
        return found != 0 if flags & LOGICAL else found
    return Unread("a function" if kind == HANDLE else f"of the unknown class {kind}")


def _struct(parts: list[tuple[int, bytes]], shape: list[int], order: str, depth: int) -> dict[str, Any]:
    """Field -> value, or (of a struct array) field -> object array of the values."""
    width = int(_numbers(parts[0], order)[0])
    text = parts[1][1]
    names = [text[at : at + width].split(b"\0")[0].decode("ascii", "replace") for at in range(0, len(text), width)]
    values = [_matrix(part, order, depth + 1)[1] for _, part in parts[2:]]
    if len(values) != len(names) * int(np.prod(shape)):
        raise ValueError(f"a struct of {shape} with {len(names)} fields holds {len(values)} values")
    if shape == [1, 1]:
        return dict(zip(names, values, strict=True))
    return {name: listed(values[at :: len(names)], shape) for at, name in enumerate(names)}


def _numbers(part: tuple[int, bytes], order: str) -> np.ndarray:
    return np.frombuffer(part[1], dtype=order + NUMBERS[part[0]])


def _shaped(numbers: np.ndarray, shape: list[int]) -> np.ndarray:
    if np.prod(shape, dtype=float) != len(numbers):
        raise ValueError(f"an array of {shape} holds {len(numbers)} numbers")
    return numbers.reshape(shape, order="F")
