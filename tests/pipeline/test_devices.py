"""Two processes train together through the command line, and so does bfloat16; each for more than a step."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from neurobridge.cli import main
from neurobridge.training.trainer import read_metrics


def two_devices(stage: str, config: Path, out: Path) -> None:
    """One stage of a run on two CPU processes."""
    options = ["--config", str(config), "--out", str(out), "--accelerator", "cpu", "--devices", "2"]
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


def test_two_processes_pretrain(short, tmp_path):
    """The second value of spikes has no gradient, which all processes have to agree on at every step."""
    out = tmp_path / "run"
    two_devices("pretrain", short, out)
    sound(out, "pretrain")
    assert main(["pretrain", "--config", str(short), "--out", str(tmp_path / "one"), "--accelerator", "cpu"]) == 0
    two, one = (valid_losses(folder) for folder in (out, tmp_path / "one"))
    assert one.keys() == two.keys()
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4, err_msg="they shared one batch")


@pytest.mark.slow
def test_two_processes_adapt_and_align_in_both_stages(short, tmp_path):
    for stage in ("pretrain", "adapt", "align"):
        two_devices(stage, short, tmp_path / "run")
        sound(tmp_path / "run", stage)


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
