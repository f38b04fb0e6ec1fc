"""Windows, bins and batches against naive loops; what a step sees depends on (seed, step) alone."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from neurobridge.data.datamodule import NO_REGION, Batcher, StepBatches, open_sessions, region_codes
from neurobridge.data.recording import Recording, Stimuli, write_recording
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.evaluation import protocols
from neurobridge.neuro.masking import Masker


def recording(*, units=5, spikes=4000, presentations=60, values=False, name="s1", seed=0) -> Recording:
    rng = np.random.default_rng(seed)
    seconds = presentations * 0.4
    times = rng.integers(0, int(seconds * 1000), size=spikes) / 1000  # 1 ms-quantised, with the rounding of floats
    column = rng.integers(units, size=spikes)
    value = None
    start = np.arange(presentations) * 0.4
    if values:
        times = np.repeat(start + 0.05, units)
        column = np.tile(np.arange(units), presentations)
        value = rng.poisson(3.0, size=len(times)).astype(np.float32)
    return Recording(
        dataset="lab",
        subject="monkey",
        session=name,
        signal_kind="binned_count" if values else "sorted",
        spike_times=times,
        spike_units=column,
        spike_values=value,
        unit_ids=np.array([f"u{n}" for n in range(units)]),
        regions=np.array(["V1", "V4", "IT", "unknown", "V1"])[:units],
        duration=(0.0, seconds),
        stimuli=Stimuli(
            start=start,
            end=start + 0.25,
            image_id=np.array([f"image{i % 20:011d}" for i in range(presentations)]),
            repeat=np.arange(presentations) // 20,
            split=np.array((["train"] * 7 + ["valid"] + ["test"] * 2) * (presentations // 10)),
            valid=np.arange(presentations) != 3,
        ),
    )


def test_bins_are_exact_on_millisecond_times():
    r = recording()
    session = Session(r, window_ms=300)
    rows = np.array([0, 7, 20, 41])
    counts = session.binned(rows, 10)
    for i, row in enumerate(rows):
        first = round(session.starts[row] * 1000)
        for n in range(session.units):
            ticks = np.round(r.spike_times[r.spike_units == n] * 1000).astype(int) - first
            inside = ticks[(ticks >= 0) & (ticks < 300)]
            np.testing.assert_array_equal(counts[i, n], np.bincount(inside // 10, minlength=30))


def test_invalid_presentations_are_dropped_and_splits_kept():
    session = Session(recording(), window_ms=300)
    assert len(session.starts) == 59
    assert 3 not in session.stimulus_row
    assert len(session.rows("valid")) == 6


def test_values_are_z_scored_square_roots_by_train_statistics():
    r = recording(values=True)
    session = Session(r, window_ms=100)
    train = session.binned(session.rows("train"), 100)[:, :, 0]
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-5)
    raw = np.sqrt(r.spike_values.reshape(-1, 5))[session.stimulus_row]
    z = session.binned(np.arange(len(session.starts)), 100)[:, :, 0]
    assert np.corrcoef(raw[:, 2], z[:, 2])[0, 1] == pytest.approx(1, abs=1e-5)


def test_without_stimuli_a_recording_is_cut_into_blocks():
    r = recording(presentations=300)
    r.stimuli = None
    session = Session(r, window_ms=100)
    share = [np.mean(session.split == split) for split in ("train", "valid", "test")]
    np.testing.assert_allclose(share, [0.8, 0.1, 0.1], atol=0.01)
    with pytest.raises(UserError, match="no stimuli"):
        session.image_ids(np.array([0]))


def test_too_long_windows_are_refused():
    with pytest.raises(UserError, match="no window of 90000 ms"):
        Session(recording(), window_ms=90_000)


def test_stored_and_held_sessions_give_the_same(tmp_path):
    for values in (False, True):
        r = recording(values=values)
        write_recording(r, tmp_path / "s1.h5")
        held, stored = Session(r, window_ms=100), Session.open(tmp_path / "s1.h5", window_ms=100)
        rows = np.array([5, 0, 41, 41])
        for one, other in zip(held.events(rows), stored.events(rows), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(held.binned(rows, 10), stored.binned(rows, 10))
        np.testing.assert_array_equal(held.start_bias(10), stored.start_bias(10))
        np.testing.assert_array_equal(held.image_ids(rows), stored.image_ids(rows))
        assert held.split.tolist() == stored.split.tolist()
        assert stored.recording.unit_keys == r.unit_keys


def test_many_windows_are_worked_on_in_blocks():
    session = Session(recording(spikes=150_000, presentations=50), window_ms=300)
    rows = np.tile(session.rows("train"), 12)
    counts = session.binned(rows, 1)
    assert counts.size > 2 * 2**18
    np.testing.assert_array_equal(counts[: len(rows) // 12], counts[-len(rows) // 12 :])
    assert counts.sum() == session.event_counts(session.starts[rows]).sum()
    assert session.binned(rows[:0], 10).shape == (0, 5, 30)


def test_the_start_bias_is_the_log_mean_count_a_bin():
    session = Session(recording(), window_ms=300)
    counts = session.binned(session.rows("train"), 10)
    np.testing.assert_allclose(session.start_bias(10), np.log(counts.mean((0, 2))), rtol=1e-5)


def test_random_windows_begin_on_any_millisecond_of_their_split():
    r = recording(presentations=300)
    r.stimuli = None
    session = Session(r, window_ms=100)
    starts = session.random_starts("valid", 4000, np.random.default_rng(0))
    allowed = session.starts[session.rows("valid")]
    assert np.isin(np.rint((starts - allowed[0]) * 1000) % 100, np.arange(100)).all()
    assert len(np.unique(np.rint(starts * 1000))) > 800, "blocks of ten windows leave 901 starts each"
    covered = np.zeros(120_000, bool)
    for start in np.rint(allowed * 1000).astype(int):
        covered[start : start + 100] = True
    assert all(covered[s : s + 100].all() for s in np.rint(starts * 1000).astype(int))
    trials = Session(recording(), window_ms=300)
    drawn = trials.random_starts("test", 50, np.random.default_rng(0))
    assert set(drawn.tolist()) <= set(trials.starts[trials.rows("test")].tolist())


@pytest.mark.parametrize(("gap", "offset"), [(0.15, 0), (0.15, -50), (2.0, 100)])
def test_continuous_windows_see_all_but_what_is_held_out(tmp_path, gap, offset):
    """Every millisecond without a valid, test or unsplit presentation and their windows is drawn, and no other."""
    r = recording(presentations=100, spikes=20_000)
    r.stimuli.start = np.round(5.0 + np.arange(100) * (0.25 + gap), 3)
    r.stimuli.end = r.stimuli.start + 0.25
    r.stimuli.split[50], r.stimuli.valid[47] = "none", False
    r.duration = (0.0, float(r.stimuli.end[-1] + 3.0))
    r.observed = np.array([[0.0, 9.0], [9.5, r.duration[1]]])
    write_recording(r, tmp_path / "s1.h5")
    session = Session.open(tmp_path / "s1.h5", window_ms=300, offset_ms=offset)
    starts, rows = session.draw("train", 60_000, np.random.default_rng(0), continuous=True)
    loose = rows < 0
    np.testing.assert_array_equal(session.starts[rows[~loose]], starts[~loose])
    assert session.locked[rows[~loose]].all()
    assert loose.mean() == pytest.approx(session.unseen, abs=0.01)
    assert session.unseen > 0.25 if gap < 1 else session.unseen > 0.75
    free = np.ones(round(r.duration[1] * 1000), bool)
    free[9000:9500] = False
    held = r.stimuli.split != "train"
    for start, end in zip(r.stimuli.start[held] * 1000, r.stimuli.end[held] * 1000, strict=True):
        free[round(start + min(0, offset)) : round(max(end, start + offset + 300))] = False
    seen = np.zeros(len(free), bool)
    for start in np.unique(np.rint(starts[loose] * 1000).astype(int)):
        assert free[start : start + 300].all()
        seen[start : start + 300] = True
    fits = np.flatnonzero(np.convolve(free, np.ones(300), "valid") == 300)
    reachable = np.zeros(len(free), bool)
    for start in fits:
        reachable[start : start + 300] = True
    assert (seen == reachable).mean() > 0.995, "nothing that is free is left out"
    made = Batcher([session], rows_of_units={"s1": list(range(5))}, bin_ms=10)
    batches = StepBatches(made, split="train", windows=64, groups=1, seed=0, first=0, last=3, continuous=True)
    for batch in batches:
        assert torch.equal(batch.locked, batch.row >= 0)
        assert 0 < batch.locked.sum() < 64
        assert (batch.stimulus == -1).all()


def test_without_the_option_and_without_stimuli_no_window_is_continuous():
    trials, values = Session(recording(), window_ms=300), Session(recording(values=True), window_ms=300)
    r = recording()
    r.stimuli = None
    grid = Session(r, window_ms=300)
    assert trials.unseen > 0
    assert values.unseen == grid.unseen == 0
    assert not grid.locked.any()
    for session in (trials, values, grid):
        _, rows = session.draw("train", 100, np.random.default_rng(0), continuous=session is not trials)
        assert (rows >= 0).all()
    for split in ("valid", "test"):
        assert (trials.draw(split, 100, np.random.default_rng(0), continuous=True)[1] >= 0).all()


def test_windows_from_any_start_are_a_batch():
    made = batcher().batch_from([(0, np.array([0.1234, 2.0])), (1, np.array([0.0, 7.7]))])
    assert made.row.tolist() == made.stimulus.tolist() == [-1] * 4
    r = recording(name="s0", seed=0)
    ticks = np.round(r.spike_times * 1000) - 2000
    assert made.target[1].sum() == ((ticks >= 0) & (ticks < 300)).sum()


def batcher(sessions=3) -> Batcher:
    opened = [
        Session(recording(name=f"s{k}", seed=k, presentations=60 * (k + 1)), window_ms=300) for k in range(sessions)
    ]
    return Batcher(opened, rows_of_units={s.name: list(range(5)) for s in opened}, bin_ms=10)


def steps(batches) -> list[torch.Tensor]:
    return [torch.cat([b.session.repeat_interleave(4), b.row]) for b in batches]


def test_a_step_depends_on_seed_and_step_alone():
    common = {"split": "train", "windows": 8, "groups": 2, "seed": 5}
    whole = steps(StepBatches(batcher(), first=0, last=6, **common))
    late = steps(StepBatches(batcher(), first=4, last=6, **common))
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], late, strict=True))
    workers = DataLoader(StepBatches(batcher(), first=0, last=6, **common), batch_size=None, num_workers=2)
    assert all(torch.equal(a, b) for a, b in zip(whole, steps(workers), strict=True))
    other = steps(StepBatches(batcher(), first=0, last=6, **common | {"seed": 6}))
    assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_workers_read_sessions_from_disk(tmp_path, way):
    for k in range(3):
        write_recording(recording(name=f"s{k}", seed=k), tmp_path / "sessions" / f"s{k}.h5")
    opened = open_sessions(tmp_path, window_ms=300)
    opened[0].events(np.array([0]))  # mapped here before the workers start
    source = Batcher(opened, rows_of_units={s.name: list(range(5)) for s in opened}, bin_ms=10)
    batches = StepBatches(source, split="train", windows=8, groups=2, seed=5, first=0, last=4)
    loader = DataLoader(batches, batch_size=None, num_workers=2, multiprocessing_context=way)
    for one, other in zip(batches, loader, strict=True):
        assert torch.equal(one.event_tick, other.event_tick)
        assert torch.equal(one.target, other.target)
    assert len(pickle.dumps(opened[0])) < 10_000


def test_a_batch_targets_what_its_events_say():
    batch = batcher().batch([(0, np.array([1, 4])), (2, np.array([2, 9]))])
    assert batch.target.shape == (4, 5, 30)
    assert float(batch.target.sum()) == len(batch.event_tick)
    assert batch.per_window(batch.session).tolist() == [0, 0, 2, 2]


def test_sessions_are_opened_by_name(tmp_path):
    write_recording(recording(), tmp_path / "sessions" / "s1.h5")
    assert [s.name for s in open_sessions(tmp_path, window_ms=300)] == ["s1"]
    with pytest.raises(UserError, match="'s9' is not in"):
        open_sessions(tmp_path, ["s9"], window_ms=300)


def test_windows_outside_what_was_observed_are_left_out(tmp_path):
    times = np.arange(0.0, 40.0, 0.01)
    recording = Recording(
        dataset="lab", subject="m", session="d", signal_kind="sorted", spike_times=times,
        spike_units=np.zeros(len(times), int), unit_ids=np.array(["u"]), regions=np.array(["V1"]), duration=(0.0, 40.0),
        observed=np.array([[0.0, 10.05], [20.0, 40.0]]),
    )  # fmt: skip
    write_recording(recording, tmp_path / "d.h5")
    for session in (Session(recording, window_ms=100), Session.open(tmp_path / "d.h5", window_ms=100)):
        assert not ((session.starts > 9.951) & (session.starts < 19.999)).any()
        assert len(session.starts) == 300


def test_regions_that_say_nothing_are_none_in_training_as_in_the_protocols():
    made = recording()
    made.regions = np.array(["V1", "Root", "void", "unknown", "V1"])
    session = Session(made, window_ms=300)
    assert region_codes([session]) == {"V1": 0}
    assert NO_REGION == protocols.NO_REGION
    tasks = protocols.intra_region(regions=made.regions, bins=1, session="s")
    batch = Batcher([session], rows_of_units={session.name: list(range(5))}, bin_ms=300).batch([(0, np.arange(40))])
    plan = Masker().draw(batch, np.random.default_rng(0), "intra_region")
    allowed = {tuple(task.hidden_unit.tolist()) for task in tasks}
    assert {tuple(row) for row in plan.hidden_unit.tolist()} == allowed
