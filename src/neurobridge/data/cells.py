"""What a cell of a table says: one text or one number, and nothing that only looks like it."""

from __future__ import annotations

import re

import numpy as np

NUMBER = re.compile(r"\s*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)\s*", re.ASCII | re.IGNORECASE)
MANY = (list, tuple, dict, set, np.ndarray)


def is_number(text: str) -> bool:
    """True for a number as it is written in a table; Python itself takes ``1_30`` and digits of other scripts too."""
    return NUMBER.fullmatch(text) is not None


def number(cell: object) -> float | None:
    """A cell as a number; None for what is none (text, a truth value, nothing, a list)."""
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    if isinstance(cell, str):
        return float(cell) if is_number(cell) else None
    if cell is None or isinstance(cell, (bool, np.bool_, *MANY)):
        return None
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def numbers(column: np.ndarray) -> np.ndarray | None:
    """A column of objects as float64 in one go; None where a cell has to be looked at."""
    cells = column.tolist()
    if all(type(cell) is str for cell in cells):
        text = "\n".join(cells)
        if not text.isascii() or "_" in text:
            return None
    elif not all(type(cell) in (int, float) for cell in cells):
        return None
    try:
        return np.array(cells, dtype=np.float64)
    except (ValueError, OverflowError):
        return None


def shown(cell: object) -> str:
    """A cell in a sentence: quoted and short; what holds several values says so."""
    if isinstance(cell, MANY):
        return f"a {'group of fields' if isinstance(cell, dict) else 'list'} of {np.size(cell) or len(cell)} values"
    text = str(cell)
    return f"'{text[:40]}'" if text and cell is not None and cell == cell else "empty"
