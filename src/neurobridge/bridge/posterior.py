"""The mean of all pictures that a response allows: a regression trained on responses that an encoding model dreams up.

An encoding model gives a response to any picture, so a library of pictures and its noise give as many pairs as one
likes of a picture and a response. The regression from the response back to the picture then tends to the posterior mean
under the library as prior (amortised inference; Papamakarios & Murray 2016, Naselaris et al. 2009 for the library).

Letters: L library images, I responses, N units, D components.
"""

from __future__ import annotations

import numpy as np
import torch
from rich.progress import track
from torch import nn


class AmortisedPosterior(nn.Module):
    """Responses -> the posterior mean of pictures (or embeddings), in ``components`` of their principal components.

    A linear part, which is the closed-form posterior mean of a Gaussian prior (the library's mean and covariance), plus
    a net of two hidden layers that starts at zero and learns what is not linear.
    """

    def __init__(self, *, components: int = 200, hidden: int = 512, dropout: float = 0.2) -> None:
        super().__init__()
        self.components, self.hidden, self.dropout = components, hidden, dropout

    def fit(
        self,
        expected: torch.Tensor,
        covariance: np.ndarray,
        targets: np.ndarray,
        *,
        steps: int = 3000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        seed: int = 0,
        progress: bool = True,
    ) -> AmortisedPosterior:
        """Fit to a library: ``expected`` responses [L, N], noise ``covariance`` [N, N], ``targets`` [L, ...] float32.

        The targets are what the responses stand for: pixels, or an embedding. ``steps`` of zero leave the linear part
        alone.
        """
        assert len(expected) == len(targets), "one expected response a target"
        torch.manual_seed(seed)
        draw = torch.Generator().manual_seed(seed)
        self.shape = targets.shape[1:]
        scores = self._fit_components(torch.from_numpy(targets.reshape(len(targets), -1)))
        noise = torch.from_numpy(covariance)
        self._fit_linear(expected.double(), noise, scores.double())

        factor = torch.linalg.cholesky(noise).float()
        units, width = expected.shape[1], scores.shape[1]
        self.net = nn.Sequential(
            nn.Linear(units, self.hidden),
            nn.GELU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, self.hidden),
            nn.GELU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, width),
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2))
        self.train()
        for _ in track(range(steps), "posterior mean", transient=True, disable=not progress):
            rows = torch.randint(len(expected), (batch_size,), generator=draw)
            dreamt = expected[rows] + torch.randn(batch_size, units, generator=draw) @ factor.T
            loss = (self(dreamt) - scores[rows]).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        return self.eval()

    def forward(self, responses: torch.Tensor) -> torch.Tensor:
        """Responses [B, N] -> scores [B, D] of the principal components."""
        centred = responses - self.response_mean
        return self.score_mean + centred @ self.linear + self.score_scale * self.net(centred / self.response_scale)

    @torch.no_grad()
    def mean(self, responses: np.ndarray) -> np.ndarray:
        """Responses [I, N], as the encoding model compares them -> posterior means [I, ...] float32 of the targets."""
        scores = self(torch.from_numpy(np.asarray(responses, np.float32)))
        return (self.target_mean + scores @ self.basis).reshape(-1, *self.shape).numpy()

    def _fit_components(self, targets: torch.Tensor) -> torch.Tensor:
        """Principal components of ``targets`` [L, P]; returns their scores [L, D]."""
        mean = targets.mean(0)
        count = min(self.components, *targets.shape)
        _, _, basis = torch.svd_lowrank(targets - mean, q=min(count + 20, *targets.shape), niter=3)
        basis = basis[:, :count].T.contiguous()
        self.register_buffer("target_mean", mean)
        self.register_buffer("basis", basis)
        return (targets - mean) @ basis.T

    def _fit_linear(self, expected: torch.Tensor, noise: torch.Tensor, scores: torch.Tensor) -> None:
        """The Gaussian posterior mean: scores = mean + (response - mean) @ linear."""
        mean, middle = expected.mean(0), scores.mean(0)
        centred = expected - mean
        total = centred.T @ centred / len(expected) + noise
        linear = torch.linalg.solve(total, centred.T @ (scores - middle) / len(expected))
        for name, value in {
            "response_mean": mean,
            "response_scale": total.diagonal().sqrt(),
            "score_mean": middle,
            "score_scale": scores.std(0),
            "linear": linear,
        }.items():
            self.register_buffer(name, value.float())
