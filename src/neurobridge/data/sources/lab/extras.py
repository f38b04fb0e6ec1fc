"""Further columns of a table as they are kept: numbers, truth values or text; dates and lists become text.

Letters: R rows.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence

import numpy as np

from neurobridge.data.shapes import name_defect
from neurobridge.data.sources.lab.columns import Frame
from neurobridge.errors import UserError

WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
TRUTH = {"true": True, "false": False}


def kept_columns(frame: Frame, known: Sequence[str], fields: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns [R] of ``frame`` that are not among those of ours in ``known``, but for one without a name.

    Raises UserError for a name that is one of the ``fields`` of our table, or that no column can have.
    """
    columns = {}
    for name, column in frame.columns.items():
        if name in known or not name.strip():
            continue
        if defect := "it is a field of ours" if name in fields else name_defect(name):
            raise UserError(f"{frame.file}: a column cannot be called '{name}' ({defect}): rename it, or leave it out")
        columns[name] = kept(column)
    return columns


def kept(column: np.ndarray) -> np.ndarray:
    """A column as it is stored.

    Text that is all numbers becomes numbers (an empty cell NaN), all true and false bools; ``007`` and ``1_30`` are
    text, and so are lists (as JSON) and dates (ISO 8601).
    """
    if column.dtype.kind in "iufb":
        return column
    if column.dtype.kind == "m":
        return column / np.timedelta64(1, "s")
    if column.dtype.kind == "M":
        return np.where(np.isnat(column), "", np.datetime_as_string(column)).astype(str)
    cells = column.tolist()
    if cells and all(isinstance(cell, (bool, np.bool_)) for cell in cells):
        return np.array(cells, dtype=bool)
    texts = [_text(cell) for cell in cells]
    filled = [text.strip() for text in texts if text.strip()]
    if filled and len(filled) == len(texts) and all(text.lower() in TRUTH for text in filled):
        return np.array([TRUTH[text.strip().lower()] for text in texts], dtype=bool)
    if filled and len(filled) == len(texts) and all(WHOLE.fullmatch(text) for text in filled):
        return np.array([int(text) for text in texts], dtype=np.int64)
    if filled and all(_is_number(text) for text in filled):
        return np.array([float(text) if text.strip() else np.nan for text in texts])
    return np.array(texts, dtype=str) if texts else np.zeros(0, "U1")


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None and any(sign.isalnum() for sign in text)


def _text(cell: object) -> str:
    if isinstance(cell, bytes):
        return cell.decode(errors="backslashreplace")
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    if isinstance(cell, (list, tuple, dict, np.ndarray)):
        return json.dumps(cell, default=lambda part: part.tolist() if hasattr(part, "tolist") else str(part))
    if cell is None or cell != cell:
        return ""
    return str(cell)
