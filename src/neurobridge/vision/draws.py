"""Random numbers of a batch of which a process computes some rows: the same whichever process computes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def drawn(
    draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator | None, part: tuple[int, int]
) -> Tensor:
    """Of n times as many rows that ``draw`` gives, the i-th of every n: ``shape``, on the CPU; ``part`` is (i, n)."""
    number, of = part
    return draw((shape[0] * of, *shape[1:]), generator=generator)[number::of]
