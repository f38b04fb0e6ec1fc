"""When spikes were recorded, from everything that knows it; outside, a count is unknown and not zero."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pynapple as nap
import pytest
from pynwb import NWBHDF5IO, NWBFile

from neurobridge.data.quality import QualitySettings, select_units, unit_quality
from neurobridge.data.recording import Recording, read_recording, write_recording
from neurobridge.data.sources.ibl_probe import probe_observed
from neurobridge.data.sources.lab import examine, import_lab, recording_from_tsgroup
from neurobridge.data.store import Session
from neurobridge.errors import UserError

ALL = QualitySettings(min_rate=None, max_isi_violations=None)


def regular(rate: float, until: float, *, phase: float = 0.5) -> np.ndarray:
    """One spike every 1 / rate s."""
    return (np.arange(int(rate * until)) + phase) / rate


def two_units(spans: list[list[float]], duration: tuple[float, float] = (0.0, 600.0), **changes) -> Recording:
    """4 Hz and 0.8 Hz, observed (and there) in ``spans``."""
    trains = (regular(4, 600), regular(0.8, 600))
    inside = [t[np.any([(t >= a) & (t <= b) for a, b in spans], axis=0)] for t in trains]
    options = {
        "dataset": "lab", "subject": "m", "session": "d", "signal_kind": "sorted",
        "spike_times": np.concatenate(inside), "spike_units": np.repeat([0, 1], [len(t) for t in inside]),
        "unit_ids": np.array(["fast", "slow"]), "regions": np.array(["V1", "V1"]), "duration": duration,
        "observed": np.array(spans),
    }  # fmt: skip
    return Recording(**(options | changes))


def test_rates_presence_and_intervals_are_those_of_observed_time():
    r = two_units([[0.0, 90.0], [150.0, 210.0], [420.0, 600.0]])
    measured = unit_quality(r)
    np.testing.assert_allclose(measured["rate_hz"], [4.0, 0.8], rtol=0.01)
    assert measured["presence_minutes"].tolist() == [1.0, 1.0], "minutes are of a clock that stands still in gaps"
    assert select_units(r, QualitySettings(min_presence=1.0)).unit_ids.tolist() == ["fast", "slow"]
    # a spike outside is none, and an interval across a gap is no interval: here the gap lasts 1 ms
    times = np.array([1.0, 1.0005, 3.9995, 4.0005, 4.5, 9.0])
    pair = two_units([[0.0, 4.0], [4.0005, 8.0]], (0.0, 10.0), spike_times=times, spike_units=np.zeros(6, int))
    measured = unit_quality(pair)
    np.testing.assert_allclose(measured["rate_hz"][0], 5 / 7.9995)
    assert measured["isi_below_1_5_ms"][0] == 1 / 3, "1.0 to 1.0005, of three intervals"
    whole = two_units([[0.0, 600.0]])
    for name, column in unit_quality(whole).items():
        np.testing.assert_allclose(column, unit_quality(two_units([[0.0, 600.0]], observed=None))[name])


def test_the_grid_begins_anew_in_every_observed_interval(tmp_path):
    r = two_units([[0.3, 10.35], [20.05, 40.05], [50.0, 50.09]], (0.0, 60.0))
    write_recording(r, tmp_path / "d.h5")
    for session in (Session(r, window_ms=100), Session.open(tmp_path / "d.h5", window_ms=100)):
        np.testing.assert_allclose(session.starts[[0, 99, 100, -1]], [0.3, 10.2, 20.05, 39.95])
        assert len(session.starts) == 300
        rate = session.start_bias(100)
        np.testing.assert_allclose(np.exp(rate), [0.4, 0.08], rtol=0.1)
        drawn = session.random_starts("train", 2000, np.random.default_rng(0))
        assert not ((drawn > 10.251) & (drawn < 20.0499)).any()


@pytest.mark.parametrize("observed", [np.empty((0, 2)), np.array([[0.0, np.nan]]), np.array([[0.0, np.inf]])])
def test_intervals_that_are_none_are_refused(tmp_path, observed):
    with pytest.raises(UserError, match=r"observed intervals are .* finite starts and ends"):
        write_recording(two_units([[0.0, 600.0]], observed=observed), tmp_path / "a.h5")


@pytest.fixture
def support() -> nap.IntervalSet:
    return nap.IntervalSet(start=[10.0, 200.0], end=[130.0, 320.0])


def group(support: nap.IntervalSet | None) -> nap.TsGroup:
    trains = {7: nap.Ts(regular(3, 400)), 9: nap.Ts(regular(0.8, 400))}
    made = nap.TsGroup(trains, metadata={"area": ["V1", "V4"]})
    return made if support is None else made.restrict(support)


def lab_of_group(write_lab, lab_tables, folder: Path, made: nap.TsGroup, **changes) -> Path:
    folder.mkdir()
    made.save(str(folder / "group.npz"))
    del lab_tables["spikes"]
    lab_tables["units"] = {"unit_id": ["7", "9"], "electrode_id": ["1", "2"], "area": ["V1", "V4"]}
    return write_lab(folder, lab_tables, spikes={"format": "tsgroup", "path": "group.npz"}, **changes)


def test_time_support_of_a_tsgroup(write_lab, lab_tables, tmp_path, support, capsys):
    manifest = lab_of_group(write_lab, lab_tables, tmp_path / "raw", group(support))
    r = read_recording(import_lab(manifest, tmp_path / "out") / "sessions" / "day1.h5")
    np.testing.assert_array_equal(r.observed, support.values)
    assert r.unit_ids.tolist() == ["7", "9"], "0.8 Hz while it was observed, 0.3 Hz of the whole"
    np.testing.assert_allclose(r.unit_columns["rate_hz"], group(support).rate.to_numpy(), rtol=0.01)
    assert "observed 240 of 600 s (time support of group.npz)" in capsys.readouterr().out
    assert r.stimuli.valid.tolist() == [True] * 7 + [False], "those of 10 to 24 s were observed"
    assert next(f.found for f in examine(manifest) if f.key == "observed").startswith("observed 240 of 600 s")
    memory = recording_from_tsgroup(group(support), subject="a", session="b", regions="area")
    np.testing.assert_array_equal(memory.observed, support.values)
    assert memory.duration == (10.0, 320.0)


def test_pynapple_s_own_support_from_first_to_last_spike_says_nothing(write_lab, lab_tables, tmp_path):
    manifest = lab_of_group(write_lab, lab_tables, tmp_path / "raw", group(None))
    r = read_recording(import_lab(manifest, tmp_path / "out", quality=ALL) / "sessions" / "day1.h5")
    assert r.observed is None
    assert recording_from_tsgroup(group(None), subject="a", session="b", regions="area").observed is None


def test_a_manifest_declares_what_was_observed(write_lab, lab_tables, tmp_path):
    out = import_lab(write_lab(tmp_path / "raw", lab_tables, observed=[[300, 550], [5, 21]]), tmp_path / "out")
    r = read_recording(out / "sessions" / "day1.h5")
    assert r.observed.tolist() == [[5.0, 21.0], [300.0, 550.0]]
    times = np.array(lab_tables["spikes"]["time"])
    inside = ((times >= 5) & (times <= 21)) | ((times >= 300) & (times <= 550))
    assert len(r.spike_times) == inside.sum()
    assert f"{(~inside).sum()} of {len(times)} events outside left out" in r.provenance["observed"]
    assert "1 of 8 presentations not all observed are not valid" in r.provenance["observed"]
    assert r.stimuli.valid.tolist() == [True] * 6 + [False, False]
    assert len(Session(r, window_ms=200).starts) == 6


@pytest.mark.parametrize(
    ("observed", "sentence"),
    [
        ([[5, 3]], r"observed holds \[5, 3\]; give a start and a later stop"),
        ([[700, 800]], "within the duration of 0 to 600 s"),
        ([5, 3], "observed is '5' .*two numbers"),
        ("always", r"observed is 'always' \(str\), expected a list of \[start, stop\]"),
        ([[599.999, 600]], "no spike lies in what was observed .*is the time_unit right"),
    ],
)
def test_observed_that_cannot_be_is_one_sentence(write_lab, tmp_path, observed, sentence):
    with pytest.raises(UserError, match=sentence):
        import_lab(write_lab(tmp_path / "raw", observed=observed), tmp_path / "out")


def write_nwb(path: Path, of_units: list[list[list[float]]], invalid: list[list[float]] = ()) -> None:
    file = NWBFile("s", "id", datetime(2024, 5, 1, tzinfo=UTC))
    probe = file.create_electrode_group("g", "d", "V1", device=file.create_device("p"))
    for k, observed in enumerate(of_units):
        file.add_electrode(location="V1", group=probe)
        times = regular(4.0 - k, 100.0)
        file.add_unit(spike_times=times, obs_intervals=observed, electrodes=[k])
    for start, stop in invalid:
        file.add_invalid_time_interval(start_time=float(start), stop_time=float(stop))
    with NWBHDF5IO(path, "w") as io:
        io.write(file)


NWB = {
    "spikes": {"format": "nwb", "path": "s.nwb", "table": "units", "columns": {"time": "spike_times", "unit_id": "id"}},
    "units": {
        "format": "nwb", "path": "s.nwb", "table": "units",
        "columns": {"unit_id": "id", "electrode_id": "electrodes.id", "area": "electrodes.location"},
    },
}  # fmt: skip


def test_obs_intervals_and_invalid_times_of_an_nwb_file(write_lab, tmp_path):
    (tmp_path / "raw").mkdir()
    write_nwb(tmp_path / "raw" / "s.nwb", [[[0, 40], [60, 100]], [[0, 30], [60, 90]]], [[70, 75]])
    changes = {"stimuli": None, "image_root": ..., "split": ..., "duration": [0, 100], "areas": ["V1"]}
    manifest = write_lab(tmp_path / "raw", {}, **NWB, **changes)
    r = read_recording(import_lab(manifest, tmp_path / "out") / "sessions" / "day1.h5")
    assert r.observed.tolist() == [[0.0, 30.0], [60.0, 70.0], [75.0, 90.0]], "what both units share, and is valid"
    own = [t[((t <= a) | (t >= 60)) & (t <= b) & ~((t > 70) & (t < 75))] for t, a, b in
           ((regular(4, 100), 40, 100), (regular(3, 100), 30, 90))]  # fmt: skip
    assert np.bincount(r.spike_units).tolist() == [len(t) for t in own], "a unit keeps what it was observed to do"
    np.testing.assert_allclose(r.unit_columns["rate_hz"], [4.0, 3.0], rtol=0.02)
    write_nwb(tmp_path / "raw" / "s.nwb", [[[0, 40]], [[50, 90]]])
    with pytest.raises(UserError, match=r"no moment was observed in all units \(obs_intervals of s.nwb"):
        import_lab(manifest, tmp_path / "out")
    write_nwb(tmp_path / "raw" / "s.nwb", [[[40, 0]], [[50, 90]]])
    with pytest.raises(UserError, match="not a start and a later stop"):
        import_lab(manifest, tmp_path / "out")


def test_a_probe_s_silences_are_gaps():
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 300, 60_000))
    kept = times[(times < 100) | (times > 130)]
    np.testing.assert_allclose(probe_observed(kept), [[0, 100], [130, 300]], atol=0.1)
    assert len(probe_observed(times)) == 1
    assert len(probe_observed(np.array([1.0, 40.0, 90.0]))) == 1, "three spikes do not tell a gap from silence"
