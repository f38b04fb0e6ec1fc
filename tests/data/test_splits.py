"""Splits: stable by content, whole by group, with the shares that were asked for."""

import numpy as np
import pytest

from neurobridge.data.recording import Recording, Stimuli
from neurobridge.data.splits import resplit, split_blocks, split_groups, split_keys, split_of, split_trials
from neurobridge.errors import UserError


def recording(
    session: str, *, subject: str = "monkey", images: int = 60, repeats: int = 2, first: int = 0
) -> Recording:
    count = images * repeats
    start = np.arange(count) * 0.5
    return Recording(
        dataset="lab",
        subject=subject,
        session=session,
        signal_kind="sorted",
        spike_times=np.array([0.1]),
        spike_units=np.array([0]),
        unit_ids=np.array(["u"]),
        regions=np.array(["V4"]),
        duration=(0.0, count * 0.5),
        stimuli=Stimuli(
            start=start,
            end=start + 0.25,
            image_id=np.array([f"{first + i % images:016x}" for i in range(count)]),
            repeat=np.arange(count) // images,
            split=np.full(count, "none"),
            valid=np.ones(count, bool),
        ),
    )


def test_a_key_has_one_split_whatever_else_there_is():
    keys = [f"{i:016x}" for i in range(4000)]
    splits = split_keys(keys, seed=3, test=0.2, valid=0.1)
    assert splits[:7].tolist() == [split_of(key, seed=3, test=0.2, valid=0.1) for key in keys[:7]]
    assert abs((splits == "test").mean() - 0.2) < 0.02
    assert abs((splits == "valid").mean() - 0.1) < 0.02
    assert split_keys(["", keys[0]]).tolist()[0] == "train"
    assert not np.array_equal(splits, split_keys(keys, seed=4, test=0.2, valid=0.1))
    assert set(split_keys(keys, test=0, valid=0).tolist()) == {"train"}


def test_trials_blocks_and_groups_have_the_shares_asked_for():
    trials = split_trials(100, seed=1, test=0.2, valid=0.1)
    assert [(trials == name).sum() for name in ("test", "valid", "train")] == [20, 10, 70]
    start = np.sort(np.random.default_rng(0).uniform(5, 600, 900))
    blocks = split_blocks(start, blocks=20, seed=1, test=0.2, valid=0.1)
    assert (np.diff(np.unique(blocks, return_inverse=True)[1]) != 0).sum() <= 19, "a block has one split"
    assert set(blocks.tolist()) == {"train", "valid", "test"}
    groups = split_groups([f"day{i}" for i in range(10)], seed=2, test=0.2, valid=0.1)
    assert sorted(groups.values()) == ["test"] * 2 + ["train"] * 7 + ["valid"]
    assert split_groups(["a", "b"], test=0.5, valid=0).keys() == {"a", "b"}
    with pytest.raises(UserError, match=r"2 groups \(a, b\) are too few"):
        split_groups(["a", "b"])


def test_resplit_by_each_rule():
    days = [recording(f"day{i}", subject=f"monkey{i % 3}", first=20 * i) for i in range(6)]
    by_image = resplit(days, "image", seed=1)
    known: dict[str, str] = {}
    for r in by_image:
        for key, split in zip(r.stimuli.image_id.tolist(), r.stimuli.split.tolist(), strict=True):
            assert known.setdefault(key, split) == split
    assert set(known.values()) == {"train", "valid", "test"}
    assert by_image[0].provenance["split"] == "by image, seed 1, test 0.167, valid 0.07"
    assert set(days[0].stimuli.split.tolist()) == {"none"}, "the given recordings stay as they are"
    concepts = {key: f"concept{int(key, 16) // 10}" for key in known}
    of_concept: dict[str, str] = {}
    for r in resplit(days, "concept", concepts=concepts, seed=5):
        for key, split in zip(r.stimuli.image_id.tolist(), r.stimuli.split.tolist(), strict=True):
            assert of_concept.setdefault(concepts[key], split) == split
    with pytest.raises(UserError, match="has no concept"):
        resplit(days, "concept", concepts={})
    for by, name in (("session", "session"), ("subject", "subject")):
        made = resplit(days, by, test=0.34, valid=0.33)
        groups = {(getattr(r, name), split) for r in made for split in set(r.stimuli.split.tolist())}
        assert len(groups) == len({getattr(r, name) for r in days})
    assert (resplit(days, "trial", test=0.25)[0].stimuli.split == "test").sum() == 30
    assert len(set(resplit(days, "time_block")[0].stimuli.split.tolist())) == 3


def test_a_session_without_stimuli_stays():
    r = recording("day1")
    r.stimuli = None
    assert resplit([r], "image")[0] is r
