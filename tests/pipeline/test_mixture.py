"""Pretraining on three data folders: spikes, spikes and values, in two kinds of window; the same when resumed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from neurobridge.cli import main
from neurobridge.data.datamodule import Share
from neurobridge.data.recording import Recording, Stimuli, read_recording, write_recording
from neurobridge.data.simulate import simulate
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.pretraining import pretrain
from neurobridge.pipeline.spikes import add_units, fit_here, make_model, mixture_sessions, spike_task
from neurobridge.sealed import checkpoints
from neurobridge.training.settings import (
    MixtureSettings,
    ModelSettings,
    PretrainSettings,
    RunSettings,
    WindowSettings,
)
from neurobridge.training.trainer import read_metrics


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    sizes = {"images": 30, "test_images": 5, "test_repeats": 2, "valid_images": 5, "sessions": 1, "electrodes": 12}
    out = simulate(tmp_path_factory.mktemp("mixture") / "other", seed=8, **sizes)
    for file in (out / "sessions").glob("*.h5"):  # another brain than tiny_data's, so of another data set
        write_recording(replace(read_recording(file), dataset="other"), file)
    return out


@pytest.fixture(scope="module")
def valued(tmp_path_factory) -> Path:
    """Counts of six units, one value a unit and presentation; its session is named as one of the simulation."""
    out, rng = tmp_path_factory.mktemp("mixture") / "valued", np.random.default_rng(0)
    start = np.arange(80) * 0.2
    recording = Recording(
        dataset="counts", subject="s", session="monkeyA_1", signal_kind="binned_count",
        spike_times=np.repeat(start + 0.05, 6), spike_units=np.tile(np.arange(6), 80),
        spike_values=rng.poisson(3.0, size=480).astype(np.float32), unit_ids=np.array(list("abcdef")),
        regions=np.full(6, "V4"), duration=(0.0, 16.0),
        stimuli=Stimuli(
            start=start, end=start + 0.1, image_id=np.full(80, ""), repeat=np.zeros(80, int),
            split=np.array((["train"] * 7 + ["valid"]) * 10), valid=np.ones(80, bool),
        ),
    )  # fmt: skip
    write_recording(recording, out / "sessions" / "monkeyA_1.h5")
    return out


@pytest.fixture
def mixed(tiny_data, other, valued, tmp_path) -> RunSettings:
    return RunSettings(
        data=tiny_data,
        out=tmp_path / "run",
        held_out=["monkeyB_2"],
        model=ModelSettings(width=16, depth=1, heads=2, latents=2, unit_width=8),
        pretrain=PretrainSettings(steps=20, windows=16, groups=4, checkpoint_every=10),
        mixture=MixtureSettings(
            data=[other, valued],
            windows={"valued": WindowSettings(window_ms=100, bin_ms=100)},
            weights={"other": [(0, 0.5), (20, 1.0)]},
            max_events=20_000,
            random_starts=True,
        ),
    )


def test_the_command_line_takes_a_mixture(tiny_config, tiny_data, valued, tmp_path):
    mixture = {
        "data": [str(valued)],
        "windows": {"valued": {"window_ms": 100, "bin_ms": 100}},
        "weights": {"valued": [[0, 0], [2, 1.5]]},
        "max_events": 5000,
    }
    steps = {"steps": 4, "windows": 8, "groups": 2, "checkpoint_every": 4}
    config = str(tiny_config(pretrain=steps, mixture=mixture))
    assert main(["pretrain", "--config", config, "--out", str(tmp_path / "run"), "--mixture.random_starts"]) == 0
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["mixture"]
    assert written["weights"] == {"valued": [[0.0, 0.0], [2.0, 1.5]]}
    assert written["windows"]["valued"]["bin_ms"] == 100
    assert written["random_starts"] is True
    assert main(["pretrain", "--config", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "run")]) == 0


def test_three_folders_pretrain_together_and_resume(mixed, tmp_path):
    whole, stopped = (RunFolder(replace(mixed, out=tmp_path / name)) for name in ("whole", "stopped"))
    pretrain(whole)
    assert "valued/monkeyA_1" in whole.facts("pretrain")["sessions"], "two sessions of a name are told apart"
    rows = [row for row in read_metrics(whole / "metrics.csv") if row["name"] == "train/loss"]
    assert all(np.isfinite(float(row["value"])) for row in rows)

    sessions = mixture_sessions(mixed)
    torch.manual_seed(mixed.seed)
    model = make_model(mixed)
    add_units(model, sessions, mixed)
    task = spike_task(model, sessions, mixed, only_units=False)
    batches = task.loader

    def until_ten(first: int, last: int, rank: int):
        if first >= 10:
            raise KeyboardInterrupt
        return batches(first, last, rank)

    task.loader = until_ten
    with pytest.raises(KeyboardInterrupt):
        fit_here(task, "pretrain", stopped)
    assert checkpoints(stopped / "checkpoints" / "pretrain")[-1].name == "step=10.ckpt"
    pretrain(stopped)
    one, other = (load_file(run / "pretrain" / "model.safetensors") for run in (whole, stopped))
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-6)


def test_a_mixed_step_is_the_mean_over_its_windows(mixed):
    sessions = mixture_sessions(mixed)
    model = make_model(mixed)
    add_units(model, sessions, mixed)
    task = spike_task(model, sessions, mixed, only_units=False)
    step = next(parts for parts in task.loader(0, 20, Share()) if len(parts) == 2)
    assert {(part.window_ms, part.event_value is None) for part in step} == {(300, True), (100, False)}
    mean = task.step_losses(step, np.random.default_rng(0))["loss"]
    rng = np.random.default_rng(0)
    parts = [(task.losses(part, rng)["loss"], part.windows) for part in step]
    assert mean.item() == pytest.approx(sum(loss.item() * n for loss, n in parts) / sum(n for _, n in parts), rel=1e-5)


def run(config: Path, out: Path) -> int:
    return main(["pretrain", "--config", str(config), "--out", str(out)])


def test_folders_that_cannot_be_mixed(capsys, tiny_config, tiny_data, valued, tmp_path):
    twin = tmp_path / "twin" / valued.name
    shutil.copytree(valued, twin)
    assert run(tiny_config(mixture={"data": [str(valued), str(twin)]}), tmp_path / "one") == 2
    assert "two data folders are named 'valued'" in capsys.readouterr().err
    wrong = tiny_config(mixture={"data": [str(valued)], "windows": {tiny_data.name: {"window_ms": 100}}})
    assert run(wrong, tmp_path / "two") == 2
    assert f"mixture.windows names '{tiny_data.name}'" in capsys.readouterr().err
    shutil.copytree(valued, tmp_path / "copy")
    assert run(tiny_config(mixture={"data": [str(valued), str(tmp_path / "copy")]}), tmp_path / "four") == 2
    assert "copy/monkeyA_1 and valued/monkeyA_1 are one session, counts/s/monkeyA_1" in capsys.readouterr().err
    wrong = tiny_config(mixture={"data": [str(valued)], "weights": {"nobody": [[0, 1]]}})
    assert run(wrong, tmp_path / "three") == 2
    assert "mixture.weights names 'nobody'" in capsys.readouterr().err
