"""The training loop that the small decoders share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def minimise(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    *,
    rows: int,
    steps: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
) -> list[float]:
    """AdamW under one cycle of the learning rate: ``loss(rows of a batch)``, ``steps`` times; the losses.

    Batches run through ``rows`` rows in an order drawn from ``seed``; dropout is drawn from torch's own generator.
    """
    batch = min(batch, rows)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1, cycle_momentum=False)
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-steps * batch // rows))])
    history = []
    network.train()
    for some in order[: steps * batch].reshape(steps, batch):
        value = loss(torch.from_numpy(some))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append(float(value.detach()))
    network.eval()
    return history
