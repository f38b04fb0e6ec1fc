"""Readers of tables are careful: what is there is read whole, what is not is not made up, causes have names."""

from __future__ import annotations

import datetime
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse
from pynwb import NWBHDF5IO, NWBFile

from neurobridge.data.cells import is_number, number
from neurobridge.data.frames import read_frames
from neurobridge.data.guard import read_dataset
from neurobridge.data.nwb import open_nwb
from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import read_recording
from neurobridge.data.sources.lab import import_lab
from neurobridge.data.tables import read_csv, read_npz, read_parquet
from neurobridge.errors import UserError

ALL = QualitySettings(min_rate=None, max_isi_violations=None)
TABLE = "time,unit_id\n0.25,u0\n1.5,µ1\n"
DIALECTS = {
    "mark and CRLF": b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode(),
    "CR alone": TABLE.replace("\n", "\r").encode(),
    "empty lines at the end": (TABLE + "\n,\n  ,\n\n").encode(),
    "semicolons": TABLE.replace(",", ";").encode(),
    "tabs": TABLE.replace(",", "\t").encode(),
    "bars": TABLE.replace(",", "|").encode(),
    "Excel's own line": ("sep=;\n" + TABLE.replace(",", ";")).encode(),
    "UTF-16": TABLE.encode("utf-16"),
    "UTF-32": TABLE.encode("utf-32"),
    "blanks": TABLE.replace(",", " , ").encode(),
    "quotes": TABLE.replace(",", '","').replace("\n", '"\n"').removesuffix('"').join(['"', ""]).encode(),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_is_the_same_in_every_dialect(tmp_path, dialect):
    (tmp_path / "a.csv").write_bytes(DIALECTS[dialect])
    raw = read_csv(tmp_path / "a.csv")
    assert {name: column.tolist() for name, column in raw.columns.items()} == {
        "time": ["0.25", "1.5"],
        "unit_id": ["u0", "µ1"],
    }
    assert raw.rows.tolist() == ([1, 2] if dialect == "Excel's own line" else [0, 1])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (TABLE.encode("latin-1"), "is not UTF-8 text (byte 0xb5): save it as UTF-8"),
        (TABLE.replace("µ", "u").encode("utf-16-le"), "is no text, or UTF-16 without its mark"),
        (b"PK\x03\x04" + bytes(99), "is no CSV table, but an Excel file or a zip archive: save it as CSV"),
        (b"\x1f\x8b\x08" + bytes(99), "is no CSV table, but a gzip archive, which has to be unpacked"),
        (b"\n<!DOCTYPE html><html></html>", "is no CSV table, but a web page"),
        (b"# made by us\na,b\n1,2\n", "begins with the comment '# made by us': remove what stands above the header"),
        (b"", "is empty: fetch it again"),
        (b"a,b,c\n1,2,3\n4,5\n", "line 3 has 2 values, and the header 3 names"),
        (b"a,b\n1,2\n3,4,5\n", "a line unlike its header (Expected 2 fields in line 3, saw 3)"),
        (b'a,b\n"1,2\n3,4\n', "a line unlike its header (EOF inside string"),
        (b"a,b\n1,2,3\n4,5,6\n", "more values a line (decimal commas?)"),
        (b" a,a\n1,2\n", "two columns named 'a'"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path, content, sentence):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_csv(tmp_path / "a.csv")
    assert sentence in str(caught.value)


def test_what_is_a_number():
    for text in ("1", "-1.5", "+.5", "3.", "1e5", "2E-3", " 7 ", "nan", "-inf"):
        assert is_number(text)
    for text in ("1_30", "１２", "0x1f", "", "1,5", "1e", ".", "--1", "1 2", "infinit", "٣"):
        assert not is_number(text)
    for cell in (None, True, np.bool_(False), [1.0], np.arange(3), "u1", b"\xff", {}, datetime.date(2024, 5, 1)):
        assert number(cell) is None
    assert [number(cell) for cell in ("2.5", b"2.5", 2.5, np.float32(2.5))] == [2.5] * 4


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("1_30", "'time' is '1_30', expected a number"),
        ("１３", "'time' is '１３', expected a number"),
        ('"1,5"', "write decimal points, not commas"),
        ("", "'time' is empty, expected a number"),
        ("True", "'time' is 'True', expected a number"),
    ],
)
def test_what_only_looks_like_a_number_is_refused(write_lab, lab_tables, tmp_path, cell, sentence):
    manifest = write_lab(tmp_path / "raw", lab_tables)
    file = tmp_path / "raw" / "spikes.csv"
    lines = file.read_text().splitlines()
    lines[5] = f"{cell},u1"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"spikes\.csv, line 6: ") as caught:
        import_lab(manifest, tmp_path / "out")
    assert sentence in str(caught.value)


def test_sessions_that_are_written_in_two_ways_are_not_left_out(write_lab, lab_tables, tmp_path):
    names = ["day1"] * len(lab_tables["spikes"]["time"])
    names[6:8] = ["day1 ", "Day1"]  # blanks are no part of a name, capitals are
    lab_tables["spikes"]["session_id"] = names
    with pytest.raises(UserError, match=r"line 9: session_id is 'Day1', beside 'day1'"):
        import_lab(write_lab(tmp_path / "raw", lab_tables), tmp_path / "out")


def test_parquet_of_every_type(tmp_path):
    columns = {
        "category": pa.array(["V1", None]).dictionary_encode(),
        "whole": pa.array([2**53 + 1, None]),
        "truth": pa.array([True, None]),
        "share": pa.array([0.5, None]),
        "lists": pa.array([[1.0], [2.0, 3.0]]),
        "decimal": pa.array([1, 2]).cast(pa.decimal128(25, 2)),
    }
    (tmp_path / "parts" / "day=1").mkdir(parents=True)
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    pq.write_table(pa.table(columns), tmp_path / "parts" / "day=1" / "x.parquet")
    for path in (tmp_path / "a.parquet", tmp_path / "parts"):
        found = read_parquet(path).columns
        assert found["category"].tolist() == ["V1", None]
        assert found["whole"].tolist() == [2**53 + 1, None], "not rounded for the sake of a null"
        assert found["truth"].tolist() == [True, None]
        assert np.isnan(found["share"][1])
        assert found["lists"].tolist() == [[1.0], [2.0, 3.0]]
        assert [float(cell) for cell in found["decimal"]] == [1, 2]
    whole = (tmp_path / "a.parquet").read_bytes()
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="two columns named 'a'"):
        read_parquet(tmp_path / "twice.parquet")
    for content, sentence in (
        (whole[:-9], "is cut off, a Parquet file without its end"),
        (b"time,unit\n1,2\n", "is no Parquet file, but of another kind"),
        (b"", "is empty"),
    ):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read_parquet(tmp_path / "a.parquet")


def test_a_stack_of_frames_says_what_is_wrong_with_it(tmp_path):
    file = tmp_path / "frames.npy"
    np.save(file, np.zeros((3, 8, 8), np.uint8))
    whole = file.read_bytes()
    assert [frame for frame, _ in read_frames(file)] == [0, 1, 2]
    np.save(tmp_path / "objects.npy", np.array([{}, 1]))
    for content, sentence in (
        (whole[:-9], "is cut off, an array without its end"),
        (whole[:30], "is cut off, an array without its end"),
        (b"frames", "is no .npy array, but of another kind"),
        ((tmp_path / "objects.npy").read_bytes(), "is an array of Python objects"),
        (b"", "is empty"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            list(read_frames(file))


def test_npz_archives_that_are_none(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, trains=np.array([[1], [1, 2]], dtype=object), time=np.arange(3))
    whole = file.read_bytes()
    assert read_npz(file, ["time"]).columns["time"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="'trains' holds Python objects"):
        read_npz(file, ["trains"])
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("time.npy", "not an array")
    with pytest.raises(UserError, match="'time' is no array"):
        read_npz(tmp_path / "text.npz", ["time"])
    np.save(tmp_path / "one.npy", np.arange(3))
    for content, sentence in (
        (whole[:-40], "is cut off"),
        ((tmp_path / "one.npy").read_bytes(), "is a single .npy array"),
        (b"\x89HDF\r\n\x1a\n", "is no NPZ archive"),
        (b"", "is empty"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read_npz(file, ["time"])


def test_values_that_nobody_wrote_are_not_made_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("part.h5", "w") as part:
        part["x"] = np.arange(10.0)
    np.arange(10.0).tofile("raw.bin")

    def stitched(file: h5py.File, name: str, source: str, of: str, shape: int = 10) -> None:
        layout = h5py.VirtualLayout(shape=(shape,), dtype="f8")
        layout[:10] = h5py.VirtualSource(source, of, shape=(10,))
        file.create_virtual_dataset(name, layout)

    with h5py.File("a.h5", "w") as file:
        file["plain"] = np.arange(10.0)
        file.create_dataset("zeros", data=np.zeros(200_000), compression="gzip", compression_opts=9, shuffle=True)
        file["nothing"] = np.zeros(0)
        stitched(file, "stitched", "part.h5", "x")
        stitched(file, "of its own", ".", "plain")
        file.create_dataset("beside", (10,), "f8", external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])
        file.create_dataset("unwritten", (10,), "f8")
        file.create_dataset("placeholder", (10**6, 64), "i2", chunks=(1000, 64))
        file.create_dataset("half", (10,), "f8", chunks=(5,))[:5] = 1
        stitched(file, "lost", "gone.h5", "x")
        stitched(file, "renamed", "part.h5", "y")
        stitched(file, "gap", "part.h5", "x", 12)
        file.create_dataset("short", (11,), "f8", external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])
        file.create_dataset("away", (10,), "f8", external=[("gone.bin", 0, h5py.h5f.UNLIMITED)])
    with h5py.File("a.h5") as file:
        for name in ("plain", "stitched", "of its own", "beside"):
            np.testing.assert_array_equal(read_dataset(file[name]), np.arange(10.0))
        assert not read_dataset(file["zeros"]).any()
        assert not read_dataset(file["nothing"]).size
        for name, sentence in {
            "unwritten": "was created but never written",
            "placeholder": "was created but never written",
            "half": "has 2 chunks, of which 1 were ever written",
            "lost": "stitched from gone.h5, which is not there",
            "renamed": "stitched from 'y' of part.h5, which has none",
            "gap": "has 12 values, but 10 of them",
            "short": "claims 88 bytes, but the files beside hold 80",
            "away": "lies in gone.bin, which is not there",
        }.items():
            with pytest.raises(OSError, match=sentence):
                read_dataset(file[name])


@pytest.fixture
def nwb(tmp_path) -> Path:
    """Two units, their electrodes, and presentations with tags."""
    made = NWBFile("s", "id", datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC))
    group = made.create_electrode_group("shankA", "d", "l", made.create_device("probe"))
    for _ in range(3):
        made.add_electrode(location="V1", group=group)
    made.add_unit_column("probe", "where", index=False)
    for row in range(2):
        times = np.arange(0.1 + row / 10, 60, 0.2)
        made.add_unit(spike_times=times, electrodes=[row], electrode_group=group, probe=f"p{row}")
    for start in range(4):
        made.add_trial(start_time=float(start), stop_time=start + 0.5, tags=["im1"])
    with NWBHDF5IO(tmp_path / "a.nwb", "w") as io:
        io.write(made)
    return tmp_path / "a.nwb"


def declare(write_lab, nwb: Path, **units) -> Path:
    """A manifest of the units of ``nwb``."""
    columns = {"unit_id": "id", "electrode_id": "probe", "area": "electrodes.location", **units}
    return write_lab(
        nwb.parent,
        {"spikes": {}},
        duration=[0, 60],
        spikes={
            "format": "nwb",
            "path": nwb.name,
            "table": "units",
            "columns": {"time": "spike_times", "unit_id": "id"},
        },
        units={"format": "nwb", "path": nwb.name, "table": "units", "columns": columns},
        stimuli=None,
        image_root=...,
        split=...,
    )


def test_an_nwb_file_is_whole_where_its_table_is(write_lab, nwb, tmp_path):
    with h5py.File(tmp_path / "spikes.h5", "w") as part, h5py.File(nwb, "r+") as file:
        times, attributes = file["units/spike_times"][:], dict(file["units/spike_times"].attrs)
        part["x"] = times
        del file["units/spike_times"]
        layout = h5py.VirtualLayout(shape=times.shape, dtype="f8")
        layout[:] = h5py.VirtualSource("spikes.h5", "x", shape=times.shape)
        file.create_virtual_dataset("units/spike_times", layout)
        file["units/spike_times"].attrs.update(attributes)
        file.create_dataset("acquisition/raw", (10**6, 64), "i2", chunks=(1000, 64))
        file["units/elsewhere"] = h5py.ExternalLink("gone.h5", "/x")
    out = import_lab(declare(write_lab, nwb, electrode_id="electrode_group"), tmp_path / "out", quality=ALL)
    r = read_recording(next((out / "sessions").glob("*.h5")))
    np.testing.assert_array_equal(np.sort(r.spike_times), np.sort(times))
    assert r.unit_columns["electrode_id"].tolist() == ["shankA", "shankA"], "a link is what it links to"
    (tmp_path / "spikes.h5").unlink()
    with pytest.raises(UserError, match=r"spike_times.*stitched from spikes.h5, which is not there"):
        import_lab(nwb.parent / "day1.yaml", tmp_path / "again", quality=ALL)


@pytest.mark.parametrize(
    ("key", "change", "sentence"),
    [
        ("units/spike_times_index", lambda a: np.subtract(a, [0, 5]), "of 599 values, but its index ends at 594"),
        ("units/spike_times_index", lambda a: np.add(a, [0, 5]), "of 599 values, but its index ends at 604"),
        ("units/spike_times_index", lambda a: a[::-1].copy(), "but its index ends at 300 or falls"),
        ("units/spike_times_index", lambda a: a[:1], "of 1 rows in a table of 2"),
        ("units/electrodes", lambda a: a.astype(int) - 1, "-1 in row 0, but the electrodes are 0 to 2"),
        ("units/electrodes", lambda a: a + 7, "7 in row 0, but the electrodes are 0 to 2"),
        ("units/electrodes_index", lambda a: a * 0 + 2, "without an electrode in row 1"),
        ("units/probe", lambda a: np.array([b"p0", b"\xb5"]), "is not UTF-8 text|not UTF-8 text .byte 0xb5"),
    ],
)
def test_rows_that_do_not_fit_are_named(write_lab, nwb, tmp_path, key, change, sentence):
    with h5py.File(nwb, "r+") as file:
        kept, attributes = file[key][()], dict(file[key].attrs)
        del file[key]
        file[key] = change(kept)
        file[key].attrs.update(attributes)
    with pytest.raises(UserError, match=sentence) as caught:
        import_lab(declare(write_lab, nwb), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_cell_is_one_text_or_one_number(write_lab, lab_tables, nwb, tmp_path):
    shown = {"format": "nwb", "path": "a.nwb", "table": "intervals/trials"}
    shown["columns"] = {"onset": "start_time", "offset": "stop_time", "image_id": "tags", "concept": "tags"}
    manifest = write_lab(nwb.parent, lab_tables, stimuli=shown, image_root=None, split="concept")
    r = read_recording(import_lab(manifest, tmp_path / "out", quality=ALL) / "sessions" / "day1.h5")
    assert len(r.stimuli.start) == 4
    with h5py.File(nwb, "r+") as file:
        file["intervals/trials/tags_index"][:] = [1, 1, 3, 4]
    with pytest.raises(UserError, match=r"row 1 \(from 0\): 'tags' holds 0 values \(2 such rows\)"):
        import_lab(manifest, tmp_path / "again", quality=ALL)


def test_matlab_columns_of_a_lab(write_lab, lab_tables, tmp_path):
    raw, units = tmp_path / "raw", lab_tables["units"]
    time = np.array(lab_tables["spikes"]["time"])[:, None]
    labels = {unit: row + 1.0 for row, unit in enumerate(units["unit_id"])}
    unit_id = np.array([labels[unit] for unit in lab_tables["spikes"]["unit_id"]])[:, None]
    manifest = write_lab(
        raw,
        lab_tables | {"units": units | {"unit_id": ["1", "2", "3"]}},
        spikes={"format": "mat", "path": "s.mat", "columns": {"time": "day.spikes.time", "unit_id": "day.spikes.unit"}},
    )

    def save(**spikes: object) -> None:
        scipy.io.savemat(raw / "s.mat", {"day": {"spikes": {"time": time, "unit": unit_id, **spikes}}})

    save(time=scipy.sparse.csc_matrix(time))
    r = read_recording(import_lab(manifest, tmp_path / "out", quality=ALL) / "sessions" / "day1.h5")
    np.testing.assert_array_equal(np.sort(r.spike_times), np.sort(time.ravel()))
    trains = np.empty(3, dtype=object)
    trains[:] = [np.arange(5.0), np.arange(4.0), np.arange(3.0)]
    for column, sentence in (
        (
            {"time": trains},
            r"'day.spikes.time' holds 5 numbers in its cell \(1, 1\), and a cell is one text or one number",
        ),
        ({"time": {"start": time}}, r"'day.spikes.time' is a struct, expected a column; name a field"),
        ({"time": time + 1j}, "'day.spikes.time' is complex numbers, which is not read"),
        ({"time": np.ones((4, 3))}, r"'time' has the shape \(4, 3\), and a column is a list"),
        ({"time": "0.5"}, r"have shapes \(1,\) and \(3600,\)"),
    ):
        save(**column)
        with pytest.raises(UserError, match=sentence):
            import_lab(manifest, tmp_path / "again")


def test_a_file_that_another_program_writes_is_locked(tmp_path, nwb, write_lab):
    manifest = declare(write_lab, nwb)
    code = f"import h5py, time; file = h5py.File({str(nwb)!r}, 'r+'); print('open', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout.readline() == "open\n"
            with pytest.raises(UserError, match="is locked by another program that writes it; wait until that is done"):
                import_lab(manifest, tmp_path / "out")
            with pytest.raises(UserError, match="is locked by another program"), open_nwb(nwb):
                pass
        finally:
            writer.kill()


def test_tables_of_pandas_keep_their_columns(tmp_path):
    pd.DataFrame({"unit_id": ["a", "b"]}, index=[3, 9]).to_parquet(tmp_path / "a.parquet")
    assert list(read_parquet(tmp_path / "a.parquet").columns) == ["unit_id"], "an index without a name is pandas' own"
    pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "b"], name="unit_id")).to_parquet(tmp_path / "b.parquet")
    assert set(read_parquet(tmp_path / "b.parquet").columns) == {"x", "unit_id"}
