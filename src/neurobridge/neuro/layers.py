"""Rotary time, attention, feed-forward: the blocks of the backbone and of the readouts.

Written to leave few passes over memory besides the matrix products: one projection and one complex product for queries
and keys, a layer norm in one kernel (without bias) where RMSNorm takes five on a CPU, no tensor that is cut in parts
only to be put together again in the backward pass. benchmarks/encoder_speed.py holds the result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHORT = 512 * 512  # score matrices up to this size are held in memory on a CPU


def rotary_phase(time_ms: Tensor, width: int, *, shortest_ms: float = 4.0, longest_ms: float = 4000.0) -> Tensor:
    """Unit complex numbers [..., width / 2] of rotary time (Su et al. 2021; times as in POYO, Azabou et al. 2023).

    Periods are spaced geometrically from ``shortest_ms`` to ``longest_ms``; whole turns are taken off in double
    precision, so that times may be long.
    """
    precise = torch.float32 if time_ms.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    steps = torch.linspace(0, 1, width // 2, device=time_ms.device, dtype=precise)
    turns = time_ms[..., None] / (shortest_ms * (longest_ms / shortest_ms) ** steps)
    angle = (2 * math.pi * (turns - turns.round())).to(time_ms.dtype)
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, phase: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of ``x`` [..., width] by ``phase`` [..., width / 2]."""
    precise = x.to(phase.real.dtype)
    pairs = torch.view_as_complex(precise.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * phase).flatten(-2).to(x.dtype)


def norm(width: int) -> nn.LayerNorm:
    """The pre-norm of every block."""
    return nn.LayerNorm(width, bias=False)


class Attention(nn.Module):
    """Multi-head attention with rotary time on queries and keys. Self-attention if no memory is given.

    x [B, Q, D], memory [B, K, D]; x [1, 1, D] is one query that differs in its times alone. phase_q [Q, d / 2] or
    [B, Q, d / 2], phase_k alike, from :func:`rotary_phase`, d the width of a head (None: no rotation). Self-attention
    rotates queries and keys by phase_q.
    """

    def __init__(self, width: int, heads: int, *, memory_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        assert width % (2 * heads) == 0, "width must be a multiple of twice the heads"
        self.heads, self.dropout = heads, dropout
        own = memory_width is None
        self.query_key_value = nn.Linear(width, 3 * width, bias=False) if own else None
        self.query = None if own else nn.Linear(width, width, bias=False)
        self.key_value = None if own else nn.Linear(memory_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        phase_q: Tensor | None = None,
        phase_k: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """seen [Q, K] bool: which keys a query looks at (empty: all)."""
        dropout = self.dropout if self.training else 0.0
        if self.query_key_value is not None:
            together = self.query_key_value(x)
            if phase_q is not None and seen is None and not dropout and _short(together, x.shape[1], x.shape[1]):
                return self.out(ShortSelfAttention.apply(together, phase_q, self.heads))
            q, k, v = together.unflatten(-1, (3, self.heads, -1)).unbind(2)
            phase_k = phase_q
        else:
            assert self.query is not None
            assert self.key_value is not None
            assert memory is not None, "nothing to read from"
            q = self.query(x).unflatten(-1, (self.heads, -1))
            k, v = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).unbind(2)
        q = q if phase_q is None else rotate(q, phase_q[..., None, :])
        k = k if phase_k is None else rotate(k, phase_k[..., None, :])
        q, k, v = (part.transpose(1, 2) for part in (q.expand(len(k), -1, -1, -1), k, v))
        if seen is None and not dropout and _short(q, q.shape[-2], k.shape[-2]):
            mixed = ShortAttention.apply(q, k, v)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def follow(self, x: Tensor, past: Tensor | None, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Self-attention of the newest tokens x [B, L, D] to themselves and to those before them, and what to keep.

        past [B, K, 2, H, d]: keys and values of the tokens before, not rotated (None: there are none). phase
        [K + L, d / 2]: of all. Returns [B, L, D], and ``past`` with the newest tokens behind it.
        """
        assert self.query_key_value is not None, "tokens that read something else do not follow each other"
        q, k, v = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        kept = torch.stack([k, v], dim=2)
        kept = kept if past is None else torch.cat([past, kept], dim=1)
        k, v = kept.unbind(2)
        q, k = rotate(q, phase[-q.shape[1] :, None]), rotate(k, phase[:, None])
        mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
        return self.out(mixed.transpose(1, 2).flatten(2)), kept


def _short(x: Tensor, queries: int, keys: int) -> bool:
    """Whether batched products do better than the fused kernel: on a CPU, while the scores are few.

    torch.compile, which writes kernels of its own, would make wrong gradients of those written out here.
    """
    if torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32 and queries * keys <= SHORT


def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled q, k, v [B * H, M, d] -> mixed values [B * H, M, d], attention weights [B * H, M, M]."""
    weight = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
    return torch.bmm(weight, v), weight


def _attend_backward(grad: Tensor, weight: Tensor, q: Tensor, k: Tensor, v: Tensor, out: tuple[Tensor, ...]) -> None:
    """Write the gradients by q, k and v into ``out``."""
    grad_weight = torch.bmm(grad, v.transpose(1, 2))
    grad_score = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
    torch.bmm(grad_score, k, out=out[0])
    torch.bmm(grad_score.transpose(1, 2), q, out=out[1])
    torch.bmm(weight.transpose(1, 2), grad, out=out[2])


class ShortAttention(torch.autograd.Function):
    """Softmax attention of q, k, v [B, H, M, d] in batched products, with its gradient written out.

    On two CPU threads, heads of 16 and 80 tokens, forward and backward take 2.9 ms where the fused kernel takes 2.5 on
    an idle machine and 5 on a busy one, for it waits at more barriers.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape, ctx.scale = q.shape, q.shape[-1] ** -0.5
        q, k, v = (part.flatten(0, 1) for part in (q * ctx.scale, k, v))
        mixed, weight = _attend(q, k, v)
        ctx.save_for_backward(q, k, v, weight)
        return mixed.view(shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, weight = ctx.saved_tensors
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        _attend_backward(grad.flatten(0, 1), weight, q, k, v, grads)
        grads[0].mul_(ctx.scale)
        return tuple(part.unflatten(0, grad.shape[:2]) for part in grads)


class ShortSelfAttention(torch.autograd.Function):
    """Rotation and attention of joint projections [B, M, 3 D] -> [B, M, D]; phase [M, d / 2].

    One complex product turns, scales and lays out queries, keys and values by head; another takes their gradients back
    into the one array that the projection's backward pass reads.
    """

    @staticmethod
    def forward(ctx, together: Tensor, phase: Tensor, heads: int) -> Tensor:
        windows, tokens, width = together.shape
        turn = torch.stack([phase * (width // 3 // heads) ** -0.5, phase, torch.ones_like(phase)])[:, None, None]
        parts = torch.view_as_complex(together.view(windows, tokens, 3, heads, -1, 2)).permute(2, 0, 3, 1, 4)
        turned = torch.mul(parts, turn, out=torch.empty(parts.shape, dtype=parts.dtype))
        mixed, weight = _attend(*_real(turned))
        ctx.save_for_backward(turned, weight, turn)
        return mixed.view(windows, heads, tokens, -1).transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        turned, weight, turn = ctx.saved_tensors
        _, windows, heads, tokens, pairs = turned.shape
        by_head = grad.view(windows, tokens, heads, -1).transpose(1, 2).flatten(0, 1)
        grads = torch.empty_like(turned)
        _attend_backward(by_head, weight, *_real(turned), out=_real(grads))
        together = grads.new_empty(windows, tokens, 3, heads, pairs)
        torch.mul(grads, turn.conj().resolve_conj(), out=together.permute(2, 0, 3, 1, 4))
        return torch.view_as_real(together).flatten(2), None, None


def _real(parts: Tensor) -> tuple[Tensor, ...]:
    """Complex [3, B, H, M, d / 2] -> three real views [B * H, M, d]."""
    return torch.view_as_real(parts).flatten(-2).flatten(1, 2).unbind(0)


class FeedForward(nn.Module):
    """Gated feed-forward (SwiGLU; Shazeer 2020)."""

    def __init__(self, width: int, *, expand: float = 8 / 3, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = 16 * math.ceil(width * expand / 16)
        self.up_gate = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(gated(self.up_gate(x))))


def gated(up_gate: Tensor) -> Tensor:
    """:class:`SwiGLU`; in plain operations where torch.compile makes one kernel of them."""
    if not torch.compiler.is_compiling():
        return SwiGLU.apply(up_gate)
    up, gate = up_gate.chunk(2, -1)
    return up * F.silu(gate)


class SwiGLU(torch.autograd.Function):
    """The first half of [..., 2 F] times the sigmoid-weighted second -> [..., F]; both gradients in one array."""

    @staticmethod
    def forward(ctx, up_gate: Tensor) -> Tensor:
        up, gate = up_gate.chunk(2, -1)
        gated = F.silu(gate)
        ctx.save_for_backward(up_gate, gated)
        return up * gated

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        up_gate, gated = ctx.saved_tensors
        up, gate = up_gate.chunk(2, -1)
        grads = torch.empty_like(up_gate)
        grad_up, grad_gate = grads.chunk(2, -1)
        torch.mul(grad, gated, out=grad_up)
        torch.ops.aten.silu_backward(grad * up, gate, grad_input=grad_gate)
        return grads


class MapAttention(nn.Module):
    """Latents read a map: x [B, M, D], memory [B, K, memory_width], K = side * side positions of a square.

    Each of the ``latents`` of a chunk has a window of its own on the map, a bias [H, L, K] on its scores. Windows are
    learnt; they start as Gaussians whose centres lie on a grid, narrow in every other head. Tokens in front of the
    chunks' latents have none. side 0: the memory is a plain sequence, and nothing has a window.
    """

    def __init__(self, width: int, heads: int, *, memory_width: int, latents: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(memory_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.window = nn.Parameter(gaussian_windows(heads, latents, side)) if side else None

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, -1))
        k, v = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        bias = None
        if self.window is not None:
            latents, tokens = self.window.shape[1], x.shape[1]
            bias = self.window.repeat(1, tokens // latents, 1)
            bias = F.pad(bias, (0, 0, tokens % latents, 0)).to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))


def gaussian_windows(heads: int, latents: int, side: int) -> Tensor:
    """[H, L, side * side]: log of a Gaussian window of each head and latent on a map from -1 to 1."""
    across = math.ceil(latents**0.5)
    down = math.ceil(latents / across)
    place = torch.arange(latents)
    centre = torch.stack([(place // across + 0.5) / down, (place % across + 0.5) / across], -1) * 2 - 1
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    at = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
    distance = (centre[:, None] - at).square().sum(-1)
    width = 1.4 / across * torch.tensor([0.7 if head % 2 else 1.6 for head in range(heads)])
    return -distance / (2 * width[:, None, None].square())


class Block(nn.Module):
    """Pre-norm transformer block; with ``cross`` a cross-attention stands between the two halves."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, cross: nn.Module | None = None) -> None:
        super().__init__()
        self.norm_attention = norm(width)
        self.attention = Attention(width, heads, dropout=dropout)
        self.cross = cross
        self.norm_cross = norm(width) if cross is not None else None
        self.norm_feed = norm(width)
        self.feed = FeedForward(width, dropout=dropout)

    def forward(
        self, x: Tensor, *, phase: Tensor | None = None, memory: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        x = x + self.attention(self.norm_attention(x), phase_q=phase, seen=seen)
        if self.cross is not None and self.norm_cross is not None and memory is not None:
            x = x + self.cross(self.norm_cross(x), memory)
        return x + self.feed(self.norm_feed(x))

    def follow(self, x: Tensor, past: Tensor | None, phase: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward` of the newest tokens alone, without a memory; see :meth:`Attention.follow`."""
        read, kept = self.attention.follow(self.norm_attention(x), past, phase)
        x = x + read
        return x + self.feed(self.norm_feed(x)), kept


class CrossBlock(nn.Module):
    """Queries read from a memory, then a feed-forward: decoder layers and readouts."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_query, self.norm_memory, self.norm_feed = norm(width), norm(width), norm(width)
        self.attention = Attention(width, heads, memory_width=width, dropout=dropout)
        self.feed = FeedForward(width, dropout=dropout)

    def forward(
        self, x: Tensor, memory: Tensor, *, phase_q: Tensor | None = None, phase_k: Tensor | None = None
    ) -> Tensor:
        read = self.attention(self.norm_query(x), self.norm_memory(memory), phase_q=phase_q, phase_k=phase_k)
        x = x + read
        return x + self.feed(self.norm_feed(x))
