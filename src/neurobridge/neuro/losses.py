"""The masked objective: Poisson for counts, Gaussian for values, one mean a masking mode.

Shape letters: see the package docstring.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neurobridge.neuro.masking import MODES, MaskPlan

MAX_LOG_RATE = 8.0


def cell_loss(prediction: Tensor, target: Tensor, *, poisson: bool) -> Tensor:
    """Loss a cell, float32: exp(r) - k r (Poisson, r the log expected count), or squared error / 2."""
    prediction = prediction.float()
    if poisson:
        bounded = prediction.clamp(max=MAX_LOG_RATE)
        return bounded.exp() - target * bounded
    return 0.5 * (prediction - target).square()


def expected_counts(prediction: Tensor) -> Tensor:
    """Expected counts from their logarithms, bounded as in the loss: beyond, nothing has taught the model anything."""
    return prediction.clamp(max=MAX_LOG_RATE).exp()


def masked_losses(
    prediction: Tensor,
    target: Tensor,
    plan: MaskPlan,
    scored: Tensor,
    *,
    poisson: bool,
    shared: Callable[[Tensor], Tensor] = torch.clone,
) -> dict[str, Tensor]:
    """Mean loss over the hidden cells of each mode that occurs in the batch; no mode drowns another.

    prediction, target, scored [B, ...]: all cells with a boolean ``scored``, or sampled cells with the weights that
    :func:`sample_cells` gave them. ``shared``: of the number of cells [4] a mode here, what the sums are divided by,
    where this is a part of a batch.
    """
    rest = tuple(range(1, scored.ndim))
    sums = (cell_loss(prediction, target, poisson=poisson) * scored).sum(rest)
    counts = scored.float().sum(rest)
    modes = [plan.mode == index for index in range(len(MODES))]
    totals = shared(torch.stack([counts[rows].sum() for rows in modes]))
    found = zip(MODES, modes, totals, strict=True)
    return {mode: sums[rows].sum() / total for mode, rows, total in found if total > 0}


def sample_cells(
    scored: Tensor, target: Tensor, number: int, *, generator: torch.Generator | None = None, boost: float = 4.0
) -> tuple[Tensor, Tensor]:
    """``number`` (Q) of the scored cells of each window, with replacement; those with events ``boost`` times as often.

    scored, target [B, N, T] -> cells [B, Q] (n * T + t) and weights [B, Q] = 1 / (Q x probability): importance
    weights, so that weighted sums estimate the sums over all scored cells without bias. A window without a scored cell
    gets weights 0.
    """
    chance = scored.flatten(1).float() * torch.where(target.flatten(1) != 0, boost, 1.0)
    empty = chance.sum(1, keepdim=True) == 0
    chance = (chance + empty) / (chance + empty).sum(1, keepdim=True)
    cells = torch.multinomial(chance, number, replacement=True, generator=generator)
    return cells, (1.0 / (number * chance.gather(1, cells))) * ~empty
