"""MATLAB files of version 7.3: HDF5 with a 512-byte header, axes in reverse order, cells behind object references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from neurobridge.data.guard import dangling, read_dataset
from neurobridge.data.matvalues import Unread, decoded, dense, listed, text_rows
from neurobridge.errors import Absent

NUMERIC = ("double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
MOST_DEPTH = 32


def paths(group: h5py.Group, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """The variables of a file, fields of structs by path."""
    for name in group:
        item = group.get(name)
        if name.startswith("#"):  # MATLAB's own: what cells and objects refer to
            continue
        if isinstance(item, h5py.Group) and "MATLAB_sparse" not in item.attrs and len(item) and depth < MOST_DEPTH:
            yield from paths(item, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}"


def find(file: h5py.File, parts: list[str]) -> tuple[Any, list[str]]:
    """The value at the end of the structs that lead along ``parts``, and the parts that are left over.

    Nothing else of the structs is read; None where there is no such thing.
    """
    item: Any = file
    for at, part in enumerate(parts):
        if not isinstance(item, h5py.Group) or "MATLAB_sparse" in item.attrs:
            return value(item), parts[at:]
        found = item.get(part)
        if found is None and (where := dangling(item, part)):
            raise Absent(f"'{part}' is a link to {where}, which is not there")
        item = found
        if item is None or part.startswith("#"):
            return None, parts[at:]
    return value(item), []


def value(item: h5py.Dataset | h5py.Group, depth: int = 0) -> Any:
    """The value of a variable, a field or a cell. Raises ValueError or what h5py raises for a damaged one."""
    if depth > MOST_DEPTH:
        raise ValueError("its cells are nested too deeply")
    kind = _word(item, "MATLAB_class")
    if "MATLAB_object_decode" in item.attrs or kind not in ("", "char", "cell", "logical", "struct", *NUMERIC):
        return Unread("a function" if kind == "function_handle" else f"a MATLAB object of the class {kind}")
    if isinstance(item, h5py.Group):
        return _sparse(item) if "MATLAB_sparse" in item.attrs else {k: value(v, depth + 1) for k, v in item.items()}
    if item.attrs.get("MATLAB_empty"):
        shape = read_dataset(item).ravel().astype(np.int64).tolist()
        return _empty(kind, shape)
    if refers(item):  # a cell array, or (without a class) a field of a struct array
        return _cells(item, depth)
    held = read_dataset(item)
    if held.dtype.kind == "O" or held.dtype.kind == "S":  # strings of another writer
        texts = [x.decode() if isinstance(x, bytes) else str(x) for x in held.ravel().tolist()]
        return texts[0] if held.ndim == 0 else listed(texts, held.shape)
    if held.dtype.kind not in "iufb":
        return Unread("complex numbers" if held.dtype.kind in "cV" else f"of the type {held.dtype}")
    if kind == "char":
        return text_rows(held.ravel(), held.shape[::-1])
    return (held != 0 if kind == "logical" else held).T


def refers(item: h5py.Dataset) -> bool:
    """True for object references; their type equals that of text, which is an object too."""
    return h5py.check_ref_dtype(item.dtype) is h5py.Reference


def strings(dataset: h5py.Dataset) -> list[str]:
    """The strings of a cell array (or of one field of a struct array), which must hold nothing else."""
    return [_string(dataset.file[reference]) for reference in dataset[()].ravel()]


def _string(item: h5py.Dataset) -> str:
    return "" if item.attrs.get("MATLAB_empty") else decoded(np.asarray(item[()]))


def _cells(item: h5py.Dataset, depth: int) -> np.ndarray:
    references = item[()].T
    items = [item.file[reference] for reference in references.ravel(order="F")]
    return listed([_text_of_another(one) or value(one, depth + 1) for one in items], references.shape)


def _text_of_another(item: h5py.Dataset | h5py.Group) -> str:
    """The text of a cell that another writer than MATLAB left without a class: UTF-16 code units."""
    unmarked = isinstance(item, h5py.Dataset) and "MATLAB_class" not in item.attrs and item.dtype == np.uint16
    return decoded(item[()]) if unmarked else ""


def _empty(kind: str, shape: list[int]) -> Any:
    if kind == "char":
        return ""
    if kind == "struct":
        return {}
    dtype = {"cell": object, "logical": bool}.get(kind, np.float64)
    return np.zeros(shape if 0 in shape else (0, 0), dtype=dtype)


def _sparse(group: h5py.Group) -> np.ndarray | Unread:
    ends = read_dataset(group["jc"])
    shape = (int(group.attrs["MATLAB_sparse"]), len(ends) - 1)
    rows, values = (read_dataset(group[name]) if name in group else np.zeros(0) for name in ("ir", "data"))
    if values.dtype.kind not in "iufb":
        return Unread("complex numbers")
    found = dense(rows, ends, values, shape)
    return found != 0 if _word(group, "MATLAB_class") == "logical" and isinstance(found, np.ndarray) else found


def _word(item: h5py.Dataset | h5py.Group, name: str) -> str:
    told = item.attrs.get(name, b"")
    return told.decode("ascii", "replace") if isinstance(told, bytes) else str(told)
