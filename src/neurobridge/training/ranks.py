"""What a loss has to know of ranks: the rows that the others hold, and how many cells they score."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


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
