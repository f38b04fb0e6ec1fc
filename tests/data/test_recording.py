"""The on-disk format: round trips, torch_brain's reader, and one sentence for each thing that is wrong."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries

from neurobridge.data.recording import Recording, Stimuli, TimeSeries, read_recording, write_recording
from neurobridge.errors import UserError


def recording(**changes) -> Recording:
    options = {
        "dataset": "lab",
        "subject": "monkey",
        "session": "day1",
        "signal_kind": "sorted",
        "spike_times": np.array([0.3, 0.1, 0.2]),
        "spike_units": np.array([1, 0, 1]),
        "unit_ids": np.array(["a", "b"]),
        "regions": np.array(["V1", "IT"]),
        "duration": (0.0, 1.0),
        "stimuli": Stimuli(
            start=np.array([0.0, 0.5]),
            end=np.array([0.25, 0.75]),
            image_id=np.array(["x", "y"]),
            repeat=np.array([0, 1]),
            split=np.array(["train", "test"]),
            valid=np.array([True, False]),
        ),
        "behaviour": {"running_speed": TimeSeries(timestamps=np.array([0.0, 0.5]), values=np.array([1.0, 2.0]))},
        "provenance": {"source": "a test"},
    }
    return Recording(**(options | changes))


def test_round_trip(tmp_path):
    write_recording(recording(), tmp_path / "a.h5")
    back = read_recording(tmp_path / "a.h5")
    np.testing.assert_array_equal(back.spike_times, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(back.spike_units, [0, 1, 1])
    assert back.unit_keys == ["lab/monkey/day1/a", "lab/monkey/day1/b"]
    assert back.regions.tolist() == ["V1", "IT"]
    assert back.stimuli.valid.tolist() == [True, False]
    assert back.stimuli.rows("test").tolist() == []
    assert back.behaviour["running_speed"].values.tolist() == [1.0, 2.0]
    assert back.provenance == {"source": "a test"}


def test_further_columns_of_stimuli_and_units(tmp_path):
    columns = {"contrast": np.array([0.25, np.nan]), "concept": np.array(["aardvark", "piñata"]), "xy": np.eye(2, 3)}
    stimuli = replace(recording().stimuli, columns=columns)
    units = {"probe": np.array(["p0", "p1"]), "label": np.array([1.0, 2 / 3])}
    write_recording(recording(stimuli=stimuli, unit_columns=units), tmp_path / "a.h5")
    back = read_recording(tmp_path / "a.h5")
    assert set(back.stimuli.columns) == set(columns)
    for name, column in columns.items():
        np.testing.assert_array_equal(back.stimuli.columns[name], column)
    assert back.unit_columns["probe"].tolist() == ["p0", "p1"]
    write_recording(back, tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        assert Data.from_hdf5(file, lazy=True).stimuli.contrast[0] == 0.25
    write_recording(recording(), tmp_path / "c.h5")
    assert read_recording(tmp_path / "c.h5").stimuli.columns == {}
    for name, column in (("start", np.zeros(2)), ("choice", np.zeros(3)), ("choice", np.array(1.0))):
        with pytest.raises(UserError, match=f"stimulus column .*'{name}'"):
            write_recording(recording(stimuli=replace(stimuli, columns={name: column})), tmp_path / "d.h5")


def test_torch_brain_opens_ours_and_we_open_torch_brain_s(tmp_path):
    write_recording(recording(), tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        data = Data.from_hdf5(file, lazy=True)
        assert data.spikes.timestamps[:].tolist() == [0.1, 0.2, 0.3]
        assert data.train_domain.start[:].tolist() == [0.0]
    domain = Interval(start=np.array([0.0]), end=np.array([2.0]))
    spikes = IrregularTimeSeries(timestamps=np.array([0.5, 1.5]), unit_index=np.array([0, 0]), domain=domain)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        Data(spikes=spikes, units=ArrayDict(id=np.array(["u"])), domain=domain).to_hdf5(file)
    back = read_recording(tmp_path / "b.h5")
    assert back.regions.tolist() == ["unknown"]
    assert back.duration == (0.0, 2.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"signal_kind": "eeg"}, "signal_kind is 'eeg'"),
        ({"unit_ids": np.array([], dtype=str), "regions": np.array([], dtype=str)}, "holds no units"),
        ({"unit_ids": np.array(["a", "a"])}, "not unique"),
        ({"regions": np.array(["V1"])}, "1 regions for 2 units"),
        ({"spike_units": np.array([0])}, "3 spike times but 1 unit indices"),
        ({"spike_times": np.array([]), "spike_units": np.array([], dtype=int)}, "holds no spikes"),
        ({"spike_times": np.array([0.1, np.nan, 0.2])}, "spike 1 has time nan"),
        ({"spike_units": np.array([1, 2, 1])}, "index base off by one"),
        ({"spike_times": np.array([100.0, 200.0, 300.0])}, "milliseconds taken for seconds"),
        ({"duration": (0.0, 0.6)}, "stimulus row 1 starts at 0.500 s"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        write_recording(recording(**changes), tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


def test_conditions_and_observed_intervals_are_optional_and_round_trip(tmp_path):
    write_recording(recording(), tmp_path / "plain.h5")
    plain = read_recording(tmp_path / "plain.h5")
    assert plain.stimuli.condition is None
    assert plain.observed is None
    full = recording(observed=np.array([[0.0, 0.25], [0.5, 0.75]]))
    full.stimuli.condition = np.array(["grating/45", "grating/90"])
    write_recording(full, tmp_path / "full.h5")
    back = read_recording(tmp_path / "full.h5")
    assert back.stimuli.condition.tolist() == ["grating/45", "grating/90"]
    np.testing.assert_array_equal(back.observed, full.observed)
    with h5py.File(tmp_path / "full.h5") as file:
        data = Data.from_hdf5(file, lazy=True)
        assert data.observed_domain.end[:].tolist() == [0.25, 0.75]
        assert data.stimuli.condition[:].tolist() == ["grating/45", "grating/90"]


def test_observed_intervals_that_overlap_are_refused(tmp_path):
    with pytest.raises(UserError, match="observed intervals overlap"):
        write_recording(recording(observed=np.array([[0.0, 0.6], [0.5, 0.9]])), tmp_path / "a.h5")
