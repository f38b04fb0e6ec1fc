"""No training and no use of the model makes a tensor on another device than its own; seen without an accelerator.

Tensors are wrapped: they say that they lie on the device 'meta' and hold their numbers on the CPU, where operations on
them are done. One that mixes them with a plain tensor (of the CPU) fails here as it would on a GPU.
"""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from neurobridge.bridge.generator_training import train_condition
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from neurobridge.bridge.adapter import Adapter
from neurobridge.bridge.alignment import ImageHead
from neurobridge.neuro.batch import SpikeBatch, collate_windows
from neurobridge.neuro.identity import IDEncoder
from neurobridge.neuro.masking import Masker
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.prior import NewUnits
from neurobridge.training.joint_task import JointTask, Seen
from neurobridge.training.optimiser import RowAdamW
from neurobridge.training.task import Task
from neurobridge.training.tasks import IdentityTask, MaskedTask
from neurobridge.vision.autoencoder import PatchPCA
from neurobridge.vision.generator import Generator

THERE = torch.device("meta")
aten = torch.ops.aten


class Placed(torch.Tensor):
    """A tensor on the device that is not there; ``held``: its numbers."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, device=THERE, **layout)
        made.held = held
        return made

    def new_tensor(self, data, **options) -> torch.Tensor:
        return Placed(self.held.new_tensor(data, **options))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with Elsewhere():
            return func(*args, **(kwargs or {}))


class Elsewhere(TorchDispatchMode):
    """Within, the device THERE can be used, and what mixes devices raises an AssertionError."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        placed = [x for x in tensors if isinstance(x, Placed)]
        moves = func in (aten._to_copy.default, aten.copy_.default)
        strangers = [x for x in tensors if not isinstance(x, Placed) and x.dim() and not moves]
        assert not (placed and strangers), f"{func} mixes devices: {[tuple(x.shape) for x in strangers]}"
        there = bool(placed)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]) == THERE
            kwargs["device"] = "cpu"
        elif func is aten.copy_.default:
            there = isinstance(args[0], Placed)
        held = tree_map(lambda x: x.held if isinstance(x, Placed) else x, (args, kwargs))
        found = func(*held[0], **held[1])
        if not there:
            return found
        found = tree_map(lambda x: Placed(x.resolve_conj()) if type(x) is torch.Tensor else x, found)
        return return_and_correct_aliasing(func, args, kwargs, found) if placed else found


def placed(module: torch.nn.Module) -> torch.nn.Module:
    """``module`` with all its weights and buffers on the device THERE."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(Placed(value.detach()), requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = Placed(value)
    if isinstance(module, Task):
        module._device = THERE
    return module


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    fused = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(fused, "_get_fused_kernels_supported_devices", lambda: ["cpu", THERE.type])
    for name in ("tensor", "as_tensor"):  # which no mode sees
        monkeypatch.setattr(torch, name, partial(made_there, getattr(torch, name)))
    with Elsewhere():
        yield


def made_there(make, *args, device=None, **kwargs) -> torch.Tensor:
    found = make(*args, **kwargs)
    return found if device is None else found.to(device)


def make_batch(valued: bool = False) -> SpikeBatch:
    rng = np.random.default_rng(0)

    def window() -> tuple:
        return rng.integers(0, 4, 30), rng.integers(0, 100, 30), rng.normal(size=30) if valued else None

    return collate_windows(
        unit_rows=[[0, 1, 2, 3], [4, 5, 6, 7]],
        regions=[[0, 0, 1, 1], [0, 0, 1, -1]],
        windows=[[window() for _ in range(4)] for _ in range(2)],
        stimuli=[[0, 1, 2, 0], [1, 3, -1, 2]],
        sessions=[0, 1],
        window_ms=100,
        bin_ms=10,
    )


def make_model(**options) -> NeuroBridge:
    torch.manual_seed(0)
    model = NeuroBridge(width=16, depth=2, heads=2, latents=2, unit_width=8, memory_width=5, memory_side=3, **options)
    model.units.extend([f"data/animal{i // 4}/s/{i}" for i in range(8)], log_rates=torch.full((8,), -0.5))
    return model


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
@pytest.mark.parametrize("options", [{}, {"cls": True}, {"prompts": True}, {"mask_latents": True}])
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


def test_an_adapter_through_the_small_generator():
    torch.manual_seed(0)
    sizes = {"image_size": 32, "grid": 4, "condition_width": 16, "channels": (16, 16), "sketch_width": 32}
    generator = Generator(autoencoder=PatchPCA(), **sizes).freeze()
    adapter = Adapter(embedding_width=32, condition_width=16, tokens=16, depth=1, heads=4, hidden=32, grid=4)
    placed(generator)
    placed(adapter)
    options = {"steps": 2, "sketch_steps": 2, "batch_size": 2, "progress": False}
    train_condition(generator, adapter, torch.randn(6, 48, 4, 4), torch.randn(6, 32), **options)
