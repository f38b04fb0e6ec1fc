"""MATLAB files of versions 5 and 7.3 hold the same values, and damage ends in a sentence."""

from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from neurobridge.data.mat5 import HEAD_BYTES
from neurobridge.data.matfile import open_mat, read_mat
from neurobridge.data.matvalues import Unread, decoded, dense
from neurobridge.errors import UserError

HEADER = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"


class Writer:
    """Values as MATLAB writes them with -v7.3."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, h5py.File(path, "w", userblock_size=512)
        self.kept = self.file.create_group("#refs#")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        with self.path.open("r+b") as file:
            file.write(HEADER)

    def put(self, where: h5py.Group, name: str, value: object) -> h5py.Dataset | h5py.Group:
        if isinstance(value, dict):
            item, kind = where.create_group(name), "struct"
            for key, inner in value.items():
                self.put(item, key, inner)
        elif isinstance(value, str):
            units = np.frombuffer(value.encode("utf-16-le"), "<u2")
            item, kind = where.create_dataset(name, data=units[:, None] if value else np.zeros(2, "u8")), "char"
            if not value:
                item.attrs["MATLAB_empty"] = np.uint8(1)
        elif isinstance(value, list):
            item, kind = where.create_dataset(name, (len(value), 1), dtype=h5py.ref_dtype), "cell"
            for row, inner in enumerate(value):
                item[row, 0] = self.put(self.kept, f"{name}{row}{len(self.kept)}", inner).ref
        elif scipy.sparse.issparse(value):
            item, kind = where.create_group(name), "double"
            item.attrs["MATLAB_sparse"] = np.uint64(value.shape[0])
            item["jc"] = value.indptr.astype("u8")
            if value.nnz:
                item["ir"], item["data"] = value.indices.astype("u8"), value.data
        else:
            array = np.asarray(value)
            kind = {"f": "double", "b": "logical", "u": "uint8", "i": "int32"}[array.dtype.kind]
            data = (
                np.array(array.shape, "u8")
                if array.size == 0
                else array.astype("u1" if kind == "logical" else array.dtype).T
            )
            item = where.create_dataset(name, data=data)
            if array.size == 0:
                item.attrs["MATLAB_empty"] = np.uint8(1)
        item.attrs["MATLAB_class"] = np.bytes_(kind)
        return item


def save73(path: Path, values: dict) -> None:
    with Writer(path) as writer:
        for name, value in values.items():
            writer.put(writer.file, name, value)


def cell(values: list) -> np.ndarray:
    array = np.empty((1, len(values)), dtype=object)
    for at, value in enumerate(values):
        array[0, at] = cell(value) if isinstance(value, list) else value
    return array


def save5(path: Path, values: dict, **options) -> None:
    scipy.io.savemat(path, {k: cell(v) if isinstance(v, list) else v for k, v in values.items()}, **options)


VALUES = {
    "number": np.array([[7.0]]),
    "row": np.arange(5.0)[None],
    "cube": np.random.default_rng(0).normal(size=(3, 4, 2)),
    "bytes": np.array([[1, 255], [3, 4]], dtype=np.uint8),
    "whole": np.array([[-5], [2**31 - 1]], dtype=np.int32),
    "none": np.zeros((0, 0)),
    "raster": np.array([[True, False], [False, True]]),
    "word": "V4d, µm",
    "silence": "",
    "names": ["u1", "", "größer"],
    "mixed": ["u1", np.array([[3.0]])],
    "trains": [np.arange(3.0)[None], np.zeros((0, 0)), np.arange(1000.0)[None]],
    "nested": [["a", "b"], ["c"]],
    "session": {"spikes": {"time": np.arange(4.0)[:, None], "area": ["V1", "V4"]}, "rate": np.array([[30000.0]])},
    "sparse": scipy.sparse.csc_matrix(np.array([[0, 2.5, 0], [1, 0, 0], [0, 0, 4]])),
    "empty_sparse": scipy.sparse.csc_matrix((3, 2)),
}


def same(found: object, expected: object) -> None:
    if isinstance(expected, list):
        assert found.dtype == object
        for one, other in zip(found.ravel(order="F"), expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        assert set(found) == set(expected)
        for key, other in expected.items():
            same(found[key], other)
    elif isinstance(expected, str):
        assert found == expected
    else:
        full = expected.toarray() if scipy.sparse.issparse(expected) else expected
        assert (found.dtype.kind == "b") == (full.dtype.kind == "b")
        np.testing.assert_array_equal(found, full)


@pytest.mark.parametrize("version", ["v6", "v7", "v7.3"])
def test_values_are_the_same_in_every_format(tmp_path, version):
    path = tmp_path / "a.mat"
    if version == "v7.3":
        save73(path, VALUES)
    else:
        save5(path, VALUES, do_compression=version == "v7")
    found, _ = read_mat(path, list(VALUES))
    assert list(found) == list(VALUES)
    for name, expected in VALUES.items():
        same(found[name], expected)
    found, names = read_mat(path, ["session.spikes.time", "session/rate", "session.unit", "word.of", "other"])
    assert list(found) == ["session.spikes.time", "session/rate"]
    same(found["session.spikes.time"], VALUES["session"]["spikes"]["time"])
    assert {"session.spikes.area", "session.rate", "names"} <= set(names)


def test_struct_arrays_and_char_matrices(tmp_path):
    trials = np.array([(1.5, "a"), (2.5, "bc")], dtype=[("onset", float), ("image", object)])
    scipy.io.savemat(tmp_path / "five.mat", {"trials": trials, "names": np.array(["u0", "u10"])})
    with Writer(tmp_path / "seven.mat") as writer:
        group = writer.put(writer.file, "trials", {})
        for name, values in (("onset", [np.array([[1.5]]), np.array([[2.5]])]), ("image", ["a", "bc"])):
            del writer.put(group, name, values).attrs["MATLAB_class"]  # a field of a struct array has none
        letters = np.array([list("u0 "), list("u10")])
        item = writer.file.create_dataset("names", data=np.vectorize(ord)(letters).astype("u2").T)
        item.attrs["MATLAB_class"] = np.bytes_("char")
    for path in (tmp_path / "five.mat", tmp_path / "seven.mat"):
        found, names = read_mat(path, ["trials.onset", "trials.image", "names"])
        assert [float(one.item()) for one in found["trials.onset"].ravel()] == [1.5, 2.5]
        assert found["trials.image"].ravel().tolist() == ["a", "bc"]
        assert found["names"].tolist() == [["u0"], ["u10"]], "MATLAB's padding is taken off"
        assert set(names) == {"trials.onset", "trials.image", "names"}


def test_text_of_every_width():
    for encoding, dtype in (("utf-8", "u1"), ("latin-1", "u1"), ("utf-16-le", "<u2"), ("utf-32-le", "<u4")):
        assert decoded(np.frombuffer("µV größer".encode(encoding), dtype)) == "µV größer"


def test_what_is_not_read_says_what_it_is(tmp_path):
    scipy.io.savemat(tmp_path / "five.mat", {"waves": np.array([1 + 2j, 3])})
    with Writer(tmp_path / "seven.mat") as writer:
        item = writer.put(writer.file, "waves", np.zeros((1, 2)))
        item.attrs["MATLAB_class"] = np.bytes_("string")
        item.attrs["MATLAB_object_decode"] = np.int32(3)
    assert read_mat(tmp_path / "five.mat", ["waves"])[0]["waves"] == Unread("complex numbers")
    assert read_mat(tmp_path / "seven.mat", ["waves"])[0]["waves"] == Unread("a MATLAB object of the class string")
    huge = dense(np.zeros(0), np.zeros(2), np.zeros(0), (10**12, 1))
    assert isinstance(huge, Unread)


@pytest.mark.parametrize(
    ("rows", "ends"), [([0, 9], [0, 1, 2]), ([0, -1], [0, 1, 2]), ([0, 1], [0, 2, 1]), ([0, 1], [0, 5])]
)
def test_sparse_matrices_that_do_not_add_up(rows, ends):
    with pytest.raises(ValueError, match="a sparse matrix of"):
        dense(np.array(rows), np.array(ends), np.ones(2), (3, 2))


def test_other_kinds_and_damage_have_sentences_of_their_own(tmp_path):
    path = tmp_path / "a.mat"
    for content, sentence in (
        (b"", "is empty"),
        (b"\x93NUMPY" * 90, "is no MATLAB file of version 5 or 7.3: save it with -v7.3"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read_mat(path, ["a"])
    save73(path, VALUES)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="is cut off, an HDF5 file without its end: download it again"):
        read_mat(path, ["a"])
    save5(path, VALUES)
    with pytest.raises(UserError, match="is a MATLAB v5 file"), open_mat(path):
        pass
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"is cut off, a MATLAB file without its end"):
        read_mat(path, ["a"])
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is a folder, expected a file: mend the path"):
        read_mat(path, ["a"])


@pytest.mark.parametrize("do_compression", [False, True])
def test_damaged_v5_files_never_end_in_a_traceback(tmp_path, do_compression):
    path = tmp_path / "a.mat"
    save5(path, {**VALUES, "mapping": np.arange(1, 300.0)}, do_compression=do_compression)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(300):
        content = bytearray(whole)
        for at in rng.integers(HEAD_BYTES, len(whole), 6):
            content[at] = rng.integers(256)
        path.write_bytes(bytes(content))
        with suppress(UserError):
            read_mat(path, list(VALUES))


def test_damaged_v73_files_never_end_in_a_traceback(tmp_path):
    path = tmp_path / "a.mat"
    save73(path, VALUES)
    whole = path.read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(60):
        content = bytearray(whole)
        for at in rng.integers(512, len(whole), 40):
            content[at] = rng.integers(256)
        path.write_bytes(bytes(content))
        with suppress(UserError):
            read_mat(path, list(VALUES))
