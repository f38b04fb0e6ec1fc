"""AdamW for the weights of all, and for tables of units an AdamW a row that leaves alone what a step did not draw."""

from __future__ import annotations

import torch
from torch import Tensor


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
        gradients = [p.grad for p, _ in tables]
        for table, _ in tables:
            table.grad = None  # AdamW passes over what has none
        super().step()
        for (table, group), gradient in zip(tables, gradients, strict=True):
            table.grad = gradient
            if gradient is not None:
                self._step_rows(table, gradient, group)
        return loss

    def _step_rows(self, table: Tensor, gradient: Tensor, group: dict) -> None:
        """Update the rows of ``table`` [V, ...] whose ``gradient`` is not zero."""
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(len(table), device=table.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        rows = gradient.reshape(len(gradient), -1).any(1).nonzero()[:, 0]
        drawn, (beta1, beta2) = gradient[rows], group["betas"]
        steps = state["step"][rows] + 1
        mean = state["exp_avg"][rows].lerp(drawn, 1 - beta1)
        square = state["exp_avg_sq"][rows].lerp(drawn.square(), 1 - beta2)
        state["step"][rows], state["exp_avg"][rows], state["exp_avg_sq"][rows] = steps, mean, square
        steps = steps.view(-1, *[1] * (table.ndim - 1))
        move = (mean / (1 - beta1**steps)) / ((square / (1 - beta2**steps)).sqrt() + group["eps"])
        table[rows] = table[rows] * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * move
