"""Weights cut over processes (FSDP2): each holds a part of every weight, of its gradient and of its moments.

A block's weights are put together while it computes, all others for the step. Checkpoints hold whole weights in the
format of one process, so that a run goes on with any number of processes, cut or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from neurobridge.training.blocks import blocks


def shard(task: lightning.LightningModule, mesh: DeviceMesh, passes: Iterable[str]) -> None:
    """Cut the weights of ``task`` over ``mesh``; ``passes`` names its methods that compute with them.

    A scalar stays whole. Every process must compute the same gradient of it (the temperature of InfoNCE, whose rows are
    those of all processes).
    """
    for block in blocks(task):
        fully_shard(block, mesh=mesh)
    scalars = {p for p in task.parameters() if not p.dim()}
    fully_shard(task, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)
    for name in passes:
        register_fsdp_forward_method(task, name)


def local(value: Tensor) -> Tensor:
    """This process's part of ``value``, in the same memory; the tensor itself where nothing is cut."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Any) -> Any:
    """``value`` put together from all processes, on the CPU where it was cut; anything else as it is."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def like(value: Any, weight: Tensor) -> Any:
    """``value``, a whole weight or a number a row of it, cut as ``weight`` is."""
    if not isinstance(weight, DTensor) or not isinstance(value, Tensor) or not value.dim():
        return value
    assert len(value) == len(weight), "what belongs to a weight has its rows"
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


def clip(weights: Iterable[Tensor], most: float) -> Tensor:
    """Scale all gradients so that their common norm is at most ``most``; returns the norm that they had."""
    gradients = [p.grad for p in weights if p.grad is not None]
    parts = [[g for g in gradients if isinstance(g, DTensor) == cut] for cut in (False, True)]
    norms = [whole(nn.utils.get_total_norm(part)).to(part[0].device) for part in parts if part]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    torch._foreach_mul_([local(g) for g in gradients], (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


class Sharded(ModelParallelStrategy):
    """The Trainer's strategy for :func:`shard`, with checkpoints through its CheckpointIO, as those of one process."""

    def __init__(self, processes: int) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return tree_map(whole, self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return tree_map(whole, optimizer.state_dict())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        for name, value in self.lightning_module.state_dict().items():
            value.copy_(like(checkpoint["state_dict"][name], value))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, kept in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            cut = {i: {k: like(v, weights[i]) for k, v in values.items()} for i, values in kept["state"].items()}
            optimizer.load_state_dict({**kept, "state": cut})
