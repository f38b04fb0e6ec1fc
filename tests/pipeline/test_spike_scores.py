"""Co-smoothing beside its rivals: over the mean rate, over the time course, paired over units."""

import numpy as np
import pytest

from neurobridge.data.recording import Recording
from neurobridge.data.store import Session
from neurobridge.evaluation.spikes import bits_per_spike
from neurobridge.pipeline.spike_report import spikes
from neurobridge.pipeline.spike_scores import (
    CO_SMOOTHING,
    OURS,
    OVER_PSTH,
    PSTH,
    co_smoothing_scores,
    predictors,
    rival_predictions,
    some_rows,
)


@pytest.fixture(scope="module")
def session(tiny_data):
    return Session.open(tiny_data / "sessions" / "monkeyA_1.h5", window_ms=300)


def test_rivals_are_scored_over_the_mean_rate_and_over_the_time_course(session):
    truth, units = session.binned(some_rows(session, "test", 300), 10), np.arange(3)
    rivals = rival_predictions(session, 10, truth, units)
    assert list(rivals) == ["population coupling", "leave-one-out GLM", PSTH, "PSTH x leave-one-out GLM"]
    assert all(prediction.shape == (len(truth), 3, 30) for prediction in rivals.values())
    ours = 0.5 * rivals[PSTH] + 0.5 * rivals["leave-one-out GLM"]
    rows = co_smoothing_scores({OURS: ours} | rivals, truth[:, units], valued=False)
    found = {(row["task"], row["method"]): row for row in rows}
    assert len(found) == len(rows) == 5 + 4  # over itself the time course has no score
    score = {method: bits_per_spike(rates, truth[:, units]) for method, rates in ({OURS: ours} | rivals).items()}
    for method, value in score.items():
        row = found[CO_SMOOTHING, method]
        assert row["value"] == row["interval"][0] == pytest.approx(value)
        if method == OURS:
            assert "ours_minus" not in row
        else:
            assert row["ours_minus"][0] == pytest.approx(score[OURS] - value)
    assert found[OVER_PSTH, OURS]["value"] == pytest.approx(score[OURS] - score[PSTH])

    masked = {"task": "masked, neuron", "method": OURS, "value": 0.1, "unit": "bits/spike"}
    figure, table = spikes([{"session": "monkeyA_1", "role": "pretrained", **row} for row in (masked, *rows)])
    assert len(figure.figure.axes) >= 2  # over the mean rate, over the PSTH
    assert table.columns[-1] == "ours minus this"
    assert table.rows[0][-3:] == [0.1, "bits/spike", None]
    assert table.rows[2][-1] == tuple(rows[1]["ours_minus"])
    assert table.highlight == {0, 1, 6}


def test_of_very_many_units_a_glm_sees_those_that_go_with_its_own_and_that_is_said(session, monkeypatch, capsys):
    truth, units = session.binned(some_rows(session, "test", 300), 10), np.array([7, 2])
    train = session.binned(some_rows(session, "train", 1500), 10)
    all_of_them = rival_predictions(session, 10, truth, units)
    monkeypatch.setattr("neurobridge.pipeline.spike_scores.MOST_PREDICTORS", 6)
    some = predictors(train, units, 10)
    assert len(some) == 6
    assert set(units.tolist()) < set(some.tolist())
    counts = np.moveaxis(train.reshape(*train.shape[:2], -1, 5).sum(-1), 1, 2).reshape(-1, train.shape[1])
    together = np.abs(np.corrcoef(counts.T))[units].max(0)
    left = np.setdiff1d(np.arange(train.shape[1]), some)
    assert together[np.setdiff1d(some, units)].min() >= together[left].max()
    capsys.readouterr()
    rivals = rival_predictions(session, 10, truth, units)
    said = " ".join(capsys.readouterr().out.split())
    assert f"see the 6 of its {session.units} units that go most with those they predict" in said
    for name in ("population coupling", PSTH):
        np.testing.assert_array_equal(rivals[name], all_of_them[name])
    assert np.abs(rivals["leave-one-out GLM"] - all_of_them["leave-one-out GLM"]).max() > 0
    row = {"session": "s", "role": "pretrained", "task": CO_SMOOTHING, "method": "leave-one-out GLM", "value": 0.1}
    row |= {"unit": "bits/spike", "interval": [0.1, 0.0, 0.2], "predictors": [6, session.units]}
    assert f"In session s the GLMs saw 6 of {session.units} units." in spikes([row])[-1].note


def test_windows_that_know_no_onset_have_no_time_course():
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 90, 4000))
    recording = Recording(
        dataset="lab", subject="rat", session="free", signal_kind="sorted", spike_times=times,
        spike_units=rng.integers(0, 4, 4000), unit_ids=np.array(list("abcd")), regions=np.array(["CA1"] * 4),
        duration=(0.0, 90.0),
    )  # fmt: skip
    session = Session(recording, window_ms=300)
    truth = session.binned(some_rows(session, "test", 300), 10)
    rivals = rival_predictions(session, 10, truth, np.arange(2))
    assert list(rivals) == ["population coupling", "leave-one-out GLM"]
    rows = co_smoothing_scores({OURS: rivals["population coupling"]} | rivals, truth[:, :2], valued=False)
    assert {row["task"] for row in rows} == {CO_SMOOTHING}
