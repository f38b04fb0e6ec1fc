"""What two processes of one training draw alike and what each draws by itself; what they must agree on."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, sys
from pathlib import Path

import torch
from torch.utils.data import IterableDataset

from neurobridge.errors import UserError
from neurobridge.training.task import Task
from neurobridge.training.trainer import fit

out, strategy = Path(sys.argv[1]), sys.argv[2]
rank = int(os.environ.get("LOCAL_RANK", 0))


class Numbers(IterableDataset):
    def __init__(self, first, last, share):
        self.first, self.last, self.share = first, last, share

    def __len__(self):
        return self.last - self.first

    def __iter__(self):
        yield from (torch.tensor([float(self.share.number), float(step)]) for step in range(self.first, self.last))


class Line(Task):
    def __init__(self, names):
        plain = {"steps": 2, "checkpoint_every": 2, "learning_rate": 0.1, "weight_decay": 0.0, "seed": 0}
        super().__init__(loader=Numbers, **plain)
        self.weight, self.known, self.seen = torch.nn.Parameter(torch.zeros(3, 2)), names, []

    def names(self):
        return self.known

    def step_losses(self, batch, rng):
        self.seen.append({"batch": batch.tolist(), "own": float(torch.rand(1)), "shared": float(rng.random())})
        return {"loss": (self.weight - batch).square().sum()}


def train(names, folder):
    task = Line(names)
    fit(task, stage="line", out=out / folder, accelerator="cpu", devices=2, strategy=strategy, accumulate=2)
    return task


task = train(["a", "b"], "alike")
found = {"seen": task.seen, "weight": task.weight.tolist()}
try:
    train(["a", "b"][:: 1 - 2 * rank], "other")
except UserError as error:
    found["said"] = str(error)
(out / f"{rank}.json").write_text(json.dumps(found))
"""


def test_two_processes_draw_masks_alike_and_noise_apart_and_refuse_other_units(tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(script), str(tmp_path), "fsdp"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    both = [*one["seen"], *two["seen"]]
    assert [seen["batch"] for seen in one["seen"]] == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert [seen["batch"] for seen in two["seen"]] == [[2, 0], [3, 0], [2, 1], [3, 1]]
    assert len({seen["own"] for seen in both}) == 8, "dropout differs between processes, parts and steps"
    assert len({seen["shared"] for seen in both}) == 2, "masks are those of the step"
    assert one["weight"] == two["weight"] != [[0, 0]] * 3
    for found in (one, two):
        assert "see different units or options" in found["said"]
