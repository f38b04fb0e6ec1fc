"""MATLAB v5 arrays as scipy writes them, and damage that must end in a sentence."""

from contextlib import suppress

import numpy as np
import pytest
import scipy.io

from neurobridge.data.matfile import read_mat5
from neurobridge.errors import UserError


@pytest.mark.parametrize("do_compression", [False, True])
def test_numeric_arrays_of_v5_files(tmp_path, do_compression):
    rng = np.random.default_rng(0)
    kinds = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8")
    arrays = {f"x{kind}": rng.integers(0, 100, (3, 5)).astype(kind) for kind in kinds}
    arrays |= {"n": np.array([[7]]), "cube": rng.normal(size=(2, 3, 4)), "a_long_name": rng.normal(size=(1, 1024))}
    others = {"text": "not a number", "cells": np.array([["a", 1]], dtype=object), "fields": {"a": 1}}
    scipy.io.savemat(tmp_path / "a.mat", arrays | others, do_compression=do_compression)
    found = read_mat5(tmp_path / "a.mat")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("do_compression", [False, True])
def test_damaged_v5_files_end_in_a_sentence(tmp_path, do_compression):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"mapping": np.arange(1, 300.0)}, do_compression=do_compression)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"a.mat is not a readable file"):
        read_mat5(path)
    path.write_bytes(b"PK" + whole[2:124] + bytes(4) + whole[128:])
    with pytest.raises(UserError, match="no header of a MATLAB v5 file"):
        read_mat5(path)
    rng = np.random.default_rng(1)
    for _ in range(200):
        content = bytearray(whole)
        for at in rng.integers(0, 260, 6):
            content[at] = rng.integers(256)
        path.write_bytes(bytes(content))
        with suppress(UserError):
            read_mat5(path)
