"""A convolutional decoder from responses straight to pixels, in the manner of MonkeySee (Le et al., NeurIPS 2024).

Each unit paints its response onto a map of the visual field through a receptive field (given, or learned); a small
upsampling network turns the map into a picture. Left out: MonkeySee's perceptual and adversarial losses, which need
networks from elsewhere; its U-net is a plain decoder here. Letters: I rows, N units, C channels, G side of the map.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobridge.baselines.steps import minimise


class FieldLayer(nn.Module):
    """Responses [I, N] -> maps [I, C, G, G]: unit n adds response * weight [n, C] * field [n, G, G].

    fields: given receptive fields; None: learned ones, softmax-normalised over the map, from nearly flat.
    """

    def __init__(self, *, units: int, channels: int, side: int, fields: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(units, channels) / units**0.5)
        self.logit = nn.Parameter(0.5 * torch.randn(units, side, side)) if fields is None else None
        self.register_buffer("given", fields)

    def fields(self) -> Tensor:
        """[N, G, G], each of sum G * G."""
        if self.logit is None:
            return self.given
        return self.logit.flatten(1).softmax(1).view_as(self.logit) * self.logit[0].numel()

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("in,nc,nyx->icyx", x, self.weight, self.fields())


def gaussian_fields(centres: np.ndarray, *, side: int, spread: float = 0.1) -> np.ndarray:
    """Fields [N, G, G] around ``centres`` [N, 2] (x, y in 0..1 of the picture), ``spread`` of the picture wide."""
    axis = (np.arange(side) + 0.5) / side
    dx, dy = axis - centres[:, :1], axis - centres[:, 1:]
    fields = np.exp(-(dy[:, :, None] ** 2 + dx[:, None] ** 2) / (2 * spread**2))
    return fields / fields.mean((1, 2), keepdims=True)


class CNNDecoder:
    """Responses [I, N] -> pictures [I, S, S, 3] in 0..1, S = ``size``, a power of two times the map's side.

    The loss is the mean absolute error of the pixels, and of the picture pooled four by four. What is learned is the
    difference from the mean training picture.
    """

    def __init__(
        self,
        *,
        size: int = 32,
        side: int = 8,
        channels: int = 32,
        steps: int = 300,
        batch: int = 32,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ) -> None:
        assert size % side == 0, "the picture's side is a multiple of the map's"
        assert (size // side).bit_count() == 1, "the map's side is doubled to the picture's"
        self.size, self.side, self.channels, self.seed = size, side, channels, seed
        self.training = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "weight_decay": weight_decay}
        self.losses: list[float] = []

    def fit(self, responses: np.ndarray, pixels: np.ndarray, centres: np.ndarray | None = None) -> CNNDecoder:
        """responses [I, N]; pixels [I, H, W, 3] uint8; centres [N, 2] of receptive fields, where they are known."""
        self.mean, self.scale = responses.mean(0), np.maximum(responses.std(0), 1e-6)
        x = self._standardised(responses)
        picture = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        picture = F.interpolate(picture, size=(self.size, self.size), mode="bilinear", antialias=True)
        self.average = picture.mean(0)
        fields = None if centres is None else gaussian_fields(np.asarray(centres, np.float64), side=self.side)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.network = network = self._network(x.shape[1], fields)

            def loss(rows: Tensor) -> Tensor:
                error = self.average + network(x[rows]) - picture[rows]
                return error.abs().mean() + F.avg_pool2d(error, 4).abs().mean()

            self.losses = minimise(network, loss, rows=len(x), seed=self.seed, **self.training)
        return self

    @torch.no_grad()
    def predict(self, responses: np.ndarray) -> np.ndarray:
        """Pictures [I, S, S, 3] float32 in 0..1."""
        picture = (self.average + self.network(self._standardised(responses))).clamp(0, 1)
        return picture.permute(0, 2, 3, 1).contiguous().numpy()

    def _network(self, units: int, fields: np.ndarray | None) -> nn.Sequential:
        given = None if fields is None else torch.as_tensor(fields, dtype=torch.float32)
        c = self.channels
        layers: list[nn.Module] = [FieldLayer(units=units, channels=c, side=self.side, fields=given)]
        for _ in range((self.size // self.side).bit_length() - 1):
            layers += [nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(4, c), nn.GELU(), nn.Upsample(scale_factor=2)]
        return nn.Sequential(*layers, nn.Conv2d(c, c, 3, padding=1), nn.GELU(), nn.Conv2d(c, 3, 3, padding=1))

    def _standardised(self, responses: np.ndarray) -> Tensor:
        return torch.as_tensor((responses - self.mean) / self.scale, dtype=torch.float32)
