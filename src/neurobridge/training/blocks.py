"""The transformer blocks of a task, and how they are computed: compiled, or twice for less memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from neurobridge.errors import UserError
from neurobridge.neuro.layers import Block, CrossBlock

BLOCKS = (Block, CrossBlock, nn.TransformerEncoderLayer)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The transformer blocks of ``module``: what is cut over processes, compiled and computed twice as one."""
    return [part for part in module.modules() if isinstance(part, BLOCKS)]


def rewrite(parts: Iterable[nn.Module], *, twice: bool, compiled: bool) -> None:
    """Compute ``parts`` through torch.compile, or twice: forwards without keeping anything, again for the gradient."""
    if compiled:
        need_compiler()
    for part in parts:
        if compiled:
            part.forward = torch.compile(part.forward)
        if twice:
            part.forward = partial(computed_twice, part.forward)


def computed_twice(forward: Callable, *inputs, **named):
    """``forward``, of which the backward pass computes again what it needs."""
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, **named)


def need_compiler() -> None:
    """Raise UserError where torch.compile cannot compile."""
    try:
        torch.compile(torch.sin)(torch.ones(2))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"train.compile is on, but torch.compile finds nothing here that compiles ({reason}): install a C++ "
            "compiler (g++), or leave train.compile off"
        ) from error
