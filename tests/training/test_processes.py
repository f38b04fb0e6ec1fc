"""What two processes of one training draw alike and what each draws by itself; what they must agree on."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from neurobridge.sealed import checkpoints, read_sealed

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


RESUME = """
import os, shutil, sys
from pathlib import Path

import torch
from torch.utils.data import IterableDataset

from neurobridge.neuro.layers import Block
from neurobridge.training.task import Task
from neurobridge.training.trainer import fit


class Rows(IterableDataset):
    # of every step four rows, of which a share is asked for
    def __init__(self, first, last, share):
        self.first, self.last, self.share = first, last, share

    def __len__(self):
        return self.last - self.first

    def __iter__(self):
        for step in range(self.first, self.last):
            rows = torch.randint(0, 5, (4,), generator=torch.Generator().manual_seed(step))
            yield rows[self.share.number :: self.share.of]


class Small(Task):
    # a table of five units whose rows move alone, a block, and a scalar
    def __init__(self):
        plain = {"steps": 6, "checkpoint_every": 2, "learning_rate": 0.01, "weight_decay": 0.01, "seed": 0}
        super().__init__(loader=Rows, **plain)
        torch.manual_seed(0)
        self.table, self.block = torch.nn.Parameter(torch.randn(5, 8)), Block(8, 2)
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def groups(self):
        rest = [self.scale, *self.block.parameters()]
        return [{"params": [self.table], "rows": True, "lr": 0.1}, {"params": rest}]

    def step_losses(self, batch, rng):
        drawn = self.block(self.table[batch][:, None])[:, 0]
        away = (drawn - batch[:, None]).square().mean()
        return {"loss": away + (self.scale - 3.0).square()}


def train(out, **options):
    task = Small()
    fit(task, stage="small", out=out, accelerator="cpu", average=0.9, **options)
    return task


if __name__ == "__main__":
    train(Path(sys.argv[1]), devices=2, strategy="fsdp")
"""


def test_cut_weights_go_on_from_whole_ones_and_back(tmp_path: Path):
    """Moments of rows, of blocks and of a scalar, and averages: all are whole in a checkpoint, and cut when read."""
    script = tmp_path / "small.py"
    script.write_text(RESUME)
    train = runpy.run_path(str(script))["train"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    one = train(whole).state_dict()
    assert [path.name for path in checkpoints(whole / "checkpoints" / "small")] == ["step=4.ckpt", "step=6.ckpt"]
    shutil.copytree(whole, cut)
    (cut / "checkpoints" / "small" / "step=6.ckpt").unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([sys.executable, str(script), str(cut)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs, ours = (read_sealed(run / "checkpoints" / "small" / "step=6.ckpt") for run in (whole, cut))
    assert theirs["state_dict"].keys() == ours["state_dict"].keys() == ours["average"].keys()
    for group in ("state_dict", "average"):
        for name, value in theirs[group].items():
            torch.testing.assert_close(ours[group][name], value, rtol=1e-4, atol=1e-5)
    for number, moments in theirs["optimizer_states"][0]["state"].items():
        for name, value in moments.items():
            found = ours["optimizer_states"][0]["state"][number][name]
            assert type(found) is torch.Tensor
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5)
    for name, value in train(cut).state_dict().items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-5)
