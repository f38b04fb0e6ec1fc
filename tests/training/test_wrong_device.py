"""No training and no use of the model makes a tensor on another device than its own; seen without an accelerator."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from neurobridge.bridge.adapter import Adapter
from neurobridge.bridge.alignment import ImageHead
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.identity import IDEncoder
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.modes import MODES
from neurobridge.neuro.prior import NewUnits
from neurobridge.training.condition_task import ConditionTask
from neurobridge.training.joint_task import JointTask, Seen
from neurobridge.training.optimiser import RowAdamW
from neurobridge.training.sharding import clip
from neurobridge.training.task import Task
from neurobridge.training.tasks import IdentityTask, MaskedTask
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.generator import Generator

WORLD = runpy.run_path(str(Path(__file__).parents[1] / "elsewhere.py"))
THERE, Placed, placed = WORLD["THERE"], WORLD["Placed"], WORLD["placed"]
make_model, make_batch, elsewhere = WORLD["make_model"], WORLD["make_batch"], WORLD["elsewhere"]

COMMON = {"loader": lambda *_: (), "steps": 10, "checkpoint_every": 10, "learning_rate": 1e-2, "weight_decay": 0.0}
COMMON |= {"seed": 0}


def step(task: Task, batch: SpikeBatch) -> None:
    """Losses, gradients and a step of the optimiser on the device THERE."""
    task.train()
    task.step_losses(batch.to(THERE), np.random.default_rng(0))["loss"].backward()
    groups = [{k: v for k, v in group.items() if k != "first"} for group in task.groups()]
    optimizer = RowAdamW([{"lr": 1e-3} | group for group in groups])
    weights = [p for group in groups for p in group["params"] if p.grad is not None]
    assert weights
    assert all(isinstance(p.grad, Placed) for p in weights)
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def test_the_test_sees_a_tensor_in_the_wrong_place():
    here, there = torch.ones(3), torch.ones(3, device=THERE)
    assert (there + 1).device == THERE
    assert float(there.sum()) == 3.0
    assert torch.equal((there * there).cpu(), here)
    with pytest.raises(AssertionError, match="mixes devices"):
        there + here
    with pytest.raises((TypeError, RuntimeError)):
        there.numpy()


@pytest.mark.parametrize("decoder", ["factorised", "grid"])
@pytest.mark.parametrize("valued", [False, True])
@pytest.mark.parametrize("options", [{}, {"cls": True}, {"prompts": True}, {"mask_latents": True}, {"causal_ms": 100}])
def test_masked_training(decoder, valued, options):
    masker = Masker(whole_chunks_ms=50 if "mask_latents" in options else None)
    task = MaskedTask(
        make_model(decoder=decoder, **options),
        masker=masker,
        cells=20,
        augmentation={"unit_dropout": 0.2, "jitter_ms": 2},
        **COMMON,
    )
    step(placed(task), make_batch(valued))


@pytest.mark.parametrize("learns", ["all", "units", "head", "joint"])
@pytest.mark.parametrize("readout", ["queries", "average", "cls"])
def test_joint_training(learns, readout):
    model = make_model(cls=True)
    tokens = len(model.encoder.latent_times(100))
    head = ImageHead(
        tokens=tokens, width=16, queries=2, hidden=8, dimensions=7, readout=readout, in_front=model.encoder.in_front
    )
    seen = Seen(maps=torch.randn(4, 9, 5).half(), targets=torch.randn(4, 7))
    task = JointTask(model, head, seen=seen, learns=learns, joint_blocks=1, masker=Masker(), **COMMON)
    step(placed(task), make_batch())


def test_masks_are_drawn_without_a_copy_to_the_host(monkeypatch):
    batch = make_batch().to(THERE)

    def copied(tensor):
        raise AssertionError("a copy to the host, for which the device is waited for")

    monkeypatch.setattr(Placed, "cpu", copied, raising=False)
    for mode in MODES:
        assert Masker().draw(batch, np.random.default_rng(0), mode).hidden_unit.device == THERE
    with pytest.raises(AssertionError, match="a copy to the host"):
        Masker().draw(batch.only_units(batch.unit_mask), np.random.default_rng(0))


def test_adaptation_and_calibration():
    model = make_model()
    new_units = NewUnits(torch.randn(4, 8), torch.eye(8), first=4)
    task = MaskedTask(model, masker=Masker(), only_units=True, new_units=new_units, unfreeze_every=1, **COMMON)
    step(placed(task), make_batch())
    task = IdentityTask(make_model(), IDEncoder(bins=10, unit_width=8), masker=Masker(), **COMMON)
    step(placed(task), make_batch())


def test_latents_and_rates():
    model, batch = placed(make_model().eval()), make_batch().to(THERE)
    with torch.no_grad():
        for level in (None, 0, 1):
            assert model.encode(batch, level=level).device == THERE
        memory = torch.randn(8, 9, 5).to(THERE)
        assert model(batch, memory=memory).device == THERE


@pytest.mark.parametrize("frozen", [True, False])
def test_an_adapter_through_the_small_generator(frozen):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "grid": 4, "condition_width": 16, "channels": (16, 16), "sketch_width": 32}
    generator = Generator(autoencoder=PatchPCA(), **sizes).freeze()
    adapter = Adapter(embedding_width=32, condition_width=16, tokens=16, depth=1, heads=4, hidden=32, grid=4, noise=0.1)
    generator.unet.requires_grad_(not frozen)
    options = {"latents": torch.randn(6, 48, 4, 4), "embeddings": torch.randn(6, 32), "steps": 1, "sketch_steps": 1}
    options |= {"batch_size": 2, "learning_rate": 1e-3, "seed": 0}
    task = ConditionTask(generator, adapter, **options)
    placed(generator)
    placed(task)
    for number in range(2):
        task.step_losses(number, np.random.default_rng(0))["loss"].backward()
    optimizer = task.configure_optimizers()["optimizer"]
    clip([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
