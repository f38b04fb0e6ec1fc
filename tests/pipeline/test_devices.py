"""Two processes train together through the command line, and so does bfloat16; each for more than a step."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from neurobridge.cli import main
from neurobridge.sealed import checkpoints, read_sealed, step_of
from neurobridge.training.trainer import read_metrics


def two_devices(stage: str, config: Path, out: Path, *more: str) -> None:
    """One stage of a run on two CPU processes."""
    options = ["--config", str(config), "--out", str(out), "--accelerator", "cpu", "--devices", "2", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "neurobridge", stage, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count(f"{stage} ...") == 1, "one process speaks"


def sound(out: Path, stage: str) -> None:
    """The stage's model is there and finite; its steps were logged by one process; nothing half-written is left."""
    for values in load_file(out / stage / "model.safetensors").values():
        assert np.isfinite(values).all()
    assert not list(out.rglob("*.part"))
    rows = [(row["stage"], row["step"], row["name"]) for row in read_metrics(out / "metrics.csv")]
    assert len(rows) == len(set(rows))


def valid_losses(out: Path) -> dict[tuple[str, str], float]:
    """Losses of the valid split, which differ as the weights do."""
    rows = [row for row in read_metrics(out / "metrics.csv") if row["name"].startswith("valid/")]
    assert rows
    return {(row["name"], row["step"]): float(row["value"]) for row in rows}


@pytest.fixture
def short(tiny_config) -> Path:
    """Three steps a training, in two stretches."""
    path = tiny_config()
    config = yaml.safe_load(path.read_text())
    for stage in ("pretrain", "adapt", "align"):
        config[stage] |= {"steps": 3, "checkpoint_every": 2}
    config["align"] |= {"joint_steps": 3, "dropout": 0.0, "unit_dropout": 0.0}  # each process would draw its own
    path.write_text(yaml.safe_dump(config))
    return path


def one_device(stage: str, config: Path, out: Path) -> None:
    assert main([stage, "--config", str(config), "--out", str(out), "--accelerator", "cpu"]) == 0


def alike(two: dict, one: dict, why: str) -> None:
    assert one.keys() == two.keys()
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4, err_msg=why)


def test_two_processes_pretrain(short, tmp_path):
    """The second value of spikes has no gradient, which all processes have to agree on at every step."""
    out = tmp_path / "run"
    two_devices("pretrain", short, out)
    sound(out, "pretrain")
    one_device("pretrain", short, tmp_path / "one")
    alike(valid_losses(out), valid_losses(tmp_path / "one"), "they shared one batch")


def test_processes_that_cut_the_weights_go_on_from_one_that_does_not_and_back(short, tmp_path):
    """Checkpoints are those of one process, whoever wrote them: every weight, moment and average, whole."""
    config = yaml.safe_load(short.read_text())
    config["pretrain"] |= {"average": 0.9, "steps": 6}
    short.write_text(yaml.safe_dump(config))
    whole, out = tmp_path / "whole", tmp_path / "run"
    one_device("pretrain", short, whole)
    folder = whole / "checkpoints" / "pretrain"
    assert [path.name for path in checkpoints(folder)] == ["step=4.ckpt", "step=6.ckpt"]
    shutil.copytree(whole, out)
    shutil.rmtree(out / "pretrain")
    (out / "checkpoints" / "pretrain" / "step=6.ckpt").unlink()
    two_devices("pretrain", short, out, "--train.strategy", "fsdp")
    sound(out, "pretrain")
    alike(valid_losses(out), valid_losses(whole), "step 6 by two processes")
    one, two = (read_sealed(run / "checkpoints" / "pretrain" / "step=6.ckpt") for run in (whole, out))
    same_shapes(one, two)
    one, two = (load_file(run / "pretrain" / "model.safetensors") for run in (whole, out))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=1e-3, err_msg=name)  # a step of Adam
    config["pretrain"]["steps"] = 8
    short.write_text(yaml.safe_dump(config))
    for run in (whole, out):
        one_device("pretrain", short, run)
    alike(valid_losses(out), valid_losses(whole), "steps 7 and 8 by one process")


def same_shapes(one: object, two: object) -> None:
    """Both hold the same names and tensors of the same shapes, on the CPU."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name, value in one.items():
            same_shapes(value, two[name])
    elif isinstance(one, torch.Tensor):
        assert type(two) is torch.Tensor
        assert (one.shape, one.dtype, two.device.type) == (two.shape, two.dtype, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_every_stage(short, tmp_path, strategy):
    config = yaml.safe_load(short.read_text())
    config["generator"] = {"adapter_steps": 3, "sketch_steps": 3, "batch": 8}
    short.write_text(yaml.safe_dump(config))
    one, two = tmp_path / "one", tmp_path / "two"
    for stage in ("pretrain", "adapt", "align", "adapter"):
        if stage != "pretrain":
            shutil.copytree(one, two, dirs_exist_ok=True)
        two_devices(stage, short, two, "--train.strategy", strategy)
        if stage != "adapter":
            sound(two, stage)
        one_device(stage, short, one)
        alike(valid_losses(two), valid_losses(one), stage)
    ours, theirs = (load_file(run / "adapter" / "adapter.safetensors") for run in (two, one))
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_sigterm_saves_the_adapter(short, tmp_path):
    config = yaml.safe_load(short.read_text())
    config["generator"] = {"adapter_steps": 100, "sketch_steps": 5000, "batch": 8}
    short.write_text(yaml.safe_dump(config))
    for stage in ("pretrain", "adapt", "align"):
        one_device(stage, short, tmp_path / "run")
    out = Path(shutil.copytree(tmp_path / "run", tmp_path / "again"))  # which this process does not hold
    options = ["--config", str(short), "--out", str(out), "--accelerator", "cpu"]
    running = subprocess.Popen([sys.executable, "-m", "neurobridge", "adapter", *options], stderr=subprocess.PIPE)
    while not (found := list((out / "checkpoints" / "adapter").glob("*/step=*.ckpt"))):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=120)[1].decode()
    assert running.returncode == 143, said
    assert "run the same command again to go on from here" in said
    last = checkpoints(found[0].parent)[-1]
    assert step_of(last) < 5100, "saved before its end"
    assert "Traceback" not in said


def test_bfloat16_trains_for_twenty_steps(tiny_config, tmp_path):
    path = tiny_config()
    config = yaml.safe_load(path.read_text())
    for stage in ("pretrain", "adapt"):
        config[stage] |= {"steps": 20, "checkpoint_every": 20}
    config["align"] |= {"steps": 20, "joint_steps": 20}
    path.write_text(yaml.safe_dump(config))
    for stage in ("pretrain", "adapt", "align"):
        options = ["--config", str(path), "--out", str(tmp_path / "run"), "--accelerator", "cpu"]
        assert main([stage, *options, "--precision", "bf16-mixed"]) == 0
        sound(tmp_path / "run", stage)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.csv") if row["name"] == "train/loss"]
    assert {row["stage"] for row in rows} == {"pretrain", "adapt", "align", "align-joint"}
    assert np.isfinite([float(row["value"]) for row in rows]).all()
