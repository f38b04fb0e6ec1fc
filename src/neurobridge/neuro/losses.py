"""The masked objective: Poisson for counts, Gaussian for values, one mean a masking mode.

Shape letters: see the package docstring.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurobridge.neuro.masking import MODES, MaskPlan

MAX_LOG_RATE = 8.0


def cell_loss(prediction: Tensor, target: Tensor, *, poisson: bool) -> Tensor:
    """Loss a cell, [B, N, T] float32: exp(r) - k r (Poisson, r the log expected count), or squared error / 2."""
    prediction = prediction.float()
    if poisson:
        bounded = prediction.clamp(max=MAX_LOG_RATE)
        return bounded.exp() - target * bounded
    return 0.5 * (prediction - target).square()


def masked_losses(
    prediction: Tensor, target: Tensor, plan: MaskPlan, scored: Tensor, *, poisson: bool
) -> dict[str, Tensor]:
    """Mean loss over the hidden cells of each mode that occurs in the batch; no mode drowns another."""
    cells = torch.where(scored, cell_loss(prediction, target, poisson=poisson), 0.0)
    sums = cells.sum((1, 2))
    counts = scored.sum((1, 2)).float()
    losses = {}
    for index, mode in enumerate(MODES):
        rows = plan.mode == index
        total = counts[rows].sum()
        if total > 0:
            losses[mode] = sums[rows].sum() / total
    return losses
