"""Contrastive MLPs on responses, averaged over time or by learned attention over it, in the manner of Ciferri et al.

Ciferri et al. 2026 (arXiv:2601.11108): simple models of this kind lead on macaque multi-unit activity. Letters: I rows
(presentations), T time bins, N units, D embedding dimensions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobridge.baselines.steps import minimise


def contrastive_loss(predicted: Tensor, target: Tensor, image: Tensor, log_scale: Tensor) -> Tensor:
    """InfoNCE both ways, of predictions and targets [I, D]; rows with one ``image`` [I] are each other's positives."""
    scores = log_scale.clamp(max=math.log(100.0)).exp() * F.normalize(predicted, dim=-1) @ F.normalize(target, dim=-1).T
    positive = (image[:, None] == image).to(scores.dtype)
    positive = positive / positive.sum(1, keepdim=True)
    both_ways = scores.log_softmax(1) + scores.log_softmax(0)
    return -(positive * both_ways).sum() / (2 * len(scores))


class TemporalMLP(nn.Module):
    """[I, T, N] -> [I, D]: one vector a row by attention over time (or the mean), then one hidden layer."""

    def __init__(self, *, bins: int, units: int, outputs: int, hidden: int, dropout: float, attention: bool) -> None:
        super().__init__()
        self.score = nn.Linear(units, 1) if attention else None
        self.when = nn.Parameter(torch.zeros(bins, 1)) if attention else None
        self.mlp = nn.Sequential(
            nn.LayerNorm(units), nn.Linear(units, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def weights(self, x: Tensor) -> Tensor:
        """Weight of each bin [I, T, 1], by what it holds and where it is; sums to one."""
        if self.score is None:
            return torch.full_like(x[..., :1], 1 / x.shape[1])
        return (self.score(x) / math.sqrt(x.shape[-1]) + self.when).softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp((self.weights(x) * x).sum(1))


class ContrastiveDecoder:
    """Responses -> embeddings by a shallow MLP under InfoNCE; with ``attention`` the time bins are weighed by learning.

    Inputs are standardised a unit by the training rows; time is averaged where ``attention`` is off.
    """

    def __init__(
        self,
        *,
        attention: bool = False,
        hidden: int = 512,
        dropout: float = 0.5,
        steps: int = 400,
        batch: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.attention, self.hidden, self.dropout, self.seed = attention, hidden, dropout, seed
        self.training = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "weight_decay": weight_decay}
        self.losses: list[float] = []

    def fit(self, responses: np.ndarray, embeddings: np.ndarray, image: np.ndarray | None = None) -> ContrastiveDecoder:
        """responses [I, N] or [I, T, N]; embeddings [I, D]; image [I]: which picture a row shows (default: all differ).

        Raises ValueError where attention over time is asked for and there is no time.
        """
        if self.attention and responses.ndim != 3:
            raise ValueError(f"attention over time takes responses [rows, bins, units], got {responses.shape}")
        axes = tuple(range(responses.ndim - 1))
        self.mean, self.scale = responses.mean(axes), np.maximum(responses.std(axes), 1e-6)
        x, target = self._standardised(responses), torch.as_tensor(embeddings, dtype=torch.float32)
        shown = torch.arange(len(x)) if image is None else torch.as_tensor(image)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.network = network = TemporalMLP(
                bins=x.shape[1],
                units=x.shape[2],
                outputs=target.shape[1],
                hidden=self.hidden,
                dropout=self.dropout,
                attention=self.attention,
            )

            def loss(rows: Tensor) -> Tensor:
                return contrastive_loss(network(x[rows]), target[rows], shown[rows], network.log_scale)

            self.losses = minimise(network, loss, rows=len(x), seed=self.seed, **self.training)
        return self

    @torch.no_grad()
    def predict(self, responses: np.ndarray) -> np.ndarray:
        """Unit-length embeddings [I, D]."""
        return F.normalize(self.network(self._standardised(responses)), dim=-1).numpy()

    @torch.no_grad()
    def time_weights(self, responses: np.ndarray) -> np.ndarray:
        """[I, T]: how much each bin counts."""
        return self.network.weights(self._standardised(responses))[..., 0].numpy()

    def _standardised(self, responses: np.ndarray) -> Tensor:
        x = torch.as_tensor((responses - self.mean) / self.scale, dtype=torch.float32)
        return x if x.ndim == 3 else x[:, None]
