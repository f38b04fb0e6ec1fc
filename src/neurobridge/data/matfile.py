"""MATLAB files of both formats: variables by name, fields of structs by path (``session.spikes.time``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neurobridge.data import mat5, mat73
from neurobridge.data.findings import reading
from neurobridge.data.guard import refuse_endless_heap
from neurobridge.errors import UserError


@contextmanager
def open_mat(path: Path) -> Iterator[h5py.File]:
    """A v7.3 file to read. Raises UserError for a pointer, a v5 file, a damaged or foreign one, also while reading."""
    with reading(path):
        if mat5.is_mat5(path):
            raise UserError(f"{path} is a MATLAB v5 file: expected v7.3; save it with -v7.3, or download it again")
        refuse_endless_heap(path)
        with h5py.File(path, "r") as file:
            yield file


def read_mat(path: Path, wanted: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of ``wanted`` that there are, and the names that can be asked for, those within structs too.

    ``a.b`` (or ``a/b``) is the field b of the struct a; of a struct array, the b of every element. What values become
    is told in :mod:`matvalues`. Raises UserError for a pointer, a damaged file or a foreign one.
    """
    with reading(path):
        if path.stat().st_size and not (mat5.is_mat5(path) or h5py.is_hdf5(path)):
            raise UserError(f"{path} is no MATLAB file of version 5 or 7.3: save it with -v7.3, or mend the format")
        if mat5.is_mat5(path):
            variables = mat5.read_variables(path)
            found = {name: _field(variables, _parts(name)) for name in wanted}
            names = list(_paths(variables))
        else:
            refuse_endless_heap(path)
            with h5py.File(path, "r") as file:
                found = {name: _field(*mat73.find(file, _parts(name))) for name in wanted}
                names = list(mat73.paths(file))
    return {name: value for name, value in found.items() if value is not None}, names


def _parts(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _field(value: Any, parts: list[str]) -> Any:
    """The value along ``parts`` within ``value``; None where there is none."""
    for part in parts:
        if isinstance(value, np.ndarray) and value.dtype == object and value.size:
            inner = [one.get(part) if isinstance(one, dict) else None for one in value.ravel().tolist()]
            if any(one is None for one in inner):
                return None
            flat = np.empty(len(inner), dtype=object)
            for at, one in enumerate(inner):
                flat[at] = one
            value = flat.reshape(value.shape)
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return None
    return value


def _paths(value: Any, prefix: str = "") -> Iterator[str]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _paths(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
