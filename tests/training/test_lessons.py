"""Lessons: what a teacher expects of images that nobody was shown is learnt; where it is mixed up, nothing is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neurobridge.bridge.alignment import ImageHead
from neurobridge.data.datamodule import Batcher, Share
from neurobridge.data.recording import Recording, Stimuli
from neurobridge.data.store import Session
from neurobridge.neuro.masking import Masker, everything_hidden
from neurobridge.neuro.model import NeuroBridge
from neurobridge.training.joint_task import JointTask, Seen
from neurobridge.training.lessons import Lesson, Lessons

IMAGES, UNITS, WINDOWS = 40, (3, 4), 60


def session(name: str, units: int, *, valued: bool) -> Session:
    """Presentations of 100 ms, 0.2 s apart; five spikes of a unit in each, or one value."""
    rng = np.random.default_rng(units)
    start = np.arange(WINDOWS) * 0.2
    each = 1 if valued else 5
    times = np.repeat(start, units * each) + (0.05 if valued else rng.integers(0, 100, WINDOWS * units * each) / 1000)
    order = np.argsort(times, kind="stable")
    stimuli = Stimuli(
        start=start,
        end=start + 0.1,
        image_id=np.full(WINDOWS, ""),
        repeat=np.zeros(WINDOWS),
        split=np.full(WINDOWS, "train"),
        valid=np.ones(WINDOWS, bool),
    )
    recording = Recording(
        dataset="lab", subject="s", session=name, signal_kind="mua_envelope" if valued else "sorted",
        spike_times=times[order], spike_units=np.tile(np.repeat(np.arange(units), each), WINDOWS)[order],
        spike_values=rng.normal(size=len(times)).astype(np.float32) if valued else None,
        unit_ids=np.array([f"{name}{i}" for i in range(units)]), regions=np.full(units, "V1"),
        duration=(0.0, WINDOWS * 0.2), stimuli=stimuli,
    )  # fmt: skip
    made = Session(recording, window_ms=100)
    made.image_row = rng.integers(0, IMAGES, len(made.starts))
    return made


def taught(*, valued: bool, **options) -> tuple[JointTask, Lessons]:
    """A task of two sessions; what is expected of an image is linear in its map."""
    torch.manual_seed(0)
    sessions = [session(name, units, valued=valued) for name, units in zip("ab", UNITS, strict=True)]
    rows = {"a": [0, 1, 2], "b": [3, 4, 5, 6]}
    batcher = Batcher(sessions, rows_of_units=rows, bin_ms=100 if valued else 10)
    maps = torch.randn(IMAGES, 9, 5)
    lessons = {}
    for index, units in enumerate(UNITS):
        drive = maps.mean(1) @ torch.randn(5, units) * 3
        expected = drive if valued else 4 + 2 * drive.tanh()
        deviation, bins = expected.std(0), slice(3, 10)
        lessons[index] = Lesson(expected=expected, root=0.1 * torch.eye(units), deviation=deviation, bins=bins)
    made = Lessons(batcher, lessons, np.arange(IMAGES), sessions=2, windows=32)
    model = NeuroBridge(width=16, depth=2, heads=2, latents=2, unit_width=8, memory_width=5, memory_side=3)
    bias = 0.0 if valued else np.log(0.5)
    model.units.extend([f"lab/s/{i}" for i in range(7)], log_rates=torch.full((7,), bias))
    head = ImageHead(tokens=4, width=16, queries=2, hidden=8, dimensions=7, dropout=0.0, level=0)
    common = {"loader": lambda *_: (), "steps": 10, "checkpoint_every": 10, "learning_rate": 1e-2, "seed": 0}
    common |= {"masker": Masker(modes=["neuron"]), "weight_decay": 0.0, "unit_dropout": 0.0, "masked_weight": 0.0}
    common |= {"encode_weight": 0.0, "decode_weight": 0.0, "taught_weight": 1.0} | options
    seen = Seen(maps=maps.half(), targets=torch.randn(IMAGES, 7))
    return JointTask(model, head, seen=seen, learns="all", lessons=made, **common), made


def unexplained(task: JointTask, lessons: Lessons) -> float:
    """Error of all images, as a share of the variance of what is expected."""
    task.eval()
    question = lessons.question(np.random.default_rng(9))
    with torch.no_grad():
        memory = task.maps[question.images].float()
        return float(question.loss(task.model(question.batch, everything_hidden(question.batch), memory=memory)))


@pytest.mark.parametrize("valued", [True, False])
def test_the_model_learns_what_the_teacher_expects_and_not_where_the_lessons_are_mixed_up(valued):
    task, lessons = taught(valued=valued)
    mixed, wrong = taught(valued=valued)
    batch = lessons.batcher.batch([(0, np.arange(8)), (1, np.arange(8))])
    for each, shuffled in ((task, False), (mixed, True)):
        optimiser = torch.optim.Adam(each.parameters(), lr=1e-2)
        for step in range(150):
            rng = np.random.default_rng(step)
            if shuffled:
                each.lessons.images = torch.from_numpy(rng.permutation(IMAGES))
            loss = each.losses(batch, rng)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert unexplained(task, lessons) < 0.25
    wrong.images = torch.arange(IMAGES)
    assert unexplained(mixed, wrong) > 0.7


def test_a_question_is_about_the_units_of_all_sessions_as_one_and_shared_by_processes():
    _, lessons = taught(valued=False)
    whole = lessons.question(np.random.default_rng(3))
    assert whole.batch.unit_row.shape == (1, 7)
    assert whole.batch.course.shape == (1, 7, 10)
    parts = [lessons.question(np.random.default_rng(3), Share(k, 2)) for k in range(2)]
    assert torch.equal(torch.stack([p.images for p in parts], 1).flatten(), whole.images)
    assert torch.equal(torch.stack([p.expected for p in parts], 1).flatten(0, 1), whole.expected)


@pytest.mark.parametrize("processes", [1, 2, 12, 16])
def test_a_question_that_would_be_too_dear_still_has_images_for_every_process(processes, monkeypatch):
    _, lessons = taught(valued=False)
    monkeypatch.setattr("neurobridge.training.lessons.MOST_CELLS", 1)
    parts = [lessons.question(np.random.default_rng(3), Share(k, processes)) for k in range(processes)]
    assert {len(part.images) for part in parts} == {max(8, {12: 24}.get(processes, processes)) // processes}


def test_dreamt_values_scatter_about_what_is_expected_of_the_image_that_they_stand_for():
    _, lessons = taught(valued=True)
    batch = lessons.batcher.batch([(0, np.arange(60)), (1, np.arange(60))])
    batch = replace(batch, stimulus=torch.full_like(batch.stimulus, -1))
    dream = lessons.dreamt(batch, np.random.default_rng(0), 0.5)
    changed = dream.stimulus >= 0
    assert 0.35 < changed.float().mean() < 0.65
    for index, units in enumerate(UNITS):
        for window in torch.nonzero(changed[index * 60 : (index + 1) * 60])[:, 0] + index * 60:
            value = dream.event_value[dream.event_window == window]
            expected = lessons.lessons[index].expected[dream.stimulus[window]]
            assert value.shape == (units,)
            assert (value - expected).abs().max() < 0.6, "six deviations of the noise"
    same = ~changed[batch.event_window]
    assert torch.equal(dream.event_value[same], batch.event_value[same])
    assert dream.event_value is not batch.event_value


def test_dreamt_spikes_are_as_many_as_expected_and_the_others_stay():
    _, lessons = taught(valued=False)
    batch = lessons.batcher.batch([(0, np.arange(60)), (1, np.arange(60))])
    dream = lessons.dreamt(batch, np.random.default_rng(0), 1.0)
    assert torch.equal(dream.target.sum((1, 2)).long(), torch.bincount(dream.event_window, minlength=120))
    assert int(dream.event_tick.min()) >= 0
    assert int(dream.event_tick.max()) < 100
    for index, units in enumerate(UNITS):
        here = slice(index * 60, (index + 1) * 60)
        counts = dream.target[here, :units, 3:].sum((0, 2))
        expected = lessons.lessons[index].expected[dream.stimulus[here]].sum(0)
        assert torch.allclose(counts, expected, atol=5 * float(expected.max()) ** 0.5)
    none = lessons.dreamt(batch, np.random.default_rng(0), 0.0)
    assert torch.equal(none.target, batch.target)
    assert len(none.event_tick) == len(batch.event_tick)


def test_processes_dream_their_parts_of_one_batch():
    _, lessons = taught(valued=True)
    rows = np.arange(20)
    whole = lessons.dreamt(lessons.batcher.batch([(0, rows)]), np.random.default_rng(1), 0.5)
    for k in range(2):
        part = lessons.batcher.batch([(0, rows[k::2])])
        dream = lessons.dreamt(part, np.random.default_rng(1), 0.5, Share(k, 2))
        assert torch.equal(dream.stimulus, whole.stimulus[k::2])
        assert torch.equal(dream.event_value.view(-1, 3), whole.event_value.view(-1, 3)[k::2])


def test_decoding_is_trained_on_dreams_where_a_share_is_asked_for():
    task, lessons = taught(valued=True, taught_weight=0.0, decode_weight=1.0, dreamt=1.0)
    batch = lessons.batcher.batch([(0, np.arange(16)), (1, np.arange(16))])
    plain, _ = taught(valued=True, taught_weight=0.0, decode_weight=1.0)
    dreamt, seen = (each.losses(batch, np.random.default_rng(0))["info_nce"] for each in (task, plain))
    assert dreamt != seen
