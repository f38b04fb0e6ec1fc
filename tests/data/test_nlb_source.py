"""MC_Maze files written by pynwb: import against the truth and against the benchmark's own cutting, gaps, defects."""

import importlib.util
import shutil
from pathlib import Path

import h5py
import numpy as np
import pynwb
import pytest

from neurobridge.data.recording import read_recording, write_recording
from neurobridge.data.sources import allen
from neurobridge.data.sources.nlb import examine, held_in, import_nlb, recognises
from neurobridge.data.store import Session
from neurobridge.errors import UserError

spec = importlib.util.spec_from_file_location("nwb_fixtures", Path(__file__).with_name("nwb_fixtures.py"))
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

TRAIN = "sub-Jenkins_ses-full_desc-train_behavior+ecephys.nwb"
TEST = "sub-Jenkins_ses-full_desc-test_ecephys.nwb"
ROWS = np.array([0, 1, 2, 3, 4, 5, 6, 8])  # trial 7 has no onset


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nlb")
    made.write_maze(folder / TRAIN)
    made.write_maze(folder / TEST)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "000128" / "sub-Jenkins")).parent


def imported(path: Path, out: Path, **options):
    return read_recording(import_nlb(path, out, **options) / "sessions" / "mc_maze_full.h5")


def test_round_trip_of_units_trials_and_behaviour(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recording = imported(folder, out, valid_fraction=0.0)
    assert [path.name for path in out.rglob("*.h5")] == ["mc_maze_full.h5"], "desc-test is passed by in a folder"
    assert (recording.dataset, recording.subject) == ("nlb_mc_maze", "Jenkins")
    assert (recording.species, recording.signal_kind) == ("MACACA_MULATTA", "sorted")
    assert recording.unit_ids.tolist() == made.MAZE_UNITS.astype(str).tolist()
    assert recording.regions.tolist() == ["PMd", "M1", "M1", "PMd", "M1"], "electrodes of a unit are rows"
    assert recording.unit_columns["heldout"].tolist() == made.HELD_OUT.tolist()
    for row, times in enumerate(made.maze_spikes()):
        in_gap = (times > 14.1) & (times < 14.3)
        np.testing.assert_array_equal(recording.spike_times[recording.spike_units == row], times[~in_gap])
    assert recording.provenance["spikes"].startswith("1 of ")
    stimuli = recording.stimuli
    onset = np.array(made.maze_trials()["move_onset_time"])[ROWS]
    np.testing.assert_allclose(stimuli.start, onset - 0.25, atol=1e-9)
    np.testing.assert_allclose(stimuli.end, onset + 0.45, atol=1e-9)
    assert stimuli.split.tolist() == ["train", "train", "test", "train", "train", "none", "test", "train"]
    assert stimuli.condition.tolist() == ["1/0", "2/1", "1/0", "1/2", "2/1", "1/0", "2/1", "1/0"]
    assert stimuli.repeat.tolist() == [0, 0, 1, 0, 1, 2, 2, 3]
    assert set(stimuli.image_id.tolist()) == {""}


def test_missing_samples_stay_missing(folder: Path, tmp_path: Path) -> None:
    behaviour = imported(folder, tmp_path / "out").behaviour
    times, values = made.maze_behaviour()
    assert set(behaviour) == {"hand_pos", "hand_vel", "cursor_pos", "eye_pos"}
    for name, series in behaviour.items():
        known = np.isfinite(values[name]).all(axis=1)
        np.testing.assert_array_equal(series.timestamps, times[known])
        np.testing.assert_array_equal(series.values, values[name][known])
    assert len(behaviour["hand_vel"].timestamps) == len(times) - 7
    assert np.diff(behaviour["eye_pos"].timestamps).max() == pytest.approx(0.201)


def test_windows_that_leave_the_observed_intervals_are_not_valid(folder: Path, tmp_path: Path) -> None:
    recording = imported(folder, tmp_path / "out")
    np.testing.assert_allclose(recording.observed, made.OBSERVED)
    assert recording.stimuli.valid.tolist() == [True, True, True, True, True, False, True, True]


def test_a_unit_with_fewer_intervals_narrows_them_for_all(folder: Path, tmp_path: Path) -> None:
    file = folder / "sub-Jenkins" / TRAIN
    with h5py.File(file, "r+") as raw:
        raw["units/obs_intervals"][4] = [3.8, 14.1]  # unit 2, first interval
    recording = imported(file, tmp_path / "out")
    np.testing.assert_allclose(recording.observed, [[3.8, 14.1], [14.3, 23.0]])
    assert recording.stimuli.valid.tolist() == [False, False, True, True, True, False, True, True]
    assert recording.spike_times[recording.spike_units == 2].min() >= 3.8
    assert recording.spike_times[recording.spike_units == 1].min() < 3.8


def test_invalid_times_are_not_observed(folder: Path, tmp_path: Path) -> None:
    with h5py.File(folder / "sub-Jenkins" / TRAIN, "r+") as raw:
        raw["intervals/invalid_times/start_time"] = np.array([5.0])
        raw["intervals/invalid_times/stop_time"] = np.array([6.0])
    recording = imported(folder, tmp_path / "out")
    np.testing.assert_allclose(recording.observed, [[0.0, 5.0], [6.0, 14.1], [14.3, 23.0]])


def test_windows_are_cut_as_the_benchmark_cuts_them(folder: Path, tmp_path: Path) -> None:
    """Spikes go to milliseconds by truncation, a trial is the 700 of them from onset - 250 ms on, summed by fives."""
    session = Session(imported(folder, tmp_path / "out", valid_fraction=0.0), window_ms=700)
    trials = ROWS[[0, 1, 2, 3, 4, 6, 7]]
    assert len(session.starts) == len(trials)
    expected = np.zeros((len(trials), 5, 140))
    for unit, times in enumerate(made.maze_spikes()):
        line = np.zeros(23000)
        np.add.at(line, (times * 1000).round(6).astype(int), 1)
        for at, onset in enumerate(np.array(made.maze_trials()["move_onset_time"])[trials]):
            first = round(onset * 1000) - 250
            expected[at, unit] = line[first : first + 700].reshape(140, 5).sum(1)
    assert expected.sum() > 50
    np.testing.assert_array_equal(session.binned(np.arange(len(trials)), 5), expected)


def test_what_is_read_is_what_pynwb_reads(folder: Path, tmp_path: Path) -> None:
    file = folder / "sub-Jenkins" / TRAIN
    recording = imported(file, tmp_path / "out")
    with pynwb.NWBHDF5IO(str(file), "r") as io:
        nwb = io.read()
        units, trials = nwb.units.to_dataframe(), nwb.trials.to_dataframe()
        velocity = nwb.processing["behavior"]["hand_vel"]
        times, values = velocity.timestamps[:], velocity.data[:]
        regions = [rows["location"].iloc[0] for rows in units["electrodes"]]
    assert recording.regions.tolist() == regions
    assert recording.unit_columns["heldout"].tolist() == units["heldout"].tolist()
    known = trials["move_onset_time"].notna()
    np.testing.assert_allclose(recording.stimuli.start, trials["move_onset_time"][known] - 0.25, atol=1e-9)
    finite = np.isfinite(values).all(axis=1)
    np.testing.assert_array_equal(recording.behaviour["hand_vel"].timestamps, times[finite])
    np.testing.assert_array_equal(recording.behaviour["hand_vel"].values, values[finite])


def test_held_out_spikes_can_be_taken_away_for_good(folder: Path, tmp_path: Path) -> None:
    whole = imported(folder, tmp_path / "out")
    visible = held_in(whole)
    assert visible.unit_ids.tolist() == ["7", "12", "31"]
    assert not visible.unit_columns["heldout"].any()
    for new, old in enumerate([0, 2, 4]):
        np.testing.assert_array_equal(
            visible.spike_times[visible.spike_units == new], whole.spike_times[whole.spike_units == old]
        )
    assert len(visible.spike_times) == np.isin(whole.spike_units, [0, 2, 4]).sum()
    dropped = imported(folder, tmp_path / "without", held_out=False)
    assert dropped.unit_keys == visible.unit_keys
    np.testing.assert_array_equal(dropped.spike_times, visible.spike_times)
    assert "2 of 5 units were removed" in dropped.provenance["held_out"]
    with h5py.File(tmp_path / "without" / "sessions" / "mc_maze_full.h5") as file:
        assert len(file["spikes/timestamps"]) == len(visible.spike_times)
    dropped.unit_columns = {}
    with pytest.raises(UserError, match="no unit column 'heldout'"):
        held_in(dropped)


def test_the_valid_split_is_drawn_from_train_alone(folder: Path, tmp_path: Path) -> None:
    plain = imported(folder, tmp_path / "a", valid_fraction=0.0).stimuli.split
    drawn = imported(folder, tmp_path / "b", valid_fraction=0.4, seed=7).stimuli.split
    assert (drawn == "valid").sum() == 2
    assert set(plain[drawn == "valid"].tolist()) == {"train"}
    np.testing.assert_array_equal(drawn == "test", plain == "test")
    again = imported(folder, tmp_path / "c", valid_fraction=0.4, seed=7).stimuli.split
    np.testing.assert_array_equal(again, drawn)
    with pytest.raises(UserError, match=r"valid_fraction is 1\.5"):
        import_nlb(folder, tmp_path / "d", valid_fraction=1.5)


def test_the_file_without_labels_is_imported_when_asked_for(folder: Path, tmp_path: Path) -> None:
    file = folder / "sub-Jenkins" / TEST
    assert all(finding.ok for finding in examine(file)), examine(file)
    recording = read_recording(import_nlb(file, tmp_path / "out") / "sessions" / "mc_maze_full_test.h5")
    assert recording.unit_ids.tolist() == ["7", "12", "31"]
    assert set(recording.stimuli.split.tolist()) == {"none"}
    assert recording.stimuli.condition is None
    assert recording.behaviour == {}


def test_sources_tell_their_files_apart(folder: Path, tmp_path: Path) -> None:
    other = made.write_allen(tmp_path / "allen" / "session.nwb")
    assert recognises(folder)
    assert not allen.recognises(folder)
    assert allen.recognises(other.parent)
    assert not recognises(other)
    assert [finding.key for finding in examine(other) if not finding.ok][:2] == ["units/obs_intervals", "units/heldout"]


def test_second_import_skips_and_sizes_stand_side_by_side(folder: Path, tmp_path: Path) -> None:
    small = folder / "000140" / TRAIN.replace("full", "small")
    small.parent.mkdir()
    shutil.copy(folder / "sub-Jenkins" / TRAIN, small)
    out = import_nlb(folder, tmp_path / "out")
    files = {name: out / "sessions" / f"mc_maze_{name}.h5" for name in ("full", "small")}
    before = {name: path.stat().st_mtime_ns for name, path in files.items()}
    files["small"].write_bytes(b"cut off")
    import_nlb(folder, out)
    assert {name for name, path in files.items() if path.stat().st_mtime_ns != before[name]} == {"small"}
    assert read_recording(files["small"]).session == "mc_maze_small"
    shutil.copy(small, folder / small.name)
    with pytest.raises(UserError, match="are both session mc_maze_small"):
        import_nlb(folder, out)


def write(file: h5py.File, key: str, values: np.ndarray) -> None:
    attributes = dict(file[key].attrs)
    del file[key]
    file[key] = values
    file[key].attrs.update(attributes)


def damage(file: h5py.File, what: str) -> None:
    trials = "intervals/trials"
    if what == "no trials":
        del file[trials]
    elif what == "no heldout":
        del file["units/heldout"]
    elif what == "heldout as text":
        write(file, "units/heldout", np.array([b"no", b"yes", b"no", b"yes", b"no"]))
    elif what == "heldout counts":
        write(file, "units/heldout", np.arange(5))
    elif what == "no intervals":
        del file["units/obs_intervals"], file["units/obs_intervals_index"]
    elif what == "flat intervals":
        write(file, "units/obs_intervals", file["units/obs_intervals"][()].ravel())
    elif what == "intervals backwards":
        write(file, "units/obs_intervals", file["units/obs_intervals"][()][:, ::-1])
    elif what == "spikes in ms":
        write(file, "units/spike_times", file["units/spike_times"][()] * 1000)
    elif what == "onsets in ms":
        write(file, f"{trials}/move_onset_time", file[f"{trials}/move_onset_time"][()] * 1000)
    elif what == "no condition":
        del file[f"{trials}/trial_version"]
    elif what == "no val":
        write(file, f"{trials}/split", np.array([b"train"] * made.TRIALS))
    elif what in ("electrode past the end", "electrode before the first"):
        rows = file["units/electrodes"][()].astype(np.int64)
        rows[0] = 99 if what == "electrode past the end" else -7
        write(file, "units/electrodes", rows)
    elif what == "spikes behind the index":
        write(file, "units/spike_times", np.append(file["units/spike_times"][()], 1.0))
    elif what == "unit twice":
        write(file, "units/id", np.array([7, 7, 12, 20, 31]))
    else:
        raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "key", "told"),
    [
        ("no trials", "intervals/trials/start_time", "absent"),
        ("electrode past the end", "units/electrodes", "99 in row 0"),
        ("electrode before the first", "units/electrodes", "-7 in row 0"),
        ("spikes behind the index", "units/spike_times", "but its index ends at"),
        ("no heldout", "units/heldout", "absent"),
        ("heldout as text", "units/heldout", "text, not numbers"),
        ("heldout counts", "units/heldout", "not true or false"),
        ("no intervals", "units/obs_intervals", "absent"),
        ("flat intervals", "units/obs_intervals", "of shape (20,), not of 2 dimensions"),
        ("intervals backwards", "units/obs_intervals", "interval 0 is [14.1, 0.0]"),
        ("spikes in ms", "units/spike_times", "milliseconds"),
        ("onsets in ms", "intervals/trials/move_onset_time", "milliseconds"),
        ("no condition", "intervals/trials/trial_version", "absent"),
        ("no val", "intervals/trials/split", "not both of them"),
        ("unit twice", "units/id", "7 is there 2 times"),
    ],
)
def test_doctor_names_each_defect_and_import_refuses_it(
    folder: Path, tmp_path: Path, what: str, key: str, told: str
) -> None:
    file = folder / "sub-Jenkins" / TRAIN
    with h5py.File(file, "r+") as raw:
        damage(raw, what)
    bad = [finding for finding in examine(folder) if not finding.ok]
    assert [finding for finding in bad if finding.key == key and told in finding.found and finding.mend], bad
    with pytest.raises(UserError) as caught:
        import_nlb(folder, tmp_path / "out")
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*")), "nothing half-written is left"


def test_behaviour_that_cannot_be_used_is_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    with h5py.File(folder / "sub-Jenkins" / TRAIN, "r+") as raw:
        behaviour = raw["processing/behavior"]
        del behaviour["eye_pos"]
        write(raw, "processing/behavior/cursor_pos/data", behaviour["cursor_pos/data"][()].T)
        write(raw, "processing/behavior/hand_pos/timestamps", behaviour["hand_pos/timestamps"][()] * 1000)
    bad = {finding.key: finding.found for finding in examine(folder) if not finding.ok}
    assert bad["processing/behavior/eye_pos"] == "absent"
    assert "(2, 22800) for 22800 timestamps (transposed?)" in bad["processing/behavior/cursor_pos"]
    assert "milliseconds" in bad["processing/behavior/hand_pos"]
    assert set(imported(folder, tmp_path / "out").behaviour) == {"hand_vel"}


def test_truncated_foreign_and_absent_files(folder: Path, tmp_path: Path) -> None:
    file = folder / "sub-Jenkins" / TRAIN
    file.write_bytes(file.read_bytes()[:-5000])
    assert "cut off, an HDF5 file without its end" in examine(folder)[0].found
    assert not recognises(file)
    with pytest.raises(UserError, match="cut off, an HDF5 file without its end"):
        import_nlb(folder, tmp_path / "out")
    with h5py.File(file, "w") as raw:
        raw["x"] = np.zeros(3)
    assert "HDF5 but not NWB 2" in examine(folder)[0].found
    assert "nothing at" in examine(tmp_path / "nowhere")[0].found
    file.unlink()
    with pytest.raises(UserError, match="no NWB file with training trials"):
        import_nlb(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_imported_recording_can_be_written_again_unchanged(folder: Path, tmp_path: Path) -> None:
    first = imported(folder, tmp_path / "out")
    write_recording(first, tmp_path / "again.h5")
    second = read_recording(tmp_path / "again.h5")
    np.testing.assert_array_equal(second.spike_times, first.spike_times)
    np.testing.assert_array_equal(second.observed, first.observed)
    assert second.stimuli.condition.tolist() == first.stimuli.condition.tolist()
    assert second.provenance == first.provenance
