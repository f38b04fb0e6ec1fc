"""Frozen tasks: the same for ever, nothing visible that is scored, and no score where the session allows none."""

import numpy as np
import pytest

from neurobridge.evaluation import protocols
from neurobridge.evaluation.spikes import bits_per_spike

REGIONS = np.array(["V1", "V1", "LM", "V1", "unknown", "AM", "LM", "root"])


def every_mode(session="day1"):
    sizes = {"units": len(REGIONS), "bins": 10}
    return {
        "co_smoothing": protocols.co_smoothing(**sizes, session=session),
        "leave_one_out": protocols.leave_one_out(**sizes),
        "forward": protocols.forward_prediction(**sizes, ahead=3),
        "intra_region": protocols.intra_region(regions=REGIONS, bins=10, session=session),
        "inter_region": protocols.inter_region(regions=REGIONS, bins=10),
    }


@pytest.mark.parametrize("mode", ["co_smoothing", "leave_one_out", "forward", "intra_region", "inter_region"])
def test_what_is_scored_is_hidden_once_and_something_stays_visible(mode):
    tasks = every_mode()[mode]
    total = sum(task.scored.astype(int) for task in tasks)
    assert total.max() == 1
    for task in tasks:
        assert task.scored.any()
        assert not (task.scored & ~task.hidden).any()
        assert not task.hidden.all()


def test_the_fixed_tenth_never_changes():
    def held_out(session):
        return np.flatnonzero(protocols.co_smoothing(units=40, bins=2, session=session)[0].hidden_unit).tolist()

    assert held_out("mouse/day1") == [5, 17, 21, 28]
    assert held_out("mouse/day2") != held_out("mouse/day1")
    assert protocols.co_smoothing(units=4, bins=2, session="a")[0].hidden_unit.sum() == 1
    assert protocols.co_smoothing(units=2, bins=2, session="a", share=0.9)[0].hidden_unit.sum() == 1


def test_regions_see_only_what_they_may():
    for task in protocols.intra_region(regions=REGIONS, bins=10, session="a"):
        region = task.name.split()[1]
        assert set(REGIONS[~task.hidden_unit]) == {region}
        assert set(REGIONS[task.scored.any(1)]) == {region}
    for task in protocols.inter_region(regions=REGIONS, bins=10):
        region = task.name.split()[1]
        assert region not in REGIONS[~task.hidden_unit]
        assert not {"unknown", "root"} & set(REGIONS[~task.hidden_unit])
        assert (REGIONS[task.scored.any(1)] == region).all()
        assert task.scored.any(1).sum() == np.count_nonzero(region == REGIONS)


def test_intra_region_in_folds_scores_every_unit_with_some_of_its_region_visible():
    regions = np.repeat(["CA1", "DG", "SUB"], [11, 2, 1])
    tasks = protocols.intra_region(regions=regions, bins=3, session="a", folds=4)
    assert [t.name.split()[1] for t in tasks] == ["CA1"] * 4 + ["DG"] * 2
    assert (sum(t.scored.any(1).astype(int) for t in tasks) == (regions != "SUB")).all()
    assert all((~t.hidden_unit).any() for t in tasks)


def test_sessions_that_do_not_allow_a_mode_have_no_task():
    assert protocols.inter_region(regions=["V1", "V1", "unknown"], bins=5) == []
    assert protocols.intra_region(regions=["V1", "LM", "unknown", "unknown"], bins=5, session="a") == []
    assert protocols.co_smoothing(units=1, bins=5, session="a") == []
    assert protocols.leave_one_out(units=1, bins=5) == []
    with pytest.raises(ValueError, match="does not allow"):
        protocols.collect([], lambda task: np.ones((2, 1, 5)))


def test_collected_predictions_score_as_those_of_the_whole():
    rng = np.random.default_rng(0)
    rates = rng.gamma(2.0, 0.3, (6, len(REGIONS), 10))
    counts = rng.poisson(rates).astype(float)
    for tasks in every_mode().values():
        gathered, scored = protocols.collect(tasks, lambda task: np.where(task.hidden, rates, np.nan))
        mask = np.broadcast_to(scored, counts.shape)
        assert bits_per_spike(gathered, counts, mask) == bits_per_spike(rates, counts, mask)
        assert np.isnan(gathered[~mask]).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="between 1 and 9"):
        protocols.forward_prediction(units=3, bins=10, ahead=10)
    with pytest.raises(ValueError, match="between 0 and 1"):
        protocols.co_smoothing(units=3, bins=10, session="a", share=1.0)
    with pytest.raises(ValueError, match="two folds"):
        protocols.intra_region(regions=REGIONS, bins=10, session="a", folds=1)
