"""What a MATLAB value becomes, the same from files of version 5 and of version 7.3.

A number or an array of numbers is an array in MATLAB's order of axes (logical ones are bools, sparse ones are full);
text is a string, a char matrix the list of its rows; a cell array an object array; a struct a dictionary, a struct
array a dictionary of object arrays. What has no such form is :class:`Unread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_CELLS = 2**26


@dataclass(frozen=True)
class Unread:
    """A value that is not read; ``what`` it is completes "it is"."""

    what: str


def listed(values: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
    """Values in MATLAB's order (first axis fastest) as an object array."""
    if np.prod(shape, dtype=float) != len(values):
        raise ValueError(f"a cell array of {list(shape)} holds {len(values)} values")
    flat = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):  # one by one: numpy would take equal arrays apart
        flat[at] = value
    return flat.reshape(shape, order="F")


def text_rows(units: np.ndarray, shape: Sequence[int]) -> str | np.ndarray:
    """The text of a char array from its code units in MATLAB's order: a string, or the rows of a matrix [R, 1].

    Rows of a matrix are padded with blanks by MATLAB, which are taken off.
    """
    text = decoded(units)
    if 0 in shape or not text:
        return ""
    if shape[0] == 1:
        return text
    letters = list(text)
    if len(letters) != np.prod(shape, dtype=float):
        raise ValueError(f"text of {list(shape)} holds {len(letters)} letters")
    rows = np.array(letters, dtype=object).reshape(shape, order="F").reshape(shape[0], -1)
    return listed(["".join(row).rstrip(" \0") for row in rows.tolist()], (len(rows), 1))


def decoded(units: np.ndarray) -> str:
    """Code units as text: of one byte UTF-8 (else Latin-1), of two UTF-16, of four UTF-32."""
    content = np.ascontiguousarray(units, dtype=f"<u{units.dtype.itemsize}").tobytes()
    if units.dtype.itemsize == 1:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            return content.decode("latin-1")
    return content.decode({2: "utf-16-le", 4: "utf-32-le"}[units.dtype.itemsize])


def dense(rows: np.ndarray, ends: np.ndarray, values: np.ndarray, shape: Sequence[int]) -> np.ndarray | Unread:
    """A sparse matrix (its row of each value, its first value of each column) as a full one."""
    if np.prod(shape, dtype=float) > MOST_CELLS:
        return Unread(f"a sparse matrix of {shape[0]} x {shape[1]}, too many numbers to write out")
    rows, ends = rows.astype(np.int64), ends.astype(np.int64)
    held = int(ends[-1]) if len(ends) else 0
    counts = np.diff(ends)
    if len(ends) != shape[1] + 1 or ends[0] != 0 or (counts < 0).any() or not 0 <= held <= min(len(rows), len(values)):
        raise ValueError(f"a sparse matrix of {list(shape)} whose columns do not add up")
    if held and not 0 <= rows[:held].min() <= rows[:held].max() < shape[0]:
        raise ValueError(f"a sparse matrix of {list(shape)} with a value in row {rows[:held].max()}")
    full = np.zeros(shape, dtype=values.dtype)
    full[rows[:held], np.repeat(np.arange(shape[1]), counts)] = values[:held]
    return full
