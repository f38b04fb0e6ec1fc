"""Spikes to image embeddings: readout queries, projector, contrastive loss, and the space that they meet in.

Shape letters: G sessions, B windows, N units, C chunks, M latents of the backbone, D its width, K components of the
embedding space, I images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.readout import QueryReadout


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
    chunk by chunk, then one linear map that all sessions share. Linear: learnable averages of the latents, one linear
    map. Nonlinear: learnable queries read the latents by cross-attention, then a three-layer MLP (the projector), whose
    last layer starts at zero. On 600-1,000 images a session the population path does most of the work.
    """

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
    ) -> None:
        super().__init__()
        self.options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.loading = nn.Parameter(torch.randn(units, loadings))
        self.population = nn.Linear(chunks * loadings, dimensions)
        self.average = nn.Parameter(torch.randn(queries, tokens))
        self.linear = nn.Linear(queries * width, dimensions)
        self.readout = QueryReadout(width=width, heads=heads, queries=queries)
        self.projector = nn.Sequential(
            nn.LayerNorm(queries * width),
            nn.Linear(queries * width, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Dropout(dropout),
            nn.Linear(hidden, dimensions),
        )  # fmt: skip
        nn.init.zeros_(self.projector[-1].weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(15.0)))

    def forward(self, latent: Tensor, response: Tensor, unit_row: Tensor) -> Tensor:
        """response [B, C, N] standardised (:func:`population_response`), unit_row [G, N] rows of the loadings."""
        assert latent.shape[1] == self.average.shape[1], "the head was made for windows of another length"
        loading = self.loading[unit_row]
        grouped = response.unflatten(0, (len(unit_row), -1))
        population = torch.einsum("gbcn,gnr->gbcr", grouped, loading).flatten(0, 1)
        pooled = torch.einsum("qm,bmd->bqd", self.average.softmax(-1), latent)
        read = self.readout(latent)
        return self.population(population.flatten(1)) + self.linear(pooled.flatten(1)) + self.projector(read.flatten(1))


def population_response(batch: SpikeBatch, bias: Tensor, hidden_unit: Tensor, chunk_ms: int) -> Tensor:
    """Standardised responses [B, C, N]: (count - mean) / sqrt(mean) a chunk for spikes, the z-scored value for values.

    bias [G, N]: log mean count a bin. A hidden unit (``hidden_unit`` [B, N]) and a padded one give 0, the mean.
    Scaled by 1 / sqrt(units), so that sessions of different size start alike.
    """
    bins = max(1, chunk_ms // batch.bin_ms)
    padded = F.pad(batch.target, (0, -batch.target.shape[-1] % bins))
    response = padded.unflatten(-1, (-1, bins)).sum(-1).transpose(1, 2)
    if batch.event_value is None:
        mean = (batch.per_window(bias)[:, None] + math.log(bins)).exp().clamp(min=1e-2)
        response = (response - mean) / mean.sqrt()
    seen = batch.per_window(batch.unit_mask) & ~hidden_unit
    return response * (seen / seen.sum(1, keepdim=True).clamp(min=1).sqrt())[:, None]


def info_nce(predicted: Tensor, target: Tensor, image: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018; Radford et al. 2021) with a clamped learnable inverse temperature.

    predicted, target [B, K]; image [B]: rows that show the same image are positives of each other, never negatives.
    """
    similarity = (
        F.normalize(predicted, dim=-1) @ F.normalize(target, dim=-1).T * log_scale.clamp(max=math.log(100.0)).exp()
    )
    same = (image[:, None] == image[None, :]).to(similarity.dtype)
    same = same / same.sum(1, keepdim=True)
    forward = -(same * similarity.log_softmax(1)).sum(1).mean()
    backward = -(same * similarity.T.log_softmax(1)).sum(1).mean()
    return (forward + backward) / 2
