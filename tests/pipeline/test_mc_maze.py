"""The MC_Maze recipe on a small recording of the same shape: reaches, held-out units, behaviour with a gap."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurobridge.data.recording import Recording, Stimuli, TimeSeries, read_recording, write_recording
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.spikes import pretraining_sessions
from neurobridge.training.settings import ModelSettings, PretrainSettings

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "mc_maze.py"
TRIALS, UNITS, EVERY = 80, 24, 1.2


def reaches(path: Path) -> Path:
    """Write a session of reaches in eight directions: rates follow the velocity 100 ms ahead."""
    rng = np.random.default_rng(0)
    onset = 0.5 + EVERY * np.arange(TRIALS)
    time = np.arange(0, EVERY * TRIALS + 0.5, 0.001)
    angle = 2 * np.pi * rng.integers(8, size=TRIALS) / 8
    speed = np.exp(-(((time[:, None] - onset - 0.15) / 0.12) ** 2) / 2)
    hand = speed @ np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ahead = np.roll(hand, -100, axis=0)
    rate = np.exp(np.log(15) + ahead @ rng.normal(size=(2, UNITS)) * 0.9)
    tick, unit = np.nonzero(rng.random(rate.shape) < rate / 1000)
    kept = (time < 3.0) | (time > 3.3)  # a gap in the behaviour
    write_recording(
        Recording(
            dataset="nlb",
            subject="monkey",
            session="maze",
            signal_kind="sorted",
            spike_times=time[tick],
            spike_units=unit,
            unit_ids=np.arange(UNITS).astype(str),
            regions=np.full(UNITS, "M1"),
            unit_columns={"heldout": np.arange(UNITS) % 4 == 0},
            duration=(0.0, float(time[-1] + 0.001)),
            stimuli=Stimuli(
                start=onset,
                end=onset + 0.45,
                image_id=np.full(TRIALS, ""),
                repeat=np.zeros(TRIALS, int),
                split=np.where(np.arange(TRIALS) % 4 == 3, "test", "train"),
                valid=np.ones(TRIALS, bool),
            ),
            behaviour={"hand_vel": TimeSeries(timestamps=time[kept], values=hand[kept])},
        ),
        path / "sessions" / "maze.h5",
    )
    return path


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mc_maze", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("maze")
    settings = replace(
        script.settings_of(ROOT / "configs" / "experiments" / "mc_maze.yaml"),
        data=reaches(folder / "data"),
        out=folder / "run",
        model=ModelSettings(width=32, depth=1, heads=2, latents=2, unit_width=16),
        pretrain=PretrainSettings(steps=20, windows=16, groups=1, modes=["neuron"], checkpoint_every=20),
        accelerator="cpu",
    )
    return run_stages(settings, ["pretrain"])


def test_the_whole_recipe(script, run):
    session = pretraining_sessions(run.settings)[0]
    scores = script.evaluate(
        run,
        session,
        poyo={"width": 32, "depth": 1, "latents": 2, "dropout": 0.0, "steps": 100, "batch": 16},
        binned={"width": 32, "depth": 1, "steps": 30, "batch": 16},
    )
    assert scores["velocity_r2_poyo"] > 0.3
    assert scores["co_bps_glm"] > 0
    assert abs(scores["co_bps"]) < 0.1  # after a few steps: near the null, where it starts
    assert all(np.isfinite(score) for score in scores.values())


def test_velocity_is_that_of_the_lag_and_trials_with_a_gap_are_marked(script, run):
    session = pretraining_sessions(run.settings)[0]
    rows = np.arange(6)
    y, whole = script.velocity(session, rows, 5)
    assert y.shape == (6, 140, 2)
    assert whole.tolist() == [True, True, False, True, True, True]
    series = session.recording.behaviour["hand_vel"]
    first = int(np.argmin(abs(series.timestamps - (session.starts[4] + 0.0025 + 0.1))))
    np.testing.assert_allclose(y[4, 0], series.values[first], atol=0.02)


def test_the_held_out_units_are_not_seen(script, run):
    from neurobridge.neuro.model import NeuroBridge

    session = pretraining_sessions(run.settings)[0]
    held_out = session.recording.unit_columns["heldout"]
    model = NeuroBridge.load(run / "pretrain").eval()
    before = script.our_rates(model, session, run.settings, held_out)("test")
    silent = whole_session(run, lambda recording: silence(recording, held_out))
    after = script.our_rates(model, silent, run.settings, held_out)("test")
    np.testing.assert_allclose(before, after, rtol=1e-5)


def whole_session(run, change) -> Session:
    """The session with its recording in memory, changed."""
    [path] = (run.settings.data / "sessions").glob("*.h5")
    recording = read_recording(path)
    change(recording)
    window = run.settings.window
    return Session(recording, window_ms=window.window_ms, offset_ms=window.offset_ms)


def silence(recording, units: np.ndarray) -> None:
    """Take the spikes of ``units`` [N] bool away from trials of the test split; what training knows of them stays."""
    test = recording.stimuli.split == "test"
    start, end = recording.stimuli.start[test] - 0.5, recording.stimuli.end[test] + 0.5
    at = np.searchsorted(start, recording.spike_times, side="right") - 1
    inside = (at >= 0) & (recording.spike_times < end[at.clip(min=0)])
    heard = ~(units[recording.spike_units] & inside)
    recording.spike_times, recording.spike_units = recording.spike_times[heard], recording.spike_units[heard]


def test_what_is_missing_is_named(script, run, monkeypatch, capsys):
    session = whole_session(run, lambda recording: recording.behaviour.clear())
    with pytest.raises(UserError, match="no 'hand_vel'"):
        script.velocity(session, np.arange(2), 5)
    session = whole_session(run, lambda recording: recording.unit_columns.clear())
    with pytest.raises(UserError, match="no unit marked 'heldout'"):
        script.evaluate(run, session, poyo={}, binned={})
    monkeypatch.setattr(sys, "argv", ["mc_maze.py", "no/such/file.nwb"])
    assert script.main() == 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "no/such/file.nwb" in said
