"""Windows, bins and batches against naive loops; what a step sees depends on (seed, step) alone."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from neurobridge.data.datamodule import Batcher, StepBatches, open_sessions
from neurobridge.data.recording import Recording, Stimuli, write_recording
from neurobridge.data.store import Session
from neurobridge.errors import UserError


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
