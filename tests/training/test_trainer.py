"""Ctrl-C, wherever it lands, ends training as a KeyboardInterrupt and leaves a checkpoint to go on from."""

import signal

import pytest
import torch

from neurobridge.sealed import checkpoints
from neurobridge.training.task import Task
from neurobridge.training.trainer import fit


class Batches(torch.utils.data.IterableDataset):
    """Five batches of one number; Ctrl-C comes when the second stretch is opened, or inside it."""

    def __init__(self, first: int, place: str) -> None:
        self.first, self.place = first, place

    def __iter__(self):
        if self.first and self.place == "opened":
            raise KeyboardInterrupt
        return self.batches()

    def batches(self):
        for step in range(5):
            if self.first and step == 2 and self.place == "read":
                raise KeyboardInterrupt
            yield torch.ones(1)


class Line(Task):
    def __init__(self, place: str) -> None:
        plain = {"steps": 10, "checkpoint_every": 5, "learning_rate": 0.1, "weight_decay": 0.0, "seed": 0}
        super().__init__(loader=lambda first, last, share: Batches(first, place), **plain)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def step_losses(self, batch, rng):
        return {"loss": (self.weight - batch).square().sum()}


@pytest.mark.parametrize("place", ["opened", "read"])
def test_ctrl_c_between_two_stretches_and_inside_one(tmp_path, place):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(place), stage="line", out=tmp_path, accelerator="cpu")
    assert signal.getsignal(signal.SIGINT) is handler, "a second Ctrl-C is heard too"
    assert checkpoints(tmp_path / "checkpoints" / "line")[-1].name == "step=5.ckpt"
    fit(Line("nowhere"), stage="line", out=tmp_path, accelerator="cpu")
    assert checkpoints(tmp_path / "checkpoints" / "line")[-1].name == "step=10.ckpt"


def test_one_ctrl_c_waits_for_the_step_and_two_do_not(tmp_path):
    task, seen = Line("nowhere"), []

    def losses(batch, rng):
        for _ in range(1 + (len(seen) == 7)):
            if len(seen) >= 6:
                signal.raise_signal(signal.SIGINT)
        seen.append(batch)
        return {"loss": (task.weight - batch).square().sum()}

    task.step_losses = losses
    with pytest.raises(KeyboardInterrupt):
        fit(task, stage="line", out=tmp_path, accelerator="cpu")
    assert len(seen) == 7, "the seventh step was finished, the eighth not begun"
    with pytest.raises(KeyboardInterrupt):
        fit(task, stage="line", out=tmp_path, accelerator="cpu")
    assert len(seen) == 7, "the second one came inside the step"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_errors_stay_what_they_are(tmp_path):
    task = Line("nowhere")
    task.step_losses = lambda batch, rng: {"loss": batch.sum()}
    with pytest.raises(RuntimeError, match="does not require grad"):
        fit(task, stage="line", out=tmp_path, accelerator="cpu")
