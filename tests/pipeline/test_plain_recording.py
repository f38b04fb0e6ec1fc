"""A recording without stimuli goes all the way to a report, with behaviour; training goes on, mistakes bind nothing."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from neurobridge.cli import main
from neurobridge.data.recording import Recording, Stimuli, TimeSeries, write_recording

MODEL = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SHORT = {"steps": 30, "windows": 16, "checkpoint_every": 5}
AREAS = ["M1", "PMd"]


def session(name: str, *, seed: int, seconds: float = 120.0, units: int = 12) -> Recording:
    """Units whose rates follow a slow two-dimensional movement, with a gap and NaN in what is known of it."""
    rng = np.random.default_rng(seed)
    time = np.arange(0, seconds, 0.01)
    hand = np.stack([np.sin(2 * np.pi * time / 7), np.cos(2 * np.pi * time / 11)], axis=1)
    rates = 12 * np.exp(hand @ rng.normal(0, 0.9, (2, units)))
    bins, unit = np.nonzero(rng.random(rates.shape) < rates * 0.01)
    values = hand.copy()
    values[rng.random(len(values)) < 0.05] = np.nan
    kept = (time < 40) | (time > 45)
    return Recording(
        dataset="lab", subject="rat", session=name, signal_kind="sorted", spike_times=time[bins] + 0.004,
        spike_units=unit, unit_ids=np.array([f"u{i}" for i in range(units)]),
        regions=np.array(AREAS).repeat(units // 2), duration=(0.0, seconds),
        behaviour={"hand": TimeSeries(timestamps=time[kept], values=values[kept])},
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "data"
    for seed, name in enumerate(["day1", "day2"]):
        write_recording(session(name, seed=seed), folder / "sessions" / f"{name}.h5")
    return folder


def options(data: Path, out: Path, **changes) -> list[str]:
    config = {"data": str(data), "model": MODEL, "pretrain": SHORT, "adapt": {"steps": 4, "checkpoint_every": 2}}
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(config | {"held_out": ["day2"], **changes}))
    return ["--config", str(path), "--out", str(out), "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """A run that has pretrained, and nothing else."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["pretrain", *options(data, out)]) == 0
    return out


def text_of(report: Path) -> str:
    return re.sub(r"data:image[^\"]*|<[^>]*>", " ", report.read_text())


def test_pretrain_ends_with_scores_a_verdict_and_the_next_command(data, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = options(data, out)
    assert main(["pretrain", *arguments]) == 0
    said = capsys.readouterr().out
    for word in ("valid split", "mean rate", "NeuroBridge", "population coupling", "leave-one-out GLM"):
        assert word in said
    assert "the last third of 30 steps brought" in said
    assert f"folder: {out}; next: neurobridge adapt {out}" in " ".join(said.split())
    assert main(["pretrain", str(out)]) == 0, "the run folder alone names the run"
    assert "pretrain: done before" in capsys.readouterr().out

    assert main(["pretrain", str(out), "--pretrain.steps", "40"]) == 0
    said = capsys.readouterr().out
    assert "pretrain: goes on from step 30 of 40" in said
    assert "the last third of 40 steps" in said
    assert yaml.safe_load((out / "config.yaml").read_text())["pretrain"]["steps"] == 40
    steps = [int(line.split(",")[1]) for line in (out / "metrics.csv").read_text().splitlines()[1:]]
    assert max(steps) == 39
    assert main(["pretrain", str(out), "--pretrain.steps", "35"]) == 2
    assert "has trained 40 steps and 'pretrain.steps' is 35: give 40 or more" in capsys.readouterr().err
    assert yaml.safe_load((out / "config.yaml").read_text())["pretrain"]["steps"] == 40


def test_after_pretrain_alone_there_is_a_report_with_behaviour(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    assert main(["report", str(run)]) == 0
    results = json.loads((run / "evaluate" / "results.json").read_text())
    scored = [row for row in results["spikes"] if row["unit"] == "bits/spike" and "mean over" not in row["task"]]
    assert scored
    assert all(len(row["interval"]) == 3 for row in scored)
    assert {row["session"] for row in scored} == {"day1"}, "the held-out session is not adapted yet"
    assert results["areas"][0]["units"] == 12
    text = text_of(run / "report.html")
    for title in ("Spikes and predicted rates", "Latents over time and behaviour", "Units", "Area of a unit"):
        assert title in text
    assert "hand of day1, decoded and true" in text
    assert "Identification" not in text

    assert main(["adapt", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert "done before" not in capsys.readouterr().out, "it now has the adapted session to tell of"
    assert main(["report", str(run)]) == 0
    assert "held out, adapted" in text_of(run / "report.html")
    assert "hand of day2, decoded and true" in text_of(run / "report.html")
    assert main(["evaluate", str(run)]) == 0
    assert "done before" in capsys.readouterr().out

    assert main(["probe", str(run), "--target", "hand", "--session", "day1"]) == 0
    said = capsys.readouterr().out
    assert "Wiener filter" in said
    assert f"report: {run / 'report.html'}" in said
    assert (run / "probes" / "day1-hand.png").stat().st_size > 5000
    result = json.loads((run / "probes" / "day1-hand.json").read_text())
    r2 = {(row["what"], row["method"]): row["r2"] for row in result["rows"]}
    assert {method for _, method in r2} == {"ridge", "k-NN"}
    assert r2["smoothed counts", "ridge"][0] > 0.5
    assert all(low <= mean <= high for mean, low, high in r2.values())
    assert "day1, decoded and true" in text_of(run / "report.html")

    assert main(["evaluate", str(run.parent / "nowhere")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["probe", str(run), "--target", "hnad"]) == 2
    assert "has a behaviour 'hnad'; do you mean 'hand'?" in capsys.readouterr().err
    assert main(["probe", str(run), "--target", "hand", "--session", "day9"]) == 2
    assert "session 'day9' is not in the run" in capsys.readouterr().err


def test_run_leaves_out_what_needs_pictures(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["run", *options(data, out, held_out=[], pretrain=SHORT | {"steps": 2})]) == 0
    assert "shows pictures that are at hand: align, adapter, reconstruct are left out" in capsys.readouterr().out
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"window": {"window_ms": 305}}, "not a multiple of window.bin_ms"),
        ({"window": {"window_ms": 10**6}}, "has no window of 1000000 ms"),
        ({"model": MODEL | {"heads": 3}}, "model.heads"),
        ({"model": MODEL | {"chunk_ms": 0}}, "model.chunk_ms is 0"),
        ({"pretrain": SHORT | {"steps": -1}}, "pretrain.steps is -1"),
        ({"pretrain": SHORT | {"span_ms": [50, 20]}}, "pretrain.span_ms"),
    ],
)
def test_a_wrong_option_makes_nothing_and_blocks_nothing(data, tmp_path, capsys, wrong, sentence):
    out = tmp_path / "run"
    assert main(["pretrain", *options(data, out, **wrong)]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_a_start_that_came_to_nothing_does_not_bind_the_data(data, tmp_path, monkeypatch):
    """The folder was made, and the stage failed before it left anything: other data and options are taken."""
    out, other = tmp_path / "run", tmp_path / "other"
    monkeypatch.setattr("neurobridge.pipeline.pretraining.add_units", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["pretrain", *options(data, out)])
    monkeypatch.undo()
    assert (out / "inputs.json").is_file()
    write_recording(session("day5", seed=5), other / "sessions" / "day5.h5")
    assert main(["pretrain", *options(other, out, held_out=[], pretrain=SHORT | {"steps": 5})]) == 0


def test_a_recording_that_is_too_short_or_has_one_unit_still_gets_its_report(tmp_path, capsys):
    """No valid or test split, or no second unit to predict one from: said, not failed."""
    small, alone = tmp_path / "small", tmp_path / "alone"
    write_recording(session("day1", seed=1, seconds=9.0), small / "sessions" / "day1.h5")
    write_recording(session("day1", seed=1, seconds=60.0, units=2), alone / "sessions" / "day1.h5")
    for folder in (small, alone):
        out = folder / "run"
        arguments = options(folder, out, held_out=[], pretrain=SHORT | {"steps": 2})
        if folder == alone:
            only = session("day1", seed=1, seconds=60.0, units=2)
            mine = only.spike_units == 0
            only.spike_times, only.spike_units = only.spike_times[mine], only.spike_units[mine]
            only.unit_ids, only.regions = only.unit_ids[:1], only.regions[:1]
            write_recording(only, folder / "sessions" / "day1.h5")
        assert main(["pretrain", *arguments]) == 0
        assert "there is nothing to score" in " ".join(capsys.readouterr().out.split())
        assert main(["evaluate", str(out)]) == 0
        assert main(["report", str(out)]) == 0
        assert (out / "report.html").is_file()


@pytest.mark.parametrize("kind", ["sorted", "binned_count", "mua_envelope"])
def test_presentations_whose_pictures_are_not_at_hand(tmp_path, capsys, kind):
    """Onsets are known, so the PSTH is a rival; values have R2 in the place of bits/spike."""
    recording = session("day1", seed=3, seconds=90.0, units=6)
    start = np.arange(0.5, 89, 0.5)
    split = np.array(["train"] * 6 + ["valid", "test", "test"])[np.arange(len(start)) % 9]
    recording.stimuli = Stimuli(
        start=start, end=start + 0.3, image_id=np.array([f"grating{i % 9}" for i in range(len(start))]),
        repeat=np.arange(len(start)) // 9, split=split, valid=np.ones(len(start), bool),
    )  # fmt: skip
    if kind != "sorted":
        rng = np.random.default_rng(0)
        recording.signal_kind, recording.behaviour = kind, {}
        recording.spike_times = np.repeat(start + 0.15, 6)
        recording.spike_units = np.tile(np.arange(6), len(start))
        shared = rng.gamma(2.0, 2.0, len(start)).repeat(6)
        recording.spike_values = rng.poisson(shared).astype(np.float32)
    write_recording(recording, tmp_path / "data" / "sessions" / "day1.h5")
    out = tmp_path / "run"
    short = SHORT | {"steps": 6, "checkpoint_every": 2}
    assert main(["pretrain", *options(tmp_path / "data", out, held_out=[], pretrain=short)]) == 0
    said = capsys.readouterr().out
    assert ("time course of the unit" if kind == "sorted" else "ridge on the other units") in " ".join(said.split())
    assert main(["evaluate", str(out)]) == 0
    assert main(["report", str(out)]) == 0
    assert "Latents over time" in text_of(out / "report.html")
