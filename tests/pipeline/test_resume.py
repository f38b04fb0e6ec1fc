"""Every stage resumes after kill -9 and ends where an uninterrupted run ends; Ctrl-C is answered by one sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

STAGES = ("pretrain", "adapt", "align", "adapter", "reconstruct", "evaluate", "report")


def command(config: Path, out: Path) -> list[str]:
    return [sys.executable, "-u", "-m", "neurobridge", "run", "--config", str(config), "--out", str(out)]


def start(config: Path, out: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command(config, out), env=environment, stdout=pipe, stderr=pipe, text=True)


def under_way(out: Path, stage: str) -> bool:
    """A checkpoint of the stage exists, or it has none and the stage before is done; and it is not finished itself."""
    if (out / stage / "done.json").is_file():
        return True
    if stage in ("pretrain", "adapt", "align"):
        return any((out / "checkpoints" / stage).glob("*.ckpt"))
    before = STAGES[STAGES.index(stage) - 1]
    return (out / before / "done.json").is_file()


@pytest.mark.slow
def test_killed_in_every_stage_a_run_ends_where_an_uninterrupted_one_ends(tiny_config, tmp_path):
    config = tiny_config()
    whole = start(config, tmp_path / "whole")
    output = whole.communicate(timeout=300)
    assert whole.returncode == 0, output

    out, in_the_middle = tmp_path / "killed", 0
    for stage in STAGES:
        process = start(config, out)
        while not under_way(out, stage) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        in_the_middle += not (out / stage / "done.json").is_file()
    assert in_the_middle >= 5, "most kills landed inside their stage"
    last = start(config, out)
    output = last.communicate(timeout=300)
    assert last.returncode == 0, output

    for name in ("pretrain/model", "adapt/model", "align/model", "align/head", "adapter/adapter", "adapter/generator"):
        one, other = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "killed"))
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_allclose(one[key], other[key], rtol=0, atol=1e-6, err_msg=f"{name} {key}")
    results = [json.loads((tmp_path / run / "evaluate" / "results.json").read_text()) for run in ("whole", "killed")]
    assert json.dumps(results[0]) == json.dumps(results[1])
    steps = [line.split(",")[:3] for line in (out / "metrics.csv").read_text().splitlines()]
    assert len(steps) == len({tuple(step) for step in steps}), "no step is in metrics.csv twice"
    assert not list(out.rglob("*.part"))
    assert (out / "report.html").stat().st_size > 50_000


@pytest.mark.slow
def test_ctrl_c_is_one_sentence_and_resumes(tiny_config, tmp_path):
    config, out = (
        tiny_config(pretrain={"steps": 4000, "windows": 16, "groups": 2, "checkpoint_every": 10}),
        tmp_path / "run",
    )
    process = start(config, out)
    while not under_way(out, "pretrain") and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert any((out / "checkpoints" / "pretrain").glob("*.ckpt"))
