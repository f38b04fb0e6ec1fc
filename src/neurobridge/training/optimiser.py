"""AdamW for the weights of all, and for tables of units an AdamW a row that leaves alone what a step did not draw."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from neurobridge.training.sharding import like, local


class RowAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019); groups with ``rows`` are updated row by row.

    In those groups a row whose gradient is zero keeps its value, its moments and its count of steps bit for bit: of 500
    sessions of which a step draws four, the units of the others neither drift on their momentum nor forget it, and the
    bias correction of a row counts the steps in which it was drawn. Gradients stay dense, so they are clipped, and
    averaged over ranks, as all others are.
    """

    def __init__(self, groups: list[dict], **options) -> None:
        super().__init__([{"rows": False} | group for group in groups], fused=True, **options)
        self._step_supports_amp_scaling = False  # gradients are unscaled, then clipped, before they come here

    @torch.no_grad()
    def step(self, closure=None):
        """One step; ``closure`` computes the loss and its gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tables = [(p, group) for group in self.param_groups if group["rows"] for p in group["params"]]
        others = [p for group in self.param_groups if not group["rows"] for p in group["params"]]
        gradients = [(p, p.grad) for p in (*others, *(table for table, _ in tables))]
        for cut in {isinstance(p, DTensor) for p in others}:  # AdamW takes no list of both
            for number, (p, gradient) in enumerate(gradients):
                wanted = number < len(others) and isinstance(p, DTensor) == cut
                p.grad = gradient if wanted else None  # which AdamW passes over
            super().step()
        for p, gradient in gradients:
            p.grad = gradient
        for table, group in tables:
            if table.grad is not None:
                self._step_rows(table, local(table.grad), group)
        return loss

    def _step_rows(self, table: Tensor, gradient: Tensor, group: dict) -> None:
        """Update the rows of ``table`` [V, ...] whose ``gradient`` is not zero; where it is cut, those held here."""
        state = self.state[table]
        if not state:
            state["step"] = like(torch.zeros(len(table), device=table.device), table)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        count, first, second, values = (local(x) for x in (state["step"], state["exp_avg"], state["exp_avg_sq"], table))
        rows = gradient.reshape(len(gradient), prod(gradient.shape[1:])).any(1).nonzero()[:, 0]
        drawn, (beta1, beta2) = gradient[rows], group["betas"]
        steps = count[rows] + 1
        mean = first[rows].lerp(drawn, 1 - beta1)
        square = second[rows].lerp(drawn.square(), 1 - beta2)
        count[rows], first[rows], second[rows] = steps, mean, square
        steps = steps.view(-1, *[1] * (table.ndim - 1))
        move = (mean / (1 - beta1**steps)) / ((square / (1 - beta2**steps)).sqrt() + group["eps"])
        values[rows] = values[rows] * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * move
