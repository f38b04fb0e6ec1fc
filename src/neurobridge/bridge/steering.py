"""Pictures that explain a response: its log likelihood as a function of the picture, and the climb up its gradient.

Source: Pierzchlewicz et al. 2023 (energy guided diffusion: the gradient of an encoding model's error steers a sampler);
Naselaris et al. 2009 (an encoding model and a prior reconstruct without a decoder).

Letters: B batch, I responses, G gallery images, N units, F features of a layer, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import nn

from neurobridge.bridge.encoding import LinearEncoding
from neurobridge.vision.encoders import ImageEncoder, embed_together, to_tensor

PIXELS = 8


class EncoderStack(nn.Module):
    """Several layers of one frozen network in a single pass, after the picture itself, averaged to 8 x 8 pixels.

    ``encoders`` are of one network and one resolution; each layer comes out as its own encoder would give it.
    """

    def __init__(self, encoders: Sequence[ImageEncoder]) -> None:
        super().__init__()
        assert len({(e.name, e.resolution) for e in encoders}) == 1, "one network, at one resolution"
        self.encoders = nn.ModuleList(encoders)

    @property
    def layers(self) -> int:
        """K, how many layers come out."""
        return 1 + len(self.encoders)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """``images`` [B, 3, H, W] in [0, 1] -> K layers [B, F]; differentiable."""
        coarse = F.adaptive_avg_pool2d(images, PIXELS).flatten(1)
        return [coarse, *embed_together(list(self.encoders), images)]  # pyright: ignore

    @torch.no_grad()
    def features(self, pixels: np.ndarray, *, batch_size: int = 16) -> list[np.ndarray]:
        """``pixels`` [I, H, W, 3] uint8 -> K layers [I, F] float32."""
        parts = [self(to_tensor(pixels[at : at + batch_size])) for at in range(0, len(pixels), batch_size)]
        return [torch.cat(layer).numpy() for layer in zip(*parts, strict=True)]


class ResponseLikelihood(nn.Module):
    """A fitted :class:`LinearEncoding` of the layers of ``features``, in float32, as a function of pictures.

    ``features`` maps images [B, 3, H, W] in [0, 1] to the K layers [B, F] that the encoding was fitted on (or to the
    only one): an :class:`EncoderStack` or an :class:`ImageEncoder`. ``repeats``: how many presentations a response is
    the average of, where the encoding was fitted on single ones; the noise is divided by it. ``units`` N.
    """

    def __init__(self, encoding: LinearEncoding, features: nn.Module, *, repeats: float = 1.0) -> None:
        super().__init__()
        self.features, self.layers = features, len(encoding.layers)
        self.square_root = encoding.square_root
        offset = np.array(encoding.center, np.float64)
        for k, (layer, share) in enumerate(zip(encoding.layers, encoding.stacking, strict=True)):
            weights = layer.weights / layer.scale[:, None] * share
            offset += (layer.intercept - encoding.center) * share - layer.mean @ weights
            self.register_buffer(f"weights{k}", torch.from_numpy(weights).float())
        whiten = np.linalg.inv(np.linalg.cholesky(encoding.covariance / repeats)).T
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

    @torch.no_grad()
    def expected_of(self, pixels: np.ndarray, *, batch_size: int = 16, progress: bool = True) -> torch.Tensor:
        """Expected responses [I, N] to ``pixels`` [I, H, W, 3] uint8, a batch at a time."""
        starts = range(0, len(pixels), batch_size)
        steps = track(starts, "expected responses", transient=True, disable=not progress)
        return torch.cat([self.expected(to_tensor(pixels[at : at + batch_size])) for at in steps])


def ascend(
    start: torch.Tensor,
    responses: torch.Tensor,
    *,
    likelihood: ResponseLikelihood,
    autoencoder: nn.Module,
    steps: int = 30,
    rate: float = 0.1,
    pull: float = 1.0,
    variation: float = 10.0,
    batch_size: int = 10,
    progress: bool = True,
) -> torch.Tensor:
    """Pictures [I, 3, H, W] in [0, 1] that explain ``responses`` [I, N] better than ``start`` [I, 3, H, W] does.

    Adam (``rate``, in units of the latents' standard deviation) on the latents of ``autoencoder``, whose ``factor``
    divides H and W. What is minimised, an image: minus its log likelihood in nats a unit, plus ``pull`` times its
    squared distance to the start (mean over pixels, as a share of the start's variance), plus ``variation`` times its
    total variation (mean absolute difference of neighbouring pixels). An image depends on no other one of its batch.
    """
    drawn = []
    rows = range(0, len(start), batch_size)
    for at in track(rows, "likelihood ascent", transient=True, disable=not progress):
        first, response = start[at : at + batch_size], responses[at : at + batch_size]
        with torch.no_grad():
            origin = autoencoder.encode(first)
        scale = origin.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
        spread = first.var(dim=(1, 2, 3)).clamp(min=1e-4)
        change = torch.zeros_like(origin, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=rate)
        for _ in range(steps):
            images = autoencoder.decode(origin + scale * change)
            explained = likelihood(images, response) / likelihood.units
            distance = (images - first).square().mean(dim=(1, 2, 3)) / spread
            loss = pull * distance + variation * total_variation(images) - explained
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
        with torch.no_grad():
            drawn.append(autoencoder.decode(origin + scale * change).clamp(0, 1))
    return torch.cat(drawn)


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference [B] of vertical and of horizontal neighbours, added; ``images`` [B, 3, H, W]."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    right = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    return down + right


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
