"""Checkpoints that were cut, altered or come from elsewhere are named and the one before is taken; nothing is lost."""

import os
import resource
import signal

import numpy as np
import pytest
import torch

from neurobridge.errors import UserError
from neurobridge.sealed import checkpoints, read_sealed
from neurobridge.training.checkpoints import beyond_chance
from neurobridge.training.task import Task
from neurobridge.training.trainer import fit


class Numbers(torch.utils.data.IterableDataset):
    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self):
        yield from (torch.full((1,), float(step)) for step in range(self.first, self.last))


class Line(Task):
    """Twelve steps in stretches of three; ``stop``: what happens after that step."""

    def __init__(self, *, stop: int = 0, how: signal.Signals = signal.SIGTERM, width: int = 1, **options) -> None:
        plain = {"steps": 12, "checkpoint_every": 3, "learning_rate": 0.1, "weight_decay": 0.0, "seed": 0} | options
        super().__init__(loader=lambda first, last, share: Numbers(first, last), **plain)
        self.weight, self.stop, self.how = torch.nn.Parameter(torch.zeros(width)), stop, how
        self.seen = []

    def step_losses(self, batch, rng):
        self.seen.append(int(batch))
        noise = torch.rand(1) + rng.random()  # the step's own
        return {
            "line": (self.weight - batch * noise).square().sum(),
            "loss": (self.weight - batch * noise).square().sum(),
        }

    def on_train_batch_end(self, *args) -> None:
        if self.global_step == self.stop:
            os.kill(os.getpid(), self.how)


def train(out, task: Task) -> Task:
    fit(task, stage="line", out=out, accelerator="cpu")
    return task


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> torch.Tensor:
    return train(tmp_path_factory.mktemp("whole"), Line()).weight.detach()


def names(out) -> list[str]:
    return [path.name for path in checkpoints(out / "checkpoints" / "line")]


@pytest.mark.parametrize("stop", [1, 5, 6, 12])
def test_sigterm_saves_where_it_is_and_the_resumed_run_is_the_same(tmp_path, whole, stop):
    with pytest.raises(SystemExit) as left:
        train(tmp_path, Line(stop=stop))
    assert left.value.code == 143
    assert names(tmp_path)[-1] == f"step={stop}.ckpt"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again = train(tmp_path, Line())
    assert again.seen == list(range(stop, 12)), "no step is done twice"
    assert torch.equal(again.weight, whole)
    assert names(tmp_path) == ["step=9.ckpt", "step=12.ckpt"], "the last two are kept"


def spoil(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "emptied":
        content = b""
    elif how == "flipped":
        content[len(content) // 3] ^= 4
    elif how == "seal":
        content[-1] ^= 1
    elif how == "garbage":
        content = b"not a checkpoint" * 100
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped", "seal", "garbage"])
def test_a_spoilt_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, whole, capsys, how):
    with pytest.raises(SystemExit):
        train(tmp_path, Line(stop=8))
    newest = tmp_path / "checkpoints" / "line" / "step=8.ckpt"
    spoil(newest, how)
    again = train(tmp_path, Line())
    assert again.seen[0] == 6
    assert torch.equal(again.weight, whole)
    assert str(newest) in capsys.readouterr().err
    assert newest.with_suffix(".ckpt.unusable").exists()


def test_when_all_are_spoilt_training_starts_anew(tmp_path, whole, capsys):
    with pytest.raises(SystemExit):
        train(tmp_path, Line(stop=8))
    for path in checkpoints(tmp_path / "checkpoints" / "line"):
        spoil(path, "flipped")
    again = train(tmp_path, Line())
    assert again.seen[0] == 0
    assert torch.equal(again.weight, whole)
    assert capsys.readouterr().err.count("cannot be used") == 2


@pytest.mark.parametrize("other", [{"width": 2}, {"seed": 1}, {"checkpoint_every": 4}])
def test_a_checkpoint_of_another_training_is_foreign(tmp_path, capsys, other):
    with pytest.raises(SystemExit):
        train(tmp_path, Line(stop=4, **other))
    assert train(tmp_path, Line()).seen[0] == 0
    assert "belongs to another training" in capsys.readouterr().err


def test_more_steps_go_on_where_fewer_ended(tmp_path, capsys):
    assert train(tmp_path, Line(steps=7)).seen == list(range(7))
    assert train(tmp_path, Line(steps=12)).seen == list(range(7, 12))
    assert "line: goes on from step 7 of 12" in capsys.readouterr().out
    assert train(tmp_path, Line(steps=12)).seen == []
    again = train(tmp_path, Line(steps=10))
    assert again.seen == [9], "what was trained beyond is set aside"


def test_a_loss_that_is_no_number_stops_at_once_and_names_step_and_mode(tmp_path, whole):
    class Broken(Line):
        def step_losses(self, batch, rng):
            losses = super().step_losses(batch, rng)
            if self.global_step == 7:
                losses |= {"temporal": losses["line"], "line": losses["line"] / 0, "loss": losses["loss"] / 0}
            return losses

    task = Broken()
    with pytest.raises(UserError, match=r"line stopped at step 8, where the loss of line is no finite number"):
        train(tmp_path, task)
    assert torch.isfinite(task.weight).all()
    assert names(tmp_path) == ["step=3.ckpt", "step=6.ckpt"]
    assert torch.equal(train(tmp_path, Line()).weight, whole)


def test_a_gradient_that_is_no_number_stops_too(tmp_path):
    class Steep(Line):
        def step_losses(self, batch, rng):
            return {"loss": (self.weight - 1.0).abs().sum() + (0 * self.weight).sqrt().sum()}

    with pytest.raises(UserError, match="step 1, where a gradient is no finite number"):
        train(tmp_path, Steep())


def test_a_full_disk_is_a_sentence_and_nothing_half_written_stays(tmp_path, whole):
    """The size limit of files stands for the disk: both fail inside of write."""
    with pytest.raises(SystemExit):
        train(tmp_path, Line(stop=4))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "checkpoints" / "line" / "step=4.ckpt").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 500, before[1]))
    try:
        with pytest.raises(UserError, match="is full: free some space"):
            train(tmp_path, Line())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step=3.ckpt", "step=4.ckpt"]
    assert not list(tmp_path.rglob("*.part"))
    assert torch.equal(train(tmp_path, Line()).weight, whole)


class Judged(Line):
    """Its valid loss is lowest at step 6, of those that are judged; 7 and 8 are within a stretch."""

    def on_train_epoch_end(self) -> None:
        self.valid_loss = float(abs(self.global_step - 7.4))


@pytest.mark.parametrize("stop", [0, 4, 6, 7, 8, 11, 12])
def test_training_ends_with_the_weights_of_the_lowest_valid_loss_and_goes_on_from_the_last(tmp_path, stop):
    at_six = train(tmp_path / "short", Line(steps=12, stop=0)).weight  # the whole: its course is the same
    with pytest.raises(SystemExit):
        train(tmp_path / "six", Line(stop=6))
    six = read_sealed(tmp_path / "six" / "checkpoints" / "line" / "step=6.ckpt")["state_dict"]["weight"]
    if stop:
        with pytest.raises(SystemExit):
            train(tmp_path, Judged(stop=stop))
    task = Judged()
    assert fit(task, stage="line", out=tmp_path, accelerator="cpu") == 6
    assert task.seen == list(range(stop, 12))
    assert torch.equal(task.weight, six)
    assert not torch.equal(task.weight, at_six)
    last = read_sealed(tmp_path / "checkpoints" / "line" / "step=12.ckpt")["state_dict"]["weight"]
    assert torch.equal(last, at_six), "the last state is there to go on from"
    again = Judged()
    assert fit(again, stage="line", out=tmp_path, accelerator="cpu") == 6
    assert again.seen == []
    assert torch.equal(again.weight, six)


def test_what_was_best_after_a_step_that_is_lost_is_made_again(tmp_path, capsys):
    train(tmp_path, Judged())
    folder = tmp_path / "checkpoints" / "line"
    (folder / "step=12.ckpt").unlink()
    (folder / "step=9.ckpt").rename(folder / "step=3.ckpt")  # as if it had been killed early, with a best from later on
    spoil(folder / "best.ckpt", "flipped")
    assert fit(Judged(), stage="line", out=tmp_path, accelerator="cpu") == 12, "what is left to judge"
    assert "best.ckpt, the best weights so far, cannot be used" in capsys.readouterr().err


def test_more_steps_may_do_better_than_the_best_so_far(tmp_path):
    class Falling(Line):
        def on_train_epoch_end(self) -> None:
            self.valid_loss = {3: 2.0, 6: 1.0, 7: 1.5, 9: 1.2, 12: 0.5}[self.global_step]

    assert fit(Falling(steps=7), stage="line", out=tmp_path, accelerator="cpu") == 6
    longer = Falling(steps=9)
    assert fit(longer, stage="line", out=tmp_path, accelerator="cpu") == 6
    assert longer.seen == [7, 8], "it goes on from the last state, not from the best"
    assert fit(Falling(steps=12), stage="line", out=tmp_path, accelerator="cpu") == 12


def test_what_was_lower_by_chance_is_not_better():
    """Of a short recording the parts disagree: weights of an early step are taken where most of them say so alone."""
    rng = np.random.default_rng(0)
    parts = rng.normal(0.7, 0.2, 8)
    assert beyond_chance(parts, parts + rng.normal(0.02, 0.005, 8))
    assert not beyond_chance(parts, parts + rng.normal(0.002, 0.02, 8))
    assert beyond_chance([], []), "where nothing is known of parts, every difference counts"
