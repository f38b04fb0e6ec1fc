"""Spikes to image embeddings: population path, readout, projector, and the space that they meet in.

Shape letters: G sessions, B windows, N units, C chunks, M latents of the backbone, D its width, K components of the
embedding space, I images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.readout import QueryReadout, cls_readout

READOUTS = ("queries", "average", "cls")
TIMES = ("chunks", "areas", "attention")


class EmbeddingSpace(nn.Module):
    """Centred principal components of an image encoder's embeddings, partly whitened; fitted on training images."""

    mean: Tensor
    components: Tensor
    deviation: Tensor

    def __init__(self, *, width: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.zeros(width, dimensions))
        self.register_buffer("deviation", torch.ones(dimensions))

    @classmethod
    def fit(cls, embeddings: Tensor, *, dimensions: int, whitening: float) -> EmbeddingSpace:
        """embeddings [I, width]. whitening 0 keeps the components' variances, 1 makes them equal."""
        dimensions = min(dimensions, *embeddings.shape)
        space = cls(width=embeddings.shape[1], dimensions=dimensions)
        mean = embeddings.mean(0)
        _, singular, right = torch.linalg.svd(embeddings - mean, full_matrices=False)
        space.mean = mean
        space.components = right[:dimensions].T.contiguous()
        space.deviation = (singular[:dimensions] / math.sqrt(len(embeddings))).clamp(min=1e-6) ** whitening
        return space

    def forward(self, embeddings: Tensor) -> Tensor:
        """[I, width] -> [I, K]."""
        return (embeddings - self.mean) @ self.components / self.deviation

    def inverse(self, target: Tensor) -> Tensor:
        """[I, K] -> [I, width], without what lies outside the kept components."""
        return (target * self.deviation) @ self.components.T + self.mean


class AlignmentHead(nn.Module):
    """Latents [B, M, D] and population responses [B, C, N] -> [B, K]: three paths, added.

    Population: every unit has a loading, a vector of its own; standardised counts times loadings, summed over units,
    chunk by chunk, then time (see below) and one linear map that all sessions share. Linear: learnable averages of the
    latents, one linear map. Nonlinear: learnable queries read the latents by cross-attention, then a three-layer MLP
    (the projector), whose last layer starts at zero. On 600-1,000 images a session the population path does most
    of the work.

    readout: how both paths of the latents read them: ``queries`` as above, ``average`` over time (one vector), or
    ``cls`` (the [CLS] token of an encoder that has one). in_front: is there a token in front of the latents, which the
    average leaves out? time: how the population path sees time: every chunk on its own (``chunks``); each unit's
    response within a window of its area (``areas``: one chunk, see ``unit_window``); or averages over chunks whose
    weights depend on what is there, one a head (``attention``, which starts as the plain average).
    loadings 0: no population path. population_hidden: its shared map has one hidden layer of that width (0: linear).
    """

    unit_window: Tensor

    def __init__(
        self,
        *,
        units: int,
        chunks: int,
        tokens: int,
        width: int,
        heads: int,
        queries: int,
        loadings: int,
        hidden: int,
        dimensions: int,
        dropout: float,
        readout: str = "queries",
        in_front: bool = False,
        time: str = "chunks",
        population_hidden: int = 0,
    ) -> None:
        super().__init__()
        self.options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        assert readout in READOUTS, f"a readout is one of {READOUTS}"
        assert time in TIMES, f"a time is one of {TIMES}"
        self.in_front, self.kind, self.time = in_front, readout, time
        vectors = queries if readout == "queries" else 1
        self.loading = nn.Parameter(torch.randn(units, loadings)) if loadings else None
        seen = loadings if time != "chunks" else chunks * loadings
        self.population = self._population(seen, population_hidden, dimensions, dropout) if loadings else None
        self.average = nn.Parameter(torch.randn(queries, tokens)) if readout == "queries" else None
        self.linear = nn.Linear(vectors * width, dimensions)
        self.readout = QueryReadout(width=width, heads=heads, queries=queries) if readout == "queries" else None
        self.projector = nn.Sequential(
            nn.LayerNorm(vectors * width),
            nn.Linear(vectors * width, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Dropout(dropout),
            nn.Linear(hidden, dimensions),
        )  # fmt: skip
        nn.init.zeros_(self.projector[-1].weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(15.0)))
        attends = time == "attention" and loadings
        together = math.gcd(loadings, heads)  # a head takes an equal part of the loadings
        self.attention = TimeAttention(chunks=chunks, width=loadings, heads=together) if attends else None
        if time == "areas":  # [units, 2] ms since the start of the window
            self.register_buffer("unit_window", torch.zeros(units, 2, dtype=torch.int64))

    @staticmethod
    def _population(seen: int, hidden: int, dimensions: int, dropout: float) -> nn.Module:
        """What all sessions share of the population path."""
        if not hidden:
            return nn.Linear(seen, dimensions)
        return nn.Sequential(
            nn.LayerNorm(seen), nn.Linear(seen, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dimensions)
        )

    def forward(self, latent: Tensor, response: Tensor, unit_row: Tensor) -> Tensor:
        """response [B, C, N] standardised (:meth:`respond`), unit_row [G, N] rows of the loadings."""
        linear, nonlinear = self._read(latent)
        if self.loading is None or self.population is None:
            return linear + nonlinear
        loading = self.loading[unit_row]
        grouped = response.unflatten(0, (len(unit_row), -1))
        population = torch.einsum("gbcn,gnr->gbcr", grouped, loading).flatten(0, 1)
        if self.attention is not None:
            population = self.attention(population)
        return self.population(population.flatten(1)) + linear + nonlinear

    def _read(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """[B, K] of the linear and of the nonlinear path."""
        if self.average is not None and self.readout is not None:
            assert latent.shape[1] == self.average.shape[1], "the head was made for windows of another length"
            pooled = torch.einsum("qm,bmd->bqd", self.average.softmax(-1), latent)
            return self.linear(pooled.flatten(1)), self.projector(self.readout(latent).flatten(1))
        read = cls_readout(latent) if self.kind == "cls" else latent[:, int(self.in_front) :].mean(1)
        return self.linear(read), self.projector(read)

    def respond(self, batch: SpikeBatch, bias: Tensor, hidden_unit: Tensor, chunk_ms: int) -> Tensor:
        """:func:`population_response` as this head wants it; bias [V] of the whole vocabulary."""
        window = self.unit_window[batch.unit_row] if self.time == "areas" else None
        return population_response(batch, bias[batch.unit_row], hidden_unit, chunk_ms, window=window)


class TimeAttention(nn.Module):
    """Weighted averages over time: [B, C, R] -> [B, R]; each head weighs its part of R by content and by time."""

    def __init__(self, *, chunks: int, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0, "a head takes an equal part of the loadings"
        self.score = nn.Linear(width, heads)
        self.when = nn.Parameter(torch.zeros(chunks, heads))
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, population: Tensor) -> Tensor:
        weight = (self.score(population) + self.when).softmax(1)
        return (population.unflatten(-1, (weight.shape[-1], -1)) * weight[..., None]).sum(1).flatten(1)


def population_response(
    batch: SpikeBatch, bias: Tensor, hidden_unit: Tensor, chunk_ms: int, *, window: Tensor | None = None
) -> Tensor:
    """Standardised responses [B, C, N]: (count - mean) / sqrt(mean) a chunk for spikes, the z-scored value for values.

    bias [G, N]: log mean count a bin. A hidden unit (``hidden_unit`` [B, N]) and a padded one give 0, the mean.
    Scaled by 1 / sqrt(units), so that sessions of different size start alike.
    window [G, N, 2] ms: one chunk alone, of the bins whose centre lies in the unit's own window.
    """
    bins = max(1, chunk_ms // batch.bin_ms)
    if window is None:
        padded = F.pad(batch.target, (0, -batch.target.shape[-1] % bins))
        response = padded.unflatten(-1, (-1, bins)).sum(-1).transpose(1, 2)
        log_bins = math.log(bins)
    else:
        centre = (torch.arange(batch.target.shape[-1], device=bias.device) + 0.5) * batch.bin_ms
        inside = (centre >= window[..., :1]) & (centre < window[..., 1:])
        response = (batch.target * batch.per_window(inside)).sum(-1)[:, None]
        log_bins = batch.per_window(inside.sum(-1).clamp(min=1).to(bias.dtype).log())[:, None]
    if batch.event_value is None:
        mean = (batch.per_window(bias)[:, None] + log_bins).exp().clamp(min=1e-2)
        response = (response - mean) / mean.sqrt()
    seen = batch.per_window(batch.unit_mask) & ~hidden_unit
    return response * (seen / seen.sum(1, keepdim=True).clamp(min=1).sqrt())[:, None]
