"""Latents to image embeddings: readout, projector, and the space that they meet in.

Shape letters: B windows, C chunks, L latents a chunk, M latents of a window, D their width, Q readout queries,
K components of the embedding space, I images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

READOUTS = ("queries", "average", "cls")


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


class ImageHead(nn.Module):
    """Latents [B, M, D] -> [B, K]. It reads latents and nothing else; what a session owns is its units' vectors.

    Latents are standardised, feature by feature, by running statistics of training windows: what varies from window to
    window is small beside what is always there. Readout ``queries``: Q weighted averages over all latents, with weights
    that depend on place (chunk and latent) and on content, and start as the plain average; ``average`` over time, one
    vector; ``cls``: the [CLS] token of an encoder that has one. Then the projector: a linear map, to which a network of
    one hidden layer is added whose last layer starts at zero.

    level: which latents are read (:meth:`neurobridge.neuro.model.NeuroBridge.encode`), kept here for its callers.
    in_front: is there a token in front of the latents, which the average leaves out?
    """

    def __init__(
        self,
        *,
        tokens: int,
        width: int,
        dimensions: int,
        queries: int = 8,
        hidden: int = 512,
        dropout: float = 0.3,
        readout: str = "queries",
        in_front: bool = False,
        level: int | None = 0,
    ) -> None:
        super().__init__()
        self.options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        assert readout in READOUTS, f"a readout is one of {READOUTS}"
        self.kind, self.level, self.first = readout, level, int(in_front)
        self.standard = nn.BatchNorm1d(tokens * width, affine=False, momentum=0.05)
        asks = readout == "queries"
        self.place = nn.Parameter(torch.zeros(tokens, queries)) if asks else None
        self.content = nn.Parameter(torch.zeros(width, queries)) if asks else None
        vectors = (queries if asks else 1) * width
        self.linear = nn.Linear(vectors, dimensions)
        self.projector = nn.Sequential(
            nn.LayerNorm(vectors), nn.Linear(vectors, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, dimensions),
        )  # fmt: skip
        nn.init.zeros_(self.projector[-1].weight)
        nn.init.zeros_(self.projector[-1].bias)
        self.log_scale = nn.Parameter(torch.tensor(math.log(15.0)))

    def forward(self, latent: Tensor) -> Tensor:
        """Latents of :attr:`level` -> predicted embeddings, of any length."""
        assert latent.shape[1] * latent.shape[2] == self.standard.num_features, "made for windows of another length"
        read = self.read(latent)
        return self.linear(read) + self.projector(read)

    def read(self, latent: Tensor) -> Tensor:
        """[B, Q * D] (or [B, D]): what the readout takes from the standardised latents."""
        x = self.standard(latent.flatten(1)).view_as(latent)
        if self.place is None or self.content is None:
            return x[:, 0] if self.kind == "cls" else x[:, self.first :].mean(1)
        return torch.einsum("bmd,bmq->bqd", x, self._weight(x)).flatten(1)

    def attention(self, latent: Tensor) -> Tensor:
        """[B, M, Q]: the share of each latent that every query takes; of a readout with queries."""
        return self._weight(self.standard(latent.flatten(1)).view_as(latent))

    def _weight(self, x: Tensor) -> Tensor:
        assert self.place is not None, "a readout with queries"
        assert self.content is not None, "a readout with queries"
        return (self.place + x @ self.content).softmax(1)

    def fast(self) -> list[nn.Parameter]:
        """Weights that may learn at a high rate: the readout's and the linear map's."""
        slow = {id(p) for p in self.projector.parameters()}
        return [p for p in self.parameters() if id(p) not in slow]
