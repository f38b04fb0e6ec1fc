"""Mixing data sets: shares by the square-root rule and by schedule, budgets, kinds apart, the same after a resume."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from neurobridge.data.datamodule import Batcher, Share
from neurobridge.data.mixture import MixtureBatches
from neurobridge.data.recording import Recording, Stimuli
from neurobridge.data.store import Session
from neurobridge.errors import UserError

OPTIONS = {"split": "train", "windows": 32, "groups": 4, "seed": 5}


def session(dataset: str, name: str, *, windows: int, values: bool = False, rate: int = 20, window_ms: int = 100):
    """A session of ``windows`` windows, five units, ``rate`` spikes a window; with values and stimuli, or neither."""
    rng = np.random.default_rng(windows)
    seconds = windows * window_ms / 1000
    times = rng.integers(0, windows * window_ms, size=windows * rate) / 1000
    units, value, stimuli = rng.integers(5, size=len(times)), None, None
    if values:
        start = np.arange(windows) * window_ms / 1000
        times, units = np.repeat(start + 0.05, 5), np.tile(np.arange(5), windows)
        value = rng.poisson(4.0, size=len(times)).astype(np.float32)
        ids, split = np.full(windows, ""), np.full(windows, "train")
        valid = np.ones(windows, bool)
        stimuli = Stimuli(start=start, end=start, image_id=ids, repeat=np.zeros(windows), split=split, valid=valid)
    recording = Recording(
        dataset=dataset, subject="s", session=name, signal_kind="binned_count" if values else "sorted",
        spike_times=times, spike_units=units, spike_values=value, unit_ids=np.array(list("abcde")),
        regions=np.full(5, "V1"), duration=(0.0, seconds), stimuli=stimuli,
    )  # fmt: skip
    return Session(recording, window_ms=window_ms)


def batcher() -> Batcher:
    """Three data sets: large, of two sessions; small; and one that carries values."""
    sessions = [
        session("large", "l1", windows=4000),
        session("large", "l2", windows=1000),
        session("small", "s1", windows=500),
        session("valued", "v1", windows=1250, values=True),
    ]
    return Batcher(sessions, rows_of_units={s.name: list(range(5)) for s in sessions}, bin_ms=20)


def drawn(batches: MixtureBatches) -> dict[str, float]:
    """Share of each data set in the groups of all steps."""
    counts = dict.fromkeys(batches.batcher.datasets, 0)
    for step in range(batches.first, batches.last):
        for index in batches.chosen(step):
            counts[batches.batcher.datasets[index]] += 1
    return {name: count / sum(counts.values()) for name, count in counts.items()}


def equal(one, other) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.session, b.session) and torch.equal(a.row, b.row) and torch.equal(a.target, b.target)
        for a, b in zip(one, other, strict=True)
    )


def test_shares_follow_the_square_root_rule():
    made = batcher()
    windows = {"large": made.sessions[0].count("train") + made.sessions[1].count("train")}
    windows |= {"small": made.sessions[2].count("train"), "valued": 1250}
    total = sum(np.sqrt(list(windows.values())))
    shares = drawn(MixtureBatches(made, first=0, last=2000, **OPTIONS))
    for name, count in windows.items():
        assert shares[name] == pytest.approx(np.sqrt(count) / total, rel=0.02), name
    batches = MixtureBatches(made, first=0, last=20, **OPTIONS)
    by_session = np.bincount(np.concatenate([batches.chosen(step) for step in range(2000)]))
    assert by_session[0] / by_session[1] == pytest.approx(2.0, rel=0.1), "sessions of a data set likewise"
    for step, made_of in enumerate(batches):
        assert sorted(i for b in made_of for i in b.session.tolist()) == sorted(batches.chosen(step))
        assert {b.windows // b.groups for b in made_of} == {8}


def test_weights_ramp_over_the_steps():
    weights = {"small": [(100, 0.0), (200, 1.0)], "valued": [(0, 0.0)]}
    batches = MixtureBatches(batcher(), first=0, last=100, weights=weights, **OPTIONS)
    assert drawn(batches) == {"large": 1.0, "small": 0.0, "valued": 0.0}
    start, middle, end = (batches.shares.at(step) for step in (100, 150, 1000))
    assert start[1] == 0
    assert middle[1] / middle[0] == pytest.approx(end[1] / end[0] / 2)
    later = drawn(MixtureBatches(batcher(), first=200, last=600, weights=weights, **OPTIONS))
    assert later["small"] == pytest.approx(end[1], rel=0.02)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"tiny": [(0, 1.0)]}, "names 'tiny'"),
        ({"small": [(0, -1.0)]}, "negative weight"),
        ({"small": [(10, 1.0), (0, 1.0)]}, "rising steps"),
        ({name: [(0, 1.0), (7, 0.0)] for name in ("large", "small", "valued")}, "no data set at step 7"),
    ],
)
def test_schedules_that_cannot_be(weights, sentence):
    with pytest.raises(UserError, match=sentence):
        MixtureBatches(batcher(), first=0, last=1, weights=weights, **OPTIONS)


def test_a_step_depends_on_seed_and_step_alone_and_can_be_shared():
    whole = list(MixtureBatches(batcher(), first=0, last=8, **OPTIONS))
    late = list(MixtureBatches(batcher(), first=5, last=8, **OPTIONS))
    assert all(equal(a, b) for a, b in zip(whole[5:], late, strict=True))
    loader = DataLoader(MixtureBatches(batcher(), first=0, last=8, **OPTIONS), batch_size=None, num_workers=2)
    assert all(equal(a, b) for a, b in zip(whole, loader, strict=True))
    halves = [list(MixtureBatches(batcher(), first=0, last=8, share=Share(k, 2), **OPTIONS)) for k in (0, 1)]
    for one, *parts in zip(whole, *halves, strict=True):
        for batch, *shares in zip(one, *parts, strict=True):
            groups = [part.row.view(batch.groups, -1) for part in shares]
            assert torch.equal(torch.stack(groups, dim=2).flatten(), batch.row), "two halves of one batch"


def test_values_and_spikes_are_batches_of_their_own():
    seen = set()
    for step in MixtureBatches(batcher(), first=0, last=20, **OPTIONS):
        assert sum(batch.windows for batch in step) == 32
        assert len(step) <= 2
        for batch in step:
            valued = batch.event_value is not None
            assert {index == 3 for index in batch.session.tolist()} == {valued}
            seen.add(valued)
    assert seen == {False, True}


def test_window_lengths_and_bins_are_batches_of_their_own():
    sessions = [session("a", "a1", windows=200), session("b", "b1", windows=200, window_ms=60)]
    made = Batcher(sessions, rows_of_units={"a1": list(range(5)), "b1": list(range(5))}, bin_ms=[20, 10])
    batches = next(iter(MixtureBatches(made, first=0, last=1, **OPTIONS)))
    assert sorted((b.window_ms, b.bin_ms, b.target.shape[-1]) for b in batches) == [(60, 10, 6), (100, 20, 5)]


def test_dense_windows_come_fewer_at_a_time():
    sessions = [session("sparse", "a", windows=500, rate=5), session("dense", "b", windows=500, rate=200)]
    made = Batcher(sessions, rows_of_units={"a": list(range(5)), "b": list(range(5))}, bin_ms=20)
    steps = list(MixtureBatches(made, first=0, last=50, max_events=1000, **OPTIONS))
    sizes = {tuple(sorted(b.session.tolist())): b.windows for step in steps for b in step}
    for (*sessions_of,), windows in sizes.items():
        events = windows / 4 * sum((5, 200)[i] for i in sessions_of)
        assert events < 1400, "a step costs its budget, whatever is drawn"
        assert windows == 4 * round(windows / 4)
    assert len(set(sizes.values())) > 1
    assert min(sum(b.windows for b in step) for step in steps) >= 4, "at least one window a session"


def test_sessions_without_stimuli_begin_on_any_millisecond():
    batches = MixtureBatches(batcher(), first=0, last=10, random_starts=True, **OPTIONS)
    for step in batches:
        for batch in step:
            assert bool((batch.row >= 0).all()) == (batch.event_value is not None)
            assert batch.event_tick.max() < 100
