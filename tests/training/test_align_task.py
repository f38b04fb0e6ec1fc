"""Alignment as a task: the default loss, several animals in a batch, stages, and negatives from two processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from neurobridge.bridge.alignment import AlignmentHead
from neurobridge.bridge.contrastive import info_nce
from neurobridge.neuro.batch import SpikeBatch, collate_windows
from neurobridge.neuro.masking import nothing_hidden
from neurobridge.neuro.model import NeuroBridge
from neurobridge.training.align_task import AlignTask

IMAGES = [[0, 1, 2, 0], [1, 3, 4, 5]]  # of two sessions; images 0 and 1 are repeated, within and across


def two_animals(groups=(0, 1)) -> SpikeBatch:
    rng = np.random.default_rng(0)
    every = [[(rng.integers(0, n, 30), rng.integers(0, 100, 30), None) for _ in range(4)] for n in (3, 3)]
    return collate_windows(
        unit_rows=[[[0, 1, 2], [3, 4, 5]][g] for g in groups],
        regions=[[0, 0, 1] for _ in groups],
        windows=[every[g] for g in groups],
        stimuli=[IMAGES[g] for g in groups],
        sessions=list(groups),
        window_ms=100,
        bin_ms=10,
    )


def make_task(**options) -> AlignTask:
    torch.manual_seed(0)
    model = NeuroBridge(width=16, depth=2, heads=2, latents=2, unit_width=8)
    model.units.extend([f"data/animal{i // 3}/s/{i}" for i in range(6)], log_rates=torch.full((6,), -0.5))
    sizes = {"units": 6, "chunks": 2, "tokens": 4, "width": 16, "heads": 2, "queries": 2, "loadings": 4, "hidden": 8}
    head = AlignmentHead(**sizes, dimensions=7, dropout=0.0)
    torch.nn.init.normal_(head.projector[-1].weight, std=0.1)
    common = {"targets": torch.randn(6, 7), "readout_learning_rate": 1e-3, "loading_learning_rate": 1e-1}
    common |= {"loader": lambda *_: (), "steps": 10}
    common |= {"checkpoint_every": 10, "learning_rate": 1e-2, "weight_decay": 0.0, "seed": 0}
    return AlignTask(model, head, **common, **options)


def loss_of(task: AlignTask, batch: SpikeBatch) -> torch.Tensor:
    return task.losses(batch, np.random.default_rng(0))["loss"]


def gradients(task: AlignTask) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def test_the_default_is_the_sum_of_three_paths_and_plain_info_nce():
    """Bit for bit what the paths give when written out."""
    task, batch = make_task(), two_animals()
    model, head = task.model, task.head
    latent = model.encode(batch)
    response = head.respond(batch, model.units.bias, nothing_hidden(batch).hidden_unit, 50)
    summed = torch.einsum("gbcn,gnr->gbcr", response.unflatten(0, (2, 4)), head.loading[batch.unit_row]).flatten(0, 1)
    pooled = torch.einsum("qm,bmd->bqd", head.average.softmax(-1), latent)
    population, linear = head.population(summed.flatten(1)), head.linear(pooled.flatten(1))
    predicted = population + linear + head.projector(head.readout(latent).flatten(1))
    expected = info_nce(predicted, task.targets[batch.stimulus], batch.stimulus, head.log_scale)
    losses = task.losses(batch, np.random.default_rng(0))
    assert set(losses) == {"info_nce", "loss"}
    assert torch.equal(losses["loss"], expected)


def test_loadings_learn_at_their_own_rate_and_every_weight_once():
    task = make_task()
    groups = task.groups()
    rates = {id(p): group.get("lr", task.learning_rate) for group in groups for p in group["params"]}
    head = task.head
    assert rates[id(head.loading)] == 1e-1
    assert rates[id(head.population.weight)] == rates[id(head.log_scale)] == 1e-2
    assert rates[id(head.linear.weight)] == 1e-3
    assert sum(len(group["params"]) for group in groups) == len(list(head.parameters())) == len(rates)


def test_animals_of_one_batch_learn_together():
    task, batch = make_task(), two_animals()
    loss_of(task, batch).backward()
    loading = task.head.loading.grad
    assert (loading.abs().sum(1) > 0).all(), "each animal's units get a gradient"
    assert not any(p.grad is not None for p in task.model.parameters()), "stage 1 leaves the encoder alone"


def test_stage_two_reaches_the_last_block_the_norm_and_the_unit_embeddings_only():
    task, batch = make_task(joint_blocks=1, joint_learning_rate=1e-3), two_animals()
    loss_of(task, batch).backward()
    touched = {name.removeprefix("model.") for name in gradients(task) if name.startswith("model.")}
    assert touched
    assert all(n.startswith(("encoder.blocks.1.", "encoder.norm.")) or n == "units.embedding" for n in touched), touched


def test_mixco_then_soft_clip():
    batch = two_animals()
    assert set(make_task(mixco=0.5, soft=True).losses(batch, np.random.default_rng(0))) == {"mixco", "loss"}
    assert set(make_task(soft=True).losses(batch, np.random.default_rng(0))) == {"soft_clip", "loss"}
    for options in ({"mixco": 1.0}, {"soft": True}):
        task = make_task(**options)
        optimizer = torch.optim.Adam(task.head.parameters(), lr=1e-2)
        losses = []
        for _ in range(60):
            losses.append(loss_of(task, batch))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0] - 0.2


def test_averages_are_looked_up_and_hidden_units_are_hidden():
    batch, task = two_animals(), make_task()
    every = nothing_hidden(batch)
    table = task.responses(batch, every, np.random.default_rng(0))
    looked = make_task(averages=list(table.detach().unflatten(0, (2, 4))))
    torch.testing.assert_close(looked.responses(batch, every, np.random.default_rng(0)), table)
    every.hidden_unit[:, 1] = True
    expected = task.responses(batch, every, np.random.default_rng(0))
    torch.testing.assert_close(looked.responses(batch, every, np.random.default_rng(0)), expected)


OPTIONS = ({}, {"joint_blocks": 1}, {"soft": True})
RANK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from test_align_task import OPTIONS, gradients, loss_of, make_task, two_animals


class Forward(torch.nn.Module):
    def __init__(self, task):
        super().__init__()
        self.task = task

    def forward(self, batch):
        return loss_of(self.task, batch)


rank, folder, results = int(sys.argv[2]), sys.argv[3], []
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
for options in OPTIONS:
    task = make_task(**options)
    parallel = DistributedDataParallel(Forward(task))  # must live until the gradients are there
    loss = parallel(two_animals((rank,)))
    loss.backward()
    results.append({"loss": loss.detach(), "gradients": gradients(task)})
torch.save(results, f"{folder}/rank{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path: Path):
    """Each holds one animal's windows; an image that both show is no negative of itself across them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK, str(Path(__file__).parent)]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in (0, 1)]
    assert [process.wait(300) for process in processes] == [0, 0]
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for number, options in enumerate(OPTIONS):
        task = make_task(**options)
        loss = loss_of(task, two_animals())
        loss.backward()
        expected = {"loss": loss.detach(), "gradients": gradients(task)}
        for rank in (0, 1):
            torch.testing.assert_close(found[rank][number], expected, rtol=1e-4, atol=1e-6)
    alone = [loss_of(make_task(), two_animals((g,))) for g in (0, 1)]
    together = loss_of(make_task(), two_animals())
    assert (torch.stack(alone).mean() - together).abs() > 0.01, "negatives of the other process count"
