"""Events to latents: table attention and centred counts of chunks, presence of visible units, a backbone.

The latent queries are constants and the key of an event depends on its unit alone, rotated by its tick within the
chunk. So the score of an event is a function of (unit, tick): one table [N, P, H * L], built by small products.
Softmax weights are summed per (chunk, unit) through that table before any value vector is touched: the cost does not
grow with the number of events. Equal to plain rotary cross-attention on 1 ms times (tests/neuro/test_encoder.py).

Shape letters: see the package docstring; K = H * L, R = windows of a session x C.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.layers import Block, MapAttention, norm, rotary_phase, rotate
from neurobridge.neuro.masking import MaskPlan
from neurobridge.neuro.modes import MODES
from neurobridge.neuro.presence import Presence

ONSET_WAVES = 16
COUNT_SCALE = 3.0  # one over the spread of new unit vectors: counts then start at the order of one


class ChunkReader(nn.Module):
    """Perceiver over the events of each chunk: [events] -> [B, C, L, D]. Two sums over events, one table.

    Attention, a weighted mean of the values of the units that fired, tells who fired when within the chunk; it is
    nearly the same in every chunk, for a mean over a hundred units hardly moves. Centred counts tell how many events
    came: a unit's visible events less those expected in the visible milliseconds (its mean rate, and its own time
    course where the window knows the stimulus onset), over the root of the expectation (raised by ``floor``, lest one
    spike of a nearly silent unit outweigh all others), times a linear function of the unit's vector, over the root of
    the number of visible units. A value-carrying event counts as its value, whose expectation is 0, over the root of
    the number of events.

    Queries and keys are normalised and scaled (clamped at ``max_scale``), so scores are bounded and no running
    maximum over events is needed. One null key a chunk is always on.
    The mass of a unit in a chunk, the sum of its events' weights, is made in one of two equal ways: dense (events as
    counts on a unit x tick grid, times the table) or, where such a grid would be nearly empty (thousands of units),
    sparse (one look-up an event).
    """

    max_scale = 16.0
    floor = 0.1  # events
    sparse_cost = 10  # of a number that the sparse way looks up, in cells of the dense way's grid

    def __init__(self, *, width: int, unit_width: int, latents: int, heads: int, chunk_ms: int) -> None:
        super().__init__()
        self.latents, self.heads, self.chunk_ms = latents, heads, chunk_ms
        head = width // heads
        self.query = nn.Parameter(torch.randn(latents, heads, head))
        self.key = nn.Linear(unit_width, width, bias=False)
        self.value = nn.Linear(unit_width, width)
        self.scale = nn.Parameter(torch.full((heads,), 4.0))
        self.null_score = nn.Parameter(torch.zeros(latents, heads))
        self.null_value = nn.Parameter(torch.zeros(heads, head))
        self.out = nn.Linear(width, width, bias=False)
        self.counted = nn.Linear(unit_width, latents * width, bias=False)
        nn.init.normal_(self.counted.weight, std=COUNT_SCALE / unit_width**0.5)

    def table(self, unit: Tensor) -> Tensor:
        """exp(score) of every (unit, tick, head, latent): unit [G, N, E] -> [G, N, P, K]."""
        key = F.normalize(self.key(unit).unflatten(-1, (self.heads, -1)), dim=-1)
        tick = torch.arange(self.chunk_ms, device=unit.device, dtype=unit.dtype)
        phase = rotary_phase(tick, key.shape[-1], longest_ms=4.0 * self.chunk_ms)[:, None, None, :]
        query = rotate(F.normalize(self.query, dim=-1)[None].expand(self.chunk_ms, -1, -1, -1), phase.conj())
        query = query * self.scale.clamp(max=self.max_scale)[:, None]
        score = torch.einsum("gnhd,plhd->gnphl", key, query)
        return score.exp().flatten(-2)

    def forward(self, batch: SpikeBatch, unit: Tensor, plan: MaskPlan, expected: Tensor) -> Tensor:
        """unit [G, N, E] vectors; events that ``plan`` hides count for nothing -> [B, C, L, D].

        expected [B, N, C]: events that were to be expected of each unit in the visible milliseconds of each chunk
        (:func:`expected_events`); ignored for values.
        """
        g, n, _ = unit.shape
        p, c = self.chunk_ms, expected.shape[-1]
        if plan.sees_nothing:  # the null key takes all attention, and nothing was counted
            null = self.out(self.null_value.flatten())
            return null.expand(batch.windows, c, self.latents, -1)
        per_group = batch.windows // g
        chunks = per_group * c
        # the last column of the table counts events
        table = F.pad(self.table(unit).flatten(0, 1), (0, 1), value=1.0)  # [G * N, P, K + 1]

        # the cell of each event on the unit x tick grid: windows of a session side by side, each c * p ticks long
        window = torch.arange(batch.windows, device=unit.device)
        start = (window // per_group * n * per_group + window % per_group) * (c * p)
        cell = start.index_select(0, batch.event_window) + batch.event_unit * (chunks * p) + batch.event_tick
        sparse = self.sparse_cost * len(cell) * table.shape[-1] < g * n * chunks * p
        seen_unit = ~plan.hidden_unit.view(g, per_group, n).transpose(1, 2)[..., None]
        seen_tick = ~F.pad(plan.hidden_tick, (0, c * p - batch.window_ms)).view(g, 1, per_group, c * p)

        if sparse:
            seen = (~plan.hides_event(batch)).nonzero()[:, 0]
            at, tick = cell[seen] // p, batch.event_tick[seen] % p
            weight = table.flatten(0, 1)[at // chunks * p + tick]
            mass = weight.new_zeros(g * n * chunks, table.shape[-1]).index_add(0, at, weight)
            mass = mass.view(g * n, chunks, -1).transpose(1, 2)
        else:
            grid = table.new_zeros(g, n, per_group, c * p)
            grid.view(-1).scatter_add_(0, cell, torch.ones_like(cell, dtype=table.dtype))
            grid.mul_(seen_unit).mul_(seen_tick)
            mass = torch.bmm(table.transpose(1, 2), grid.view(g * n, chunks, p).transpose(1, 2))
        mass = mass.unflatten(0, (g, n))  # [G, N, K + 1, R]
        value = F.pad(self.value(unit).unflatten(-1, (self.heads, -1)), (0, 1), value=1.0)
        summed = self._mix(mass[:, :, :-1], value)  # its last column sums the weights themselves
        null = self.null_score.clamp(-self.max_scale, self.max_scale).exp()[..., None]
        mixed = (summed[..., :-1] + null * self.null_value) / (summed[..., -1:] + null)
        x = self.out(mixed.flatten(-2)).reshape(batch.windows, c, self.latents, -1)
        surprise = self._centred(batch, plan, mass[:, :, -1].detach(), expected, cell)
        return x + self._counted(batch, plan, surprise, unit)

    def _centred(self, batch: SpikeBatch, plan: MaskPlan, count: Tensor, expected: Tensor, cell: Tensor) -> Tensor:
        """[G, N, R]: events (``count`` [G, N, R]) beyond those expected, in standard deviations; values likewise."""
        if batch.event_value is not None:
            value = batch.event_value.to(count.dtype) * ~plan.hides_event(batch)
            total = torch.zeros_like(count).view(-1).index_add_(0, cell // self.chunk_ms, value).view_as(count)
            return total / count.clamp(min=1.0).sqrt()
        g, n, chunks = count.shape
        expected = expected.view(g, -1, n, expected.shape[-1]).transpose(1, 2).reshape(g, n, chunks)
        return (count - expected) / (expected + self.floor).sqrt()

    def _counted(self, batch: SpikeBatch, plan: MaskPlan, surprise: Tensor, unit: Tensor) -> Tensor:
        """[B, C, L, D]: the sum over units of ``surprise`` [G, N, R] times a function of their vectors."""
        visible = (batch.per_window(batch.unit_mask) & ~plan.hidden_unit).sum(1).clamp(min=1).to(unit.dtype)
        total = torch.bmm(surprise.transpose(1, 2).to(unit.dtype), unit).view(batch.windows, -1, unit.shape[-1])
        return self.counted(total / visible.sqrt()[:, None, None]).unflatten(-1, (self.latents, -1))

    def _mix(self, mass: Tensor, value: Tensor) -> Tensor:
        """sum over units: mass [G, N, K, R], value [G, N, H, d] -> [G, R, L, H, d].

        A product a head, of matrices that lie in ``mass`` as they are: nothing as large as it is copied.
        """
        heads = mass.unflatten(2, (self.heads, self.latents)).flatten(3).transpose(1, 2)  # [G, H, N, L * R]
        mixed = value.permute(0, 2, 3, 1) @ heads  # [G, H, d, L * R]
        return mixed.unflatten(-1, (self.latents, -1)).permute(0, 4, 3, 1, 2)


def expected_events(batch: SpikeBatch, plan: MaskPlan, bias: Tensor, chunk_ms: int) -> Tensor:
    """[B, N, C]: events that each visible unit's own rate lets expect in the visible milliseconds of each chunk.

    bias [G, N]: log mean count a bin. In windows that know the stimulus onset the rate follows ``batch.course``.
    """
    g, n = bias.shape
    chunks = -(-batch.window_ms // chunk_ms)
    whole = F.pad((~plan.hidden_tick).to(bias.dtype), (0, chunks * chunk_ms - batch.window_ms))
    per_ms = bias.exp() / batch.bin_ms
    visible = whole.view(-1, chunks, chunk_ms)
    seen = (batch.per_window(batch.unit_mask) & ~plan.hidden_unit).to(bias.dtype)[:, :, None]
    if batch.course is None and batch.unit_window is None:
        return batch.per_window(per_ms)[:, :, None] * visible.sum(-1)[:, None] * seen
    tick = torch.arange(whole.shape[1], device=bias.device)
    shown = bias.new_ones(g, n, len(tick))
    if batch.unit_window is not None:
        shown = ((tick >= batch.unit_window[..., :1]) & (tick < batch.unit_window[..., 1:])).to(bias.dtype)

    def over(weight: Tensor) -> Tensor:
        """Visible milliseconds [B, N, C], each times a unit's ``weight`` [G, N, ticks]."""
        weight = weight.unflatten(-1, (chunks, chunk_ms))
        return torch.einsum("gncp,grcp->grnc", weight, visible.view(g, -1, chunks, chunk_ms)).flatten(0, 1)

    relative = over(shown)
    if batch.course is not None:
        bin_ = (tick // batch.bin_ms).clamp(max=batch.course.shape[-1] - 1)
        own = over(shown * batch.course.exp()[:, :, bin_])
        relative = torch.where(batch.locked[:, None, None], own, relative)
    return batch.per_window(per_ms)[:, :, None] * relative * seen


class Encoder(nn.Module):
    """SpikeBatch and a mask plan -> contextual latents [B, M, D], M = C * L (+ 1 in front with ``cls`` or ``prompts``).

    memory_width: every second block, the last among them, can read a conditioning sequence of that width, a map of
    memory_side x memory_side positions (0: a plain sequence). cls: a [CLS] token.
    For ablation only: ``prompts``, a learnt token that tells which masking mode is on (MtM; none is the default, for a
    missing token tells it by itself); ``mask_latents``, masking behind the Perceiver: the latents of a chunk that is
    wholly hidden in time are replaced by a learnt one.
    causal_ms: a latent sees those of its own chunk and of so many ms before it ended, and nothing later; 0: all.
    """

    def __init__(
        self,
        *,
        width: int,
        unit_width: int,
        depth: int,
        heads: int,
        latents: int,
        chunk_ms: int,
        dropout: float = 0.0,
        memory_width: int | None = None,
        memory_side: int = 0,
        cls: bool = False,
        prompts: bool = False,
        mask_latents: bool = False,
        causal_ms: int = 0,
    ) -> None:
        super().__init__()
        assert not (cls and prompts), "one token in front: [CLS] or a prompt"
        assert not (causal_ms and (cls or prompts)), "a token in front has seen the whole window"
        self.reach = causal_ms // chunk_ms  # chunks that a latent sees, its own among them; 0: all of the window
        self.chunk_ms, self.latents, self.in_front = chunk_ms, latents, cls or prompts
        sizes = {"width": width, "unit_width": unit_width, "latents": latents, "heads": heads}
        self.width, self.heads, self.head_width = width, heads, width // heads
        self.chunks = ChunkReader(chunk_ms=chunk_ms, **sizes)
        self.presence = Presence(**sizes)
        self.hidden_time = nn.Linear(10, width, bias=False)
        self.onset = nn.Linear(ONSET_WAVES, width, bias=False)
        self.latent = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.cls = nn.Parameter(torch.randn(1, width) * 0.02) if cls else None
        self.prompt = nn.Parameter(torch.randn(len(MODES), width) * 0.02) if prompts else None
        self.masked_latent = nn.Parameter(torch.randn(latents, width) * 0.02) if mask_latents else None
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                dropout=dropout,
                cross=None if (depth - 1 - i) % 2 else self._reader(memory_width, memory_side),
            )
            for i in range(depth)
        )
        self.norm = norm(width)

    def _reader(self, memory_width: int | None, side: int) -> MapAttention | None:
        """What a block reads the conditioning sequence with."""
        if memory_width is None:
            return None
        return MapAttention(self.width, self.heads, memory_width=memory_width, latents=self.latents, side=side)

    def forward(
        self,
        batch: SpikeBatch,
        unit: Tensor,
        plan: MaskPlan,
        expected: Tensor,
        *,
        memory: Tensor | None = None,
        level: int | None = None,
    ) -> Tensor:
        """unit [G, N, E]; expected [B, N, C], see :func:`expected_events`.

        memory [B, K, memory_width] conditions the backbone where it was asked for. level: 0 gives what the chunks hold
        before the backbone, k what its k-th block leaves; without it the normalised output of the last. With prompts
        and a plan without a mode, all four are tried and their latents averaged (an ensemble).
        """
        visible_unit = batch.per_window(batch.unit_mask) & ~plan.hidden_unit
        # encode: chunks of 50 ms to latents
        x = self.chunks(batch, unit, plan, expected)
        x = x + self.latent + self.presence(unit, visible_unit, batch.windows // batch.groups)[:, None]
        hidden = self._hidden_share(plan.hidden_tick, x.shape[1]).to(x.dtype)
        x = x + self.hidden_time(hidden)[:, :, None]
        x = x + self._since_onset(x.shape[1], batch.locked.to(x.dtype))[:, :, None]
        if self.masked_latent is not None:
            x = torch.where((hidden > 0.999).all(-1)[..., None, None], self.masked_latent, x)
        # process: all latents of the window, both directions in time unless it is causal
        x = x.flatten(1, 2)
        if self.prompt is None:
            return self._process(x, self.cls, batch, memory, level)
        if (plan.mode >= 0).all():
            return self._process(x, self.prompt[plan.mode], batch, memory, level)
        every = [self._process(x, prompt[None], batch, memory, level) for prompt in self.prompt]
        return torch.stack(every).mean(0)

    def _process(
        self, x: Tensor, first: Tensor | None, batch: SpikeBatch, memory: Tensor | None, level: int | None
    ) -> Tensor:
        """The backbone over x [B, C * L, D], with the token ``first`` [1 or B, D] in front if there is one."""
        if first is not None:
            x = torch.cat([first[:, None].expand(len(x), 1, -1), x], dim=1)
        phase = rotary_phase(self.latent_times(batch.window_ms, x.device), self.head_width)
        seen = self._seen(x.shape[1], x.device) if self.reach else None
        for block in self.blocks[:level]:
            x = block(x, phase=phase, memory=memory, seen=seen)
        return self.norm(x) if level is None else x

    def _seen(self, tokens: int, device: torch.device) -> Tensor:
        """[M, M] bool: the latents of its own chunk and of those within reach before it."""
        chunk = torch.arange(tokens, device=device) // self.latents
        before = chunk[:, None] - chunk
        return (before >= 0) & (before < self.reach)

    def _since_onset(self, chunks: int, locked: Tensor) -> Tensor:
        """[B, C, D]: the time of each chunk, told where the window knows the stimulus onset."""
        centre = (torch.arange(chunks, device=locked.device, dtype=torch.float32) + 0.5) * self.chunk_ms
        wave = torch.view_as_real(rotary_phase(centre, ONSET_WAVES, shortest_ms=4.0 * self.chunk_ms)).flatten(1)
        return self.onset(wave.to(locked.dtype)) * locked[:, None, None]

    def latent_times(self, window_ms: int, device: torch.device | str = "cpu") -> Tensor:
        """[M] ms: the centre of each latent's chunk (the centre of the window for the token in front)."""
        chunks = -(-window_ms // self.chunk_ms)
        centre = (torch.arange(chunks, device=device, dtype=torch.float32) + 0.5) * self.chunk_ms
        time = centre.repeat_interleave(self.latents)
        return torch.cat([time.new_tensor([window_ms / 2]), time]) if self.in_front else time

    def _hidden_share(self, hidden_tick: Tensor, chunks: int) -> Tensor:
        """[B, C, 10]: the share of each tenth of each chunk that is hidden in time."""
        padded = F.pad(hidden_tick.float(), (0, chunks * self.chunk_ms - hidden_tick.shape[1]))
        return F.adaptive_avg_pool1d(padded.view(len(padded), chunks, self.chunk_ms), 10)
