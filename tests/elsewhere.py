"""A device that is not there, for tests that run without an accelerator.

Tensors are wrapped: they say that they lie on the device 'meta' and hold their numbers on the CPU, where operations on
them are done. One that mixes them with a plain tensor (of the CPU) fails here as it would on a GPU.
"""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from neurobridge.neuro.batch import SpikeBatch, collate_windows
from neurobridge.neuro.model import NeuroBridge
from neurobridge.training.task import Task

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
