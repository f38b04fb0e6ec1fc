"""What the stages ask of a picture generator, so that they need not know which one they use.

Shape letters: B batch, H height, W width, C latent channels, h, w latent height and width, T condition tokens, K their
width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch


@runtime_checkable
class PictureGenerator(Protocol):
    """Conditions in, pictures out: the small one, Stable Diffusion, or Stable Diffusion with an IP-Adapter."""

    @property
    def licence(self) -> str:
        """What its weights may be used for."""
        ...

    @property
    def sketches(self) -> bool:
        """True if it has a regression beside its diffusion: ``sketch``, ``sketch_loss`` and ``sketcher``."""
        ...

    @property
    def condition_width(self) -> int:
        """K, read from the network."""
        ...

    @property
    def tokens(self) -> int:
        """T."""
        ...

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        ...

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] in [0, 1] at the generator's own side."""
        ...

    def sample(
        self,
        condition: torch.Tensor,
        null_condition: torch.Tensor,
        *,
        seeds: list[int],
        steps: int,
        guidance: float,
        start: torch.Tensor | None = None,
        strength: float = 0.6,
    ) -> torch.Tensor:
        """One picture [B, 3, H, W] in [0, 1] for each condition [B, T, K] and seed, guided away from [T, K].

        A picture depends on its own seed and condition only. With ``start`` [B, 3, H, W], for instance a blurry image,
        sampling starts from these images, noised to ``strength`` of the whole way.
        """
        ...


@runtime_checkable
class TrainableGenerator(PictureGenerator, Protocol):
    """A generator through whose denoising loss an adapter can be trained."""

    unet: torch.nn.Module

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """All weights, frozen ones included."""
        ...

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] in [0, 1] -> latents [B, C, h, w]."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, h, w] -> images [B, 3, H, W] in [0, 1]."""
        ...

    def eval(self) -> Any:
        """No dropout."""
        ...

    def to(self, device: torch.device) -> Any:
        """All weights on ``device``."""
        ...

    def latent_losses(
        self,
        latents: torch.Tensor,
        condition: torch.Tensor,
        generator: torch.Generator,
        *,
        part: tuple[int, int] = (0, 1),
    ) -> dict[str, torch.Tensor]:
        """Scalar losses of latents [B, C, h, w] under conditions [B, T, K]; ``generator`` draws noise and timesteps.

        ``part`` (i, n): these are the i-th of every n rows of a batch, for all of which is drawn.
        """
        ...
