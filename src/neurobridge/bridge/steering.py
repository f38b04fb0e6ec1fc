"""How well a picture explains a response: its log likelihood as a function of the picture, which leads a sampler.

Source: Pierzchlewicz et al. 2023 (energy guided diffusion: the gradient of an encoding model's error steers a sampler);
Naselaris et al. 2009 (an encoding model and a prior reconstruct without a decoder).

Letters: B batch, I responses, G gallery images, N units, F features of a layer, H height, W width.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from neurobridge.bridge.windowed_encoding import Encoding


class ResponseLikelihood(nn.Module):
    """A fitted encoding of the layers of ``features``, in float32, as a function of pictures.

    ``encoding``: a :class:`LinearEncoding` or :class:`WindowedEncoding`, both linear in the features. ``features`` maps
    images [B, 3, H, W] in [0, 1] to the K layers [B, F] that it was fitted on (or to the only one): a
    :class:`~neurobridge.vision.feature_stack.FeatureStack` or an image encoder. ``repeats``: how many presentations a
    response is the average of, where the encoding was fitted on single ones; the noise is divided by it. ``units`` N.
    """

    def __init__(self, encoding: Encoding, features: nn.Module, *, repeats: float = 1.0) -> None:
        super().__init__()
        weights, offset = encoding.affine()
        self.features, self.layers, self.square_root = features, len(weights), encoding.square_root
        for k, layer in enumerate(weights):
            self.register_buffer(f"weights{k}", torch.from_numpy(layer).float())
        whiten = np.linalg.inv(np.linalg.cholesky(encoding.noise.covariance / repeats)).T
        constant = np.log(np.diag(whiten)).sum() - 0.5 * len(whiten) * np.log(2 * np.pi)
        self.register_buffer("offset", torch.from_numpy(offset).float())
        self.register_buffer("whiten", torch.from_numpy(whiten).float())
        self.register_buffer("constant", torch.tensor(constant).float())
        self.units = len(whiten)

    def expected(self, images: torch.Tensor) -> torch.Tensor:
        """Expected responses [B, N] to ``images`` [B, 3, H, W] in [0, 1]; square roots, if the encoding takes those."""
        layers = self.features(images)
        layers = [layers] if isinstance(layers, torch.Tensor) else layers
        assert len(layers) == self.layers, f"fitted on {self.layers} feature layers, given {len(layers)}"
        return self.offset + torch.stack([x @ getattr(self, f"weights{k}") for k, x in enumerate(layers)]).sum(0)

    def forward(self, images: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
        """Log likelihood [B] in nats of each response [B, N] under its own image [B, 3, H, W]; differentiable."""
        error = (self.observed(responses) - self.expected(images)) @ self.whiten
        return self.constant - 0.5 * error.square().sum(dim=1)

    def between(self, responses: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Log likelihood [I, G] of each response [I, N] under every image's :meth:`expected` responses [G, N]."""
        a, b = (x.double() @ self.whiten.double() for x in (self.observed(responses), expected))
        return self.constant - 0.5 * torch.cdist(a, b).square()

    def observed(self, responses: torch.Tensor) -> torch.Tensor:
        """Responses [B, N] as the encoding compares them."""
        return responses.sqrt() if self.square_root else responses


@dataclass(frozen=True, kw_only=True)
class Steering:
    """How a sampler is led towards recorded responses, for ``sample`` of every generator.

    ``responses`` [I, N]; ``weight``: length of a step down the energy, in standard deviations of the latents (0 = off);
    ``start`` [I, 3, H, W]: the pictures that sampling starts from, if any, noised to ``strength`` of the whole way.
    """

    likelihood: ResponseLikelihood
    responses: torch.Tensor
    weight: float
    start: torch.Tensor | None = None
    strength: float = 0.5

    def to(self, device: torch.device) -> Steering:
        """The same with a copy of the likelihood on ``device``, best that of the generator."""
        return replace(self, likelihood=deepcopy(self.likelihood).to(device), responses=self.responses.to(device))

    def of(self, rows: slice) -> dict[str, Any]:
        """Arguments of ``sample`` for some of the images."""
        responses = self.responses[rows]

        def energy(images: torch.Tensor, rows: slice) -> torch.Tensor:
            return -self.likelihood(images.to(responses), responses[rows])

        options: dict[str, Any] = {"energy": energy, "energy_weight": self.weight}
        if self.start is not None:
            options |= {"start": self.start[rows], "strength": self.strength}
        return options


@torch.no_grad()
def explanation(
    likelihood: ResponseLikelihood, pictures: torch.Tensor, responses: torch.Tensor, *, batch_size: int = 10
) -> torch.Tensor:
    """Re-encoding consistency: log likelihood [I] of ``responses`` [I, N] under their ``pictures`` [I, 3, H, W]."""
    pairs = zip(pictures.split(batch_size), responses.split(batch_size), strict=True)
    return torch.cat([likelihood(*pair) for pair in pairs])
