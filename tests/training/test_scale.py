"""A moving average, parts of a batch, clipping, workers, blocks computed twice or compiled: each what it says it is."""

import copy
import os
import signal

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import IterableDataset

from neurobridge.data.datamodule import Batcher, Share, StepBatches
from neurobridge.errors import UserError
from neurobridge.neuro.layers import Block, rotary_phase
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.plan import made_up
from neurobridge.sealed import checkpoints, read_sealed
from neurobridge.training.blocks import blocks, need_compiler, rewrite
from neurobridge.training.ranges import check_ranges
from neurobridge.training.settings import AdaptSettings, RunSettings, TrainSettings, WindowSettings
from neurobridge.training.task import Task
from neurobridge.training.tasks import MaskedTask
from neurobridge.training.trainer import fit, read_metrics


class Numbers(IterableDataset):
    """For each step its number, plus ten for each share of the batch before this one."""

    def __init__(self, first: int, last: int, share: Share) -> None:
        self.first, self.last, self.share = first, last, share

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self):
        yield from (torch.full((1,), step + 10.0 * self.share.number) for step in range(self.first, self.last))


class Line(Task):
    """Eight steps in stretches of three; ``stop``: SIGTERM comes after that step."""

    def __init__(self, *, stop: int = 0) -> None:
        plain = {"steps": 8, "checkpoint_every": 3, "learning_rate": 0.1, "weight_decay": 0.0, "seed": 0}
        super().__init__(loader=Numbers, **plain)
        self.weight, self.stop = torch.nn.Parameter(torch.zeros(1)), stop
        self.seen: list[tuple[float, int, int]] = []
        self.course: list[torch.Tensor] = []

    def step_losses(self, batch, rng):
        self.seen.append((float(batch), *self.share))
        return {"loss": (self.weight - batch).square().sum()}

    def on_train_batch_end(self, *args) -> None:
        if self.share.number == self.parts - 1:
            self.course.append(self.weight.detach().clone())
        if self.stop and self.global_step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)


def train(out, task: Task, **options) -> Task:
    fit(task, stage="line", out=out, accelerator="cpu", **options)
    return task


def test_the_average_is_what_is_kept_and_goes_on_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole", Line(), average=0.9)
    mean = torch.zeros(1)
    for step, weight in enumerate(whole.course, 1):
        mean = mean.lerp(weight, 1 - min(0.9, step / (9 + step)))
    torch.testing.assert_close(whole.weight.detach(), mean)
    assert not torch.equal(whole.weight, whole.course[-1])
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", Line(stop=4), average=0.9)
    resumed = train(tmp_path / "stopped", Line(), average=0.9)
    assert torch.equal(resumed.weight, whole.weight)
    again = train(tmp_path / "stopped", Line(), average=0.9)
    assert torch.equal(again.weight, whole.weight), "nothing is left to do"
    kept = read_sealed(checkpoints(tmp_path / "stopped" / "checkpoints" / "line")[-1])
    assert torch.equal(kept["state_dict"]["weight"], whole.course[-1]), "the weights themselves are there too"
    assert torch.equal(kept["average"]["weight"], whole.weight)


def test_parts_of_a_batch_are_shares_whose_gradients_are_averaged(tmp_path):
    task = train(tmp_path, Line(), accumulate=2)
    assert task.seen[:4] == [(0.0, 0, 2), (10.0, 1, 2), (1.0, 0, 2), (11.0, 1, 2)]
    assert len(task.seen) == 16
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.98), weight_decay=0.0)
    for part in (0.0, 10.0):
        ((weight - part).square().sum() / 2).backward()
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    optimizer.step()
    torch.testing.assert_close(task.course[0], weight.detach())


def test_a_step_that_has_begun_is_finished_before_sigterm_ends_the_training(tmp_path):
    whole = train(tmp_path / "whole", Line(), accumulate=2)
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", Line(stop=4), accumulate=2)
    assert torch.equal(train(tmp_path / "stopped", Line(), accumulate=2).weight, whole.weight)


def test_the_largest_norm_is_an_option(tmp_path):
    courses = [torch.cat(train(tmp_path / str(clip), Line(), clip=clip).course) for clip in (0.0, 1.0, 30.0)]
    assert not torch.equal(courses[0], courses[1])
    assert torch.equal(courses[0], courses[2]), "below 30 nothing is clipped"


def test_a_step_that_overflows_in_float16_is_left_out_and_the_next_ones_are_scaled_down(tmp_path):
    task, scaler = Line(), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer = lightning.Trainer(
        max_epochs=task.stretches(0),
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        gradient_clip_val=1.0,
        reload_dataloaders_every_n_epochs=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task)
    assert scaler.get_scale() < 2.0**127
    assert torch.isfinite(torch.cat(task.course)).all()
    moved = torch.cat(task.course).diff() != 0
    assert moved[-1], "it learns once the scale fits"
    assert not moved.all(), "and did not before"


def spike_task(seed: int = 0) -> MaskedTask:
    """Four steps of a model with dropout on made-up spikes."""
    torch.manual_seed(seed)
    settings = RunSettings(window=WindowSettings(window_ms=100))
    session = made_up(0, 8, 20.0, settings)
    model = NeuroBridge(width=16, depth=2, heads=2, latents=2, unit_width=8, dropout=0.1)
    model.units.extend(session.recording.unit_keys, log_rates=torch.full((8,), -0.5))
    rows = {session.name: model.units.rows_of(session.recording.unit_keys)}
    batcher = Batcher([session], rows_of_units=rows, bin_ms=10)

    def loader(first: int, last: int, share: Share) -> StepBatches:
        options = {"split": "train", "windows": 8, "groups": 1, "seed": 0}
        return StepBatches(batcher, first=first, last=last, share=share, **options)

    plain = {"steps": 4, "checkpoint_every": 2, "learning_rate": 1e-2, "weight_decay": 0.01, "seed": 0}
    return MaskedTask(model, masker=Masker(), loader=loader, **plain)


def weights(task: Task) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in task.parameters()])


@pytest.mark.parametrize("options", [{"activation_checkpointing": True}, {"workers": 2}])
def test_what_spares_memory_or_time_leaves_every_bit_as_it_is(tmp_path, options):
    plain = train(tmp_path / "plain", spike_task())
    other = train(tmp_path / "other", spike_task(), **options)
    assert torch.equal(weights(plain), weights(other))
    assert all("forward" not in vars(part) for part in blocks(other)), "the task's own blocks are as they were"
    curves = [
        [(row["name"], row["step"], row["value"]) for row in read_metrics(tmp_path / name / "metrics.csv")]
        for name in ("plain", "other")
    ]
    assert curves[0] == curves[1]


class Dying(Numbers):
    """The process that reads step 4 is killed."""

    def __iter__(self):
        for step in range(self.first, self.last):
            if step == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            yield torch.full((1,), float(step))


def test_a_worker_that_dies_is_a_sentence_and_the_training_goes_on(tmp_path):
    task = Line()
    task.loader = Dying
    with pytest.raises(UserError, match=r"a process that reads batches has died.*fewer train\.workers"):
        train(tmp_path, task, workers=1)
    assert torch.equal(train(tmp_path, Line()).weight, train(tmp_path / "whole", Line()).weight)


def test_a_block_that_is_compiled_or_computed_twice_has_the_same_gradients():
    torch.manual_seed(0)
    block, phase = Block(16, 2), rotary_phase(torch.arange(12.0) * 10, 8)
    x = torch.randn(4, 12, 16)
    grads = []
    for twice, compiled in ((False, False), (True, False), (False, True), (True, True)):
        part = copy.deepcopy(block)
        rewrite([part], twice=twice, compiled=compiled)
        part(x.clone().requires_grad_(), phase=phase).square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in part.parameters()]))
    assert torch.equal(grads[0], grads[1])
    for found in grads[2:]:
        torch.testing.assert_close(found, grads[0], rtol=1e-4, atol=1e-4)


def test_no_compiler_is_a_sentence():
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    with (
        fresh_cache(),
        config.patch({"cpp.cxx": ("/nowhere/g++",)}),
        pytest.raises(UserError, match=r"nothing here that compiles .*install a C\+\+ compiler"),
    ):
        need_compiler()
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "16-mixed", "accelerator": "cpu"}, "precision is 16-mixed, and training runs on the CPU"),
        ({"train": TrainSettings(accumulate=8), "adapt": AdaptSettings(windows=7)}, "adapt.windows is 7, fewer than"),
        ({"train": TrainSettings(accumulate=0)}, "train.accumulate is 0: give 1 or more"),
        ({"train": TrainSettings(clip=-1.0)}, "train.clip is -1"),
    ],
)
def test_devices_that_cannot_train_as_asked_are_refused_at_the_start(options, said):
    with pytest.raises(UserError, match=said):
        check_ranges(RunSettings(**options))
