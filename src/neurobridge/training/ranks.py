"""What a loss has to know of ranks: the rows that the others hold, and how many cells they score."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


def across_ranks(rows: Tensor) -> Tensor:
    """Rows [B, ...] of every rank, [R * B, ...] in order of rank; gradients flow back to the rank they came from.

    Every rank gives equally many rows. A loss of all rows, the same on each rank, then has under DDP (which averages
    gradients over ranks) the gradients of one process that holds the whole batch. Without ranks: the rows themselves.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    return _Gathered.apply(rows)


def mean_over_ranks(counts: Tensor) -> Tensor:
    """Mean of ``counts`` over ranks, without a gradient; without ranks the counts themselves.

    A rank's sum over this mean, averaged over ranks, is the sum over all cells of all ranks over their number.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return counts
    total = counts.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def normalised(norm: nn.BatchNorm1d, rows: Tensor) -> Tensor:
    """``norm`` of rows [B, F] or [B, F, K] by the statistics of the rows of all ranks, as many on each."""
    if not norm.training:
        return nn.BatchNorm1d.forward(norm, rows)
    axes, shape = [i for i in range(rows.dim()) if i != 1], (-1, *[1] * (rows.dim() - 2))
    ranks, values = distributed.get_world_size(), rows.float()
    mean = _Summed.apply(values.mean(axes)) / ranks
    values = values - mean.view(shape)
    variance = _Summed.apply(values.square().mean(axes)) / ranks
    count = ranks * rows.numel() // rows.shape[1]
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    values = values * (variance + norm.eps).rsqrt().view(shape)
    return (values * norm.weight.view(shape) + norm.bias.view(shape)).to(rows.dtype)


class _Summed(torch.autograd.Function):
    """The sum over ranks, and backwards the sum of the gradients."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


class _Gathered(torch.autograd.Function):
    """all_gather, and backwards the sum over ranks of the gradients of one's own rows."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]
