"""Both ways in one task: what each stage may change, images as a second modality, negatives from two processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurobridge.bridge.alignment import ImageHead
from neurobridge.bridge.contrastive import info_nce
from neurobridge.neuro.batch import SpikeBatch, collate_windows
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.model import NeuroBridge
from neurobridge.training.joint_task import JointTask, Seen

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


def make_task(learns="all", level=0, images=6, **options) -> JointTask:
    torch.manual_seed(0)
    model = NeuroBridge(width=16, depth=2, heads=2, latents=2, unit_width=8, memory_width=5, memory_side=3)
    model.units.extend([f"data/animal{i // 3}/s/{i}" for i in range(6)], log_rates=torch.full((6,), -0.5))
    head = ImageHead(tokens=4, width=16, queries=2, hidden=8, dimensions=7, dropout=0.0, level=level)
    torch.nn.init.normal_(head.projector[-1].weight, std=0.1)
    common = {"loader": lambda *_: (), "steps": 10, "checkpoint_every": 10, "learning_rate": 1e-2, "seed": 0}
    common |= {"masker": Masker(modes=["neuron"]), "weight_decay": 0.0, "unit_dropout": 0.0}
    seen = Seen(maps=torch.randn(images, 9, 5).half(), targets=torch.randn(images, 7))
    return JointTask(model, head, seen=seen, learns=learns, **common | options)


def loss_of(task: JointTask, batch: SpikeBatch) -> torch.Tensor:
    return task.losses(batch, np.random.default_rng(0))["loss"]


def gradients(task: JointTask) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def touched(task: JointTask) -> set[str]:
    """Weights that the optimiser holds and the loss reaches."""
    loss_of(task, two_animals()).backward()
    held = {id(p) for group in task.groups() for p in group["params"]}
    return {name for name, p in task.named_parameters() if id(p) in held and p.grad is not None}


def test_the_loss_is_the_weighted_sum_of_its_parts():
    task, batch = make_task(masked_weight=0.5, encode_weight=2.0, decode_weight=0.25), two_animals()
    losses = task.losses(batch, np.random.default_rng(0))
    assert set(losses) == {"neuron", "encode", "info_nce", "loss"}
    total = 0.5 * losses["neuron"] + 2.0 * losses["encode"] + 0.25 * losses["info_nce"]
    torch.testing.assert_close(losses["loss"], total)


def test_decoding_reads_the_latents_of_the_level_and_nothing_else():
    for level in (0, 1, None):
        task, batch = make_task("units", level, masked_weight=0.0, encode_weight=0.0), two_animals()
        predicted = task.head(task.model.encode(batch, level=level))
        expected = info_nce(predicted, task.targets[batch.stimulus], batch.stimulus, task.head.log_scale)
        torch.testing.assert_close(loss_of(task, batch), expected)


def test_every_stage_changes_what_it_may():
    units = {"model.units.embedding", "model.units.bias"}
    assert {name.split(".")[0] for name in touched(make_task("head", masked_weight=0, encode_weight=0))} == {"head"}
    assert touched(make_task("units")) == units
    joint = touched(make_task("joint", joint_blocks=1))
    body = {name for name in joint if name.startswith("model.") and name not in units}
    assert body
    assert all(name.startswith(("model.encoder.blocks.1.", "model.encoder.norm.")) for name in body), body
    every = touched(make_task("all"))
    assert {"model.encoder.chunks.counted.weight", "model.memory.project.weight", "head.linear.weight"} <= every


def test_images_without_a_label_teach_nothing():
    none = torch.zeros(6, dtype=torch.bool)
    task = make_task("units", labelled=none, masked_weight=0.0)
    loss = loss_of(task, two_animals())
    assert float(loss) == 0.0
    loss.backward()
    assert float(task.model.units.embedding.grad.abs().max()) == 0.0


def learn(shuffled: bool) -> tuple[float, float]:
    """Units whose rates follow images: what is left of the losses of decoding and encoding on images not trained on."""
    rng = np.random.default_rng(1)
    images, units, known = 624, 8, 600
    task = make_task(images=images, masked_weight=0.0)
    task.model.units.extend([f"lab/m/s/{n}" for n in range(units)], log_rates=torch.full((units,), -0.5))
    feature = rng.normal(size=(images, 5))
    drive = feature @ rng.normal(size=(5, units)) / 5**0.5
    task.maps = torch.from_numpy(np.repeat(feature[:, None], 9, 1)).float()
    task.targets = torch.from_numpy(np.concatenate([feature, feature[:, :2] ** 2], 1)).float()

    def shown(rows: np.ndarray) -> SpikeBatch:
        column = [np.repeat(np.arange(units), rng.poisson(6 * np.exp(0.7 * drive[row]))) for row in rows]
        return collate_windows(
            unit_rows=[range(6, 6 + units)],
            regions=[[0] * units],
            windows=[[(c, rng.integers(0, 100, len(c)), None) for c in column]],
            stimuli=[(rng.permutation(rows) if shuffled else rows).tolist()],
            window_ms=100,
            bin_ms=10,
        )

    batch, held_out = shown(np.arange(known)), shown(np.arange(known, images))
    optimiser = torch.optim.Adam([p for group in task.groups() for p in group["params"]], lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        task.losses(batch, rng)["loss"].backward()
        optimiser.step()
    task.eval()
    with torch.no_grad():
        left = task.losses(held_out, rng)
    return float(left["info_nce"]), float(left["encode"])


def test_what_follows_the_image_is_learnt_both_ways_and_shuffled_images_are_not():
    decoded, encoded = learn(shuffled=False)
    control, worse = learn(shuffled=True)
    assert decoded < np.log(24) - 0.5 < control
    assert encoded < worse - 0.02


ALONE = {"masked_weight": 0.0, "encode_weight": 0.0}  # masks are drawn by every rank for itself
OPTIONS = (ALONE, {"learns": "joint", "joint_blocks": 1, **ALONE}, {"learns": "head", **ALONE})
RANK = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from test_joint_task import OPTIONS, gradients, loss_of, make_task, two_animals


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
    task.eval()
    parallel = DistributedDataParallel(Forward(task), find_unused_parameters=True)
    loss = parallel(two_animals((rank,)))
    loss.backward()
    results.append({"loss": loss.detach(), "gradients": gradients(task)})
torch.save(results, f"{folder}/rank{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_have_the_contrastive_loss_and_gradients_of_one(tmp_path: Path):
    """Each holds one animal's windows; an image that both show is no negative of itself across them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK, str(Path(__file__).parent)]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in (0, 1)]
    assert [process.wait(300) for process in processes] == [0, 0]
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for number, options in enumerate(OPTIONS):
        task = make_task(**options)
        task.eval()
        loss = loss_of(task, two_animals())
        loss.backward()
        expected = {"loss": loss.detach(), "gradients": gradients(task)}
        for rank in (0, 1):
            torch.testing.assert_close(found[rank][number], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learns", ["units", "head"])
def test_what_is_frozen_keeps_its_statistics(learns):
    task = make_task(learns)
    before = {k: v.clone() for k, v in task.state_dict().items() if "running" in k}
    task.train()
    loss_of(task, two_animals())
    after = {k: v for k, v in task.state_dict().items() if "running" in k}
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == (set() if learns == "units" else {"head"})
