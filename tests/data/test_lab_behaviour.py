"""Behaviour by manifest: every series comes back with its NaN and gaps, and is told; what cannot be is one sentence."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
import scipy.io
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from torch_brain.data import Data

from neurobridge.cli import main
from neurobridge.data.behaviour import behaviour_at, defect_of, described
from neurobridge.data.recording import TimeSeries as Series
from neurobridge.data.recording import read_recording, write_recording
from neurobridge.data.sources.lab import examine, import_lab
from neurobridge.errors import UserError

VELOCITY = "t,vx,vy\n1.0,0.5,-1\n1.1,,2\n1.2,nan,3e-1\n\n"
CSV = {"format": "csv", "path": "v.csv", "values": ["vx", "vy"], "columns": {"time": "t"}}


def imported(manifest, tmp_path):
    return read_recording(import_lab(manifest, tmp_path / "out") / "sessions" / "day1.h5")


@pytest.fixture
def lab(write_lab, tmp_path):
    """Write a session with these behaviours and files (name -> text or a function that writes it)."""

    def write(behaviour, **files):
        folder = tmp_path / "raw"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            path = folder / name.replace("_", ".")
            path.write_text(content) if isinstance(content, str) else content(path)
        return write_lab(folder, behaviour=behaviour)

    return write


def test_empty_cells_and_nan_are_not_known_and_a_gap_is_a_gap(lab, tmp_path, capsys):
    speed = "time,value\n" + "".join(f"{t:.2f},{t}\n" for t in [*np.arange(0, 5, 0.1), *np.arange(20, 25, 0.1)])
    manifest = lab({"hand_velocity": CSV, "speed": {"format": "csv", "path": "s.csv"}}, v_csv=VELOCITY, s_csv=speed)
    r = imported(manifest, tmp_path)
    np.testing.assert_array_equal(r.behaviour["hand_velocity"].timestamps, [1.0, 1.1, 1.2])
    np.testing.assert_array_equal(r.behaviour["hand_velocity"].values, [[0.5, -1], [np.nan, 2], [np.nan, 0.3]])
    assert r.behaviour["speed"].values.shape == (100,)
    told = capsys.readouterr().out
    assert "hand_velocity: 2 dimensions, 3 samples, 10 Hz, 33.3% missing" in told
    assert "speed: 1 dimension, 100 samples, 10 Hz, 1 gap of 15.1 s" in told
    data = Data.from_hdf5(h5py.File(tmp_path / "out" / "sessions" / "day1.h5"), lazy=False)
    np.testing.assert_array_equal(data.speed.timestamps, r.behaviour["speed"].timestamps)

    for command in ("list", "show", "validate"):
        arguments = ["--out", str(tmp_path)] if command == "show" else []
        assert main(["data", command, str(tmp_path / "out"), *arguments]) == 0
        said = "".join(capsys.readouterr().out.split()).replace("│", "")
        assert "hand" in said, command
        assert "speed" in said, command
    assert any(f.key == "behaviour" and "1 gap" in f.found for f in examine(manifest))


def test_a_mat_matrix_with_a_rate_and_a_series_of_an_nwb_file(lab, tmp_path):
    values = np.arange(20.0).reshape(10, 2)

    def mat(path):
        scipy.io.savemat(path, {"X": values})

    def nwb(path):
        import datetime

        file = NWBFile("d", "i", datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC))
        series = TimeSeries(name="lick", data=np.arange(6.0), unit="V", rate=10.0, starting_time=2.0)
        file.create_processing_module("behavior", "b").add(series)
        with NWBHDF5IO(path, "w") as io:
            io.write(file)

    behaviour = {
        "hand": {"format": "mat", "path": "x.mat", "values": ["X"], "sampling_rate": 20.0, "start": 1.5},
        "lick": {"format": "nwb", "path": "l.nwb", "table": "processing/behavior/lick"},
    }
    r = imported(lab(behaviour, x_mat=mat, l_nwb=nwb), tmp_path)
    np.testing.assert_array_equal(r.behaviour["hand"].values, values)
    np.testing.assert_allclose(r.behaviour["hand"].timestamps, 1.5 + np.arange(10) / 20)
    np.testing.assert_allclose(r.behaviour["lick"].timestamps, 2 + np.arange(6) / 10)


def test_samples_outside_the_duration_are_left_out_and_counted(lab, tmp_path, capsys):
    manifest = lab({"speed": {"format": "csv", "path": "s.csv"}}, s_csv="time,value\n-1,0\n1,2\n599,3\n601,4\n")
    assert imported(manifest, tmp_path).behaviour["speed"].values.tolist() == [2, 3]
    assert "2 samples outside the duration left out" in capsys.readouterr().out


MANY = "".join(f"{t},{t}\n" for t in np.arange(100) / 1e3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("time,value\n1,a\n", "line 2: 'value' is 'a', expected a number"),
        ("time,value\n1,0\n2,1_30\n", "line 3: 'value' is '1_30'"),
        ("time,value\n1,inf\n", "'value' is inf"),
        ("time,value\n2,0\n1,0\n", "line 3: the time of 'speed' (1 s) is before"),
        ("time,value\n,0\n1,0\n", "'time'"),
        ("time,value\n1,\n2,nan\n", "has no known value"),
        ("time,value\n700000,1\n700100,2\n", "all outside the duration of 0 to 600 s; is the time_unit right"),
        ("time,value\n" + MANY, "lies within 0.099 s of a recording of 600 s"),
        ("time,value\n", "no sample of the behaviour 'speed'"),
        ("t,value\n1,1\n", "has no column 'time'"),
    ],
)
def test_what_cannot_be_is_one_sentence(lab, tmp_path, text, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        imported(lab({"speed": {"format": "csv", "path": "s.csv"}}, s_csv=text), tmp_path)
    assert not (tmp_path / "out" / "sessions").exists()


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ({"spikes": CSV}, "the behaviour 'spikes' needs another name"),
        ({"a/b": CSV}, "the behaviour 'a/b' needs another name"),
        ({"v": {**CSV, "rate": 3}}, "behaviour: v: unknown key 'rate'"),
        ({"v": {"format": "csv"}}, "'behaviour: v: path' is missing"),
        ({"v": {**CSV, "values": []}}, "names no column in 'values'"),
        ({"v": {"format": "nwb", "path": "a.nwb"}}, "no time series in 'table'"),
        ({"v": {**CSV, "values": ["time"]}}, "names no column in 'values'"),
        ({"v": {**CSV, "columns": {"time": "t", "x": "vx"}}}, "name 'x', which nothing reads"),
        ({"v": {**CSV, "format": "phy"}}, "cannot have the format phy"),
        ({"v": {**CSV, "sampling_rate": 0}}, "sampling_rate is 0"),
        ({"v": {**CSV, "sampling_rate": 10}}, "no time column is read"),
        ({"v": {**CSV, "format": "tsgroup"}}, "cannot have the format tsgroup"),
        ({"v": {**CSV, "time_unit": "samples"}}, "give the manifest's sampling_rate"),
        ([CSV], "behaviour is a list, expected keys and values"),
    ],
)
def test_a_manifest_that_cannot_be_is_one_sentence(lab, tmp_path, behaviour, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        imported(lab(behaviour, v_csv=VELOCITY), tmp_path)


def test_a_series_that_was_spoilt_is_found_by_validate(lab, tmp_path, capsys):
    r = imported(lab({"hand_velocity": CSV}, v_csv=VELOCITY), tmp_path)
    r.behaviour["hand_velocity"].values[:] = np.nan
    write_recording(r, tmp_path / "out" / "sessions" / "day1.h5")
    assert main(["data", "validate", str(tmp_path / "out")]) == 2
    assert "has no known value" in capsys.readouterr().err


def test_behaviour_at_a_moment():
    dense = Series(timestamps=np.arange(100) / 100, values=np.arange(100.0))
    at = behaviour_at(dense, np.array([0.5]), width_s=0.1)
    assert at[0, 0] == pytest.approx(50.0, abs=0.6), "the mean of the samples around"
    sparse = Series(timestamps=np.array([0.0, 1, 2, 3, 13, 14]), values=np.array([0.0, 10, np.nan, 30, 40, 50]))
    at = behaviour_at(sparse, np.array([0.5, 1.5, 2.5, 8, 13.4, 20, -1]), width_s=0.1)[:, 0]
    np.testing.assert_array_equal(np.isnan(at), [False, True, True, True, False, True, True])
    np.testing.assert_allclose(at[[0, 4]], [5, 44])
    assert defect_of(Series(timestamps=np.array([1.0, 0.0]), values=np.zeros(2))) != ""
    assert described(Series(timestamps=np.array([1.0]), values=np.zeros((1, 3)))) == "3 dimensions, 1 samples"


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"time": np.arange(5.0), "value": np.zeros((2, 5))}, "5 of 'time', 2 of 'value, column 0'"),
        ({"time": np.arange(5.0), "value": np.zeros((5, 2, 2))}, "'value' has the shape (5, 2, 2)"),
        ({"time": np.zeros((5, 2)), "value": np.zeros(5)}, "'time' has the shape (5, 2)"),
        ({"time": np.float64(3), "value": np.zeros(5)}, "1 of 'time', 5 of 'value'"),
        ({"time": np.arange(3.0), "value": np.array([1j, 2, 3])}, "expected a number"),
        (
            {"time": np.arange(3.0), "value": np.array(["left", "right", "left"])},
            "'value' is 'left', expected a number",
        ),
        ({"time": np.array(["2024-05-01"] * 3, "M8[D]"), "value": np.zeros(3)}, "expected numbers"),
    ],
)
def test_arrays_of_another_shape_or_kind_are_one_sentence(lab, tmp_path, arrays, sentence):
    manifest = lab({"v": {"format": "npz", "path": "v.npz"}}, v_npz=lambda path: np.savez(path, **arrays))
    with pytest.raises(UserError, match=re.escape(sentence)):
        imported(manifest, tmp_path)


def test_a_matrix_is_several_dimensions_and_a_row_is_a_list(lab, tmp_path):
    arrays = {"t": np.arange(6.0)[None], "XY": np.arange(12).reshape(6, 2), "lick": np.array([True, False] * 3)}
    behaviour = {
        "place": {"format": "npz", "path": "v.npz", "values": ["XY"], "columns": {"time": "t"}},
        "lick": {"format": "npz", "path": "v.npz", "values": ["on"], "columns": {"time": "t", "on": "lick"}},
    }
    r = imported(lab(behaviour, v_npz=lambda path: np.savez(path, **arrays)), tmp_path)
    np.testing.assert_array_equal(r.behaviour["place"].values, arrays["XY"])
    np.testing.assert_array_equal(r.behaviour["lick"].values, [1, 0] * 3)
