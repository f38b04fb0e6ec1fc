"""Events straight from the file: as they lie where that is possible, unpacked once where not, never many at a time."""

import os
import pickle
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries

from neurobridge.data import events as module
from neurobridge.data.recording import CHECKED, Recording, write_recording
from neurobridge.data.stored import StoredRecording
from neurobridge.errors import UserError


def write(path, *, times=(0.1, 0.2, 0.3, 0.9), units=(0, 1, 1, 0)):
    path.parent.mkdir(exist_ok=True)
    recording = Recording(
        dataset="lab", subject="monkey", session=path.stem, signal_kind="sorted", spike_times=np.array(times),
        spike_units=np.array(units), unit_ids=np.array(["a", "b"]), regions=np.array(["V1", "V4"]), duration=(0.0, 1.0),
    )  # fmt: skip
    write_recording(recording, path)
    return path


def rewrite(path, **changes):
    """Replace data sets of 'spikes': name -> (data, options of create_dataset). No longer a file of ours."""
    with h5py.File(path, "r+") as file:
        del file["spikes"].attrs[CHECKED]
        for name, (data, options) in changes.items():
            del file[f"spikes/{name}"]
            file["spikes"].create_dataset(name, data=data, **options)
    return path


def unpacked(path) -> list[str]:
    return sorted(p.suffix for p in (path.parent / ".unpacked").glob("*"))


def test_our_files_are_mapped_as_they_are(tmp_path):
    events = StoredRecording(write(tmp_path / "a.h5")).events
    assert events.times.tolist() == [0.1, 0.2, 0.3, 0.9]
    assert events.units.tolist() == [0, 1, 1, 0]
    assert events.values is None
    assert unpacked(tmp_path / "a.h5") == []
    again = pickle.loads(pickle.dumps(events))
    assert again.times.tolist() == events.times.tolist()
    with h5py.File(tmp_path / "a.h5") as file:
        assert Data.from_hdf5(file).spikes.unit_index.tolist() == [0, 1, 1, 0]


def test_a_file_of_torch_brain_is_checked_once_and_mapped(tmp_path):
    domain = Interval(start=np.array([0.0]), end=np.array([2.0]))
    spikes = IrregularTimeSeries(timestamps=np.array([0.5, 1.5]), unit_index=np.array([0, 0]), domain=domain)
    with h5py.File(tmp_path / "b.h5", "w", userblock_size=512) as file:
        Data(spikes=spikes, units=ArrayDict(id=np.array(["u"])), domain=domain).to_hdf5(file)
    for _ in range(2):
        stored = StoredRecording(tmp_path / "b.h5")
        assert stored.events.times.tolist() == [0.5, 1.5]
        assert stored.stimuli is None
        assert stored.regions.tolist() == ["unknown"]
        assert unpacked(tmp_path / "b.h5") == [".sound"]


@pytest.mark.parametrize(
    "changes",
    [
        {"timestamps": ([0.1, 0.2, 0.3, 0.9], {"chunks": (2,), "compression": "gzip"})},
        {"timestamps": (np.array([0.1, 0.2, 0.3, 0.9], np.float32), {})},
        {"timestamps": (np.array([0.1, 0.2, 0.3, 0.9], ">f8"), {})},
        {"timestamps": ([0.9, 0.1, 0.2, 0.3], {}), "unit_index": ([0, 0, 1, 1], {})},
        {"unit_index": (np.array([0, 1, 1, 0], np.uint8), {"chunks": (4,)})},
    ],
)
def test_what_cannot_be_mapped_is_unpacked_once(tmp_path, changes):
    path = rewrite(write(tmp_path / "a.h5"), **changes)
    for _ in range(2):
        events = StoredRecording(path).events
        np.testing.assert_allclose(events.times, [0.1, 0.2, 0.3, 0.9], rtol=1e-6)
        assert events.times.dtype == np.float64
        assert events.units.tolist() == [0, 1, 1, 0]
        assert unpacked(path) == [".events"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"timestamps": ([0.1, np.nan, 0.3, 0.9], {})}, "spike 1 has time nan"),
        ({"unit_index": ([0, 1, 2, 0], {})}, "spike 2 belongs to unit row 2 of 2"),
        ({"unit_index": ([0, 1, 1], {})}, "4 spike times but 3 unit indices"),
        ({"value": ([1.0], {})}, "4 spike times but 1 values"),
        ({name: ([], {}) for name in ("timestamps", "unit_index", "value")}, "holds no spikes"),
        ({"timestamps": ([100.0, 200.0, 300.0, 900.0], {})}, "milliseconds taken for seconds"),
    ],
)
def test_a_foreign_file_that_cannot_be_used_is_refused(tmp_path, changes, sentence):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["spikes"].create_dataset("value", data=np.ones(4))
    with pytest.raises(UserError, match=sentence):
        StoredRecording(rewrite(path, **changes))


@pytest.mark.parametrize("start", [0.0, -3.25, 1000.1])
def test_windows_in_any_order_are_read_as_from_memory(tmp_path, start):
    rng = np.random.default_rng(0)
    seconds, count = 60, 30_000
    times = np.sort(np.round(start + rng.random(count) ** 2 * seconds, 3)).clip(start)  # dense first, then sparse
    recording = Recording(
        dataset="lab", subject="monkey", session="long", signal_kind="mua_envelope", spike_times=times,
        spike_units=rng.integers(2, size=count), spike_values=rng.random(count).astype(np.float32),
        unit_ids=np.array(["a", "b"]), regions=np.array(["V1", "V4"]), duration=(start, start + seconds),
    )  # fmt: skip
    write_recording(recording, tmp_path / "long.h5")
    stored, held = StoredRecording(tmp_path / "long.h5").events, module.HeldEvents(recording)
    ends = np.array([start - 100, start - 0.5, start + seconds - 0.5, start + seconds + 100])
    low = np.concatenate([ends, start + np.arange(seconds), start + rng.random(300) * seconds, times[::997]])
    for length, shift in ((1.0, 0.0), (0.1, -1e-6), (0.0004, 1e-9), (7.0, -1e-6)):
        for windows in (rng.permutation(low), low[:1], low[:0], low[-7:]):
            bounds = windows + shift, windows + shift + length
            np.testing.assert_array_equal(stored.counts(*bounds), held.counts(*bounds))
            for one, other in zip(stored.read(*bounds), held.read(*bounds), strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_foreign_index_that_is_wrong_is_made_anew(tmp_path):
    path = rewrite(write(tmp_path / "a.h5"), timestamp_indices_1s=([4, 4], {}))
    assert StoredRecording(path).events.times.tolist() == [0.1, 0.2, 0.3, 0.9]
    assert unpacked(path) == [".events"]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    path = rewrite(write(tmp_path / "locked" / "a.h5"), timestamps=([0.1, 0.2, 0.3, 0.9], {"chunks": (2,)}))
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(path.parent, os.W_OK):
        path.parent.chmod(0o755)
        pytest.skip("this user may write everywhere")
    try:
        with pytest.raises(UserError, match="cannot be written to"):
            StoredRecording(path)
    finally:
        path.parent.chmod(0o755)


def test_a_file_that_changes_under_a_run_is_refused(tmp_path):
    path = write(tmp_path / "a.h5")
    events = StoredRecording(path).events
    module._files.open.clear()
    write(path, times=(0.1, 0.2, 0.3), units=(0, 0, 0))
    with pytest.raises(UserError, match="has changed"):
        _ = events.times
    path.unlink()
    with pytest.raises(UserError, match="has gone"):
        _ = events.times


def test_few_files_stay_open(tmp_path):
    stored = [StoredRecording(write(tmp_path / f"{k}.h5")) for k in range(module.MOST_OPEN + 20)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for recording in stored:
        assert recording.events.bounds() == (0.1, 0.9)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert len(module._files.open) <= module.MOST_OPEN
