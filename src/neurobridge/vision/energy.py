"""Energy guidance (Pierzchlewicz et al. 2023): every step of a sampler goes down the gradient of an energy of pictures.

Shape letters: B batch, H height, W width, C latent channels, h, w latent height and width.

At every step a diffusion sampler foresees the clean latents that it is on the way to. They are decoded, the energy's
gradient is taken there (not through the UNet), and what the network predicted is changed so that the foreseen latents
lie one step further down. The scheduler then goes on as if the network had said so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Energy = Callable[[torch.Tensor, slice], torch.Tensor]
"""Pictures [B, 3, H, W] in [0, 1] and their rows among all that are drawn -> energies [B], each of its own picture."""


@dataclass(frozen=True, kw_only=True)
class EnergyGuidance:
    """Leads one sampler by ``weight`` standard deviations of its latents a step.

    ``decode`` maps latents [B, C, h, w] to pictures [B, 3, H, W] in [0, 1], differentiably; ``scheduler`` is of
    ``diffusers`` and predicts epsilon or v. ``at_once``: of how many pictures the gradient is taken together.
    """

    energy: Energy
    weight: float
    decode: Callable[[torch.Tensor], torch.Tensor]
    scheduler: Any
    at_once: int

    def lead(
        self, predicted: torch.Tensor, timestep: torch.Tensor | int, latents: torch.Tensor, *, first: int = 0
    ) -> torch.Tensor:
        """``predicted`` [B, C, h, w], epsilon or v for ``latents`` [B, C, h, w] at ``timestep``, led; float32.

        The pictures are rows ``first``, ``first`` + 1, ... of all that are drawn.
        """
        predicted, latents = predicted.float(), latents.float()
        kept = self.scheduler.alphas_cumprod[int(timestep)].to(latents)
        signal, noise = kept.sqrt(), (1.0 - kept).sqrt()
        if self.scheduler.config.prediction_type == "epsilon":
            foreseen, share = (latents - noise * predicted) / signal, noise / signal
        else:
            foreseen, share = signal * latents - noise * predicted, noise
        return predicted - self.weight * (self.downhill(foreseen, first) / share)

    def downhill(self, latents: torch.Tensor, first: int = 0) -> torch.Tensor:
        """The direction [B, C, h, w] of steepest descent from clean ``latents`` [B, C, h, w], of mean square 1 each."""
        steps = []
        for at in range(0, len(latents), self.at_once):
            with torch.enable_grad():
                some = latents[at : at + self.at_once].detach().requires_grad_()
                energies = self.energy(self.decode(some), slice(first + at, first + at + len(some)))
                (gradient,) = torch.autograd.grad(energies.sum(), some)
            steps.append(-gradient / gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12))
        return torch.cat(steps)

    @contextmanager
    def inside(self, first: int = 0) -> Iterator[None]:
        """Within it, a pipeline of ``diffusers`` that steps by ``scheduler`` is led, with guidance or without.

        Its callbacks see the latents after a step and not what was foreseen, so the scheduler's ``step`` is where the
        pipeline is met. The arithmetic is float32, whatever the networks' precision, lest small steps be rounded off.
        """
        plain = self.scheduler.step

        @functools.wraps(plain)
        def step(predicted: torch.Tensor, timestep: Any, latents: torch.Tensor, **options: Any) -> tuple:
            led = self.lead(predicted, timestep, latents, first=first)
            stepped = plain(led, timestep, latents.float(), **{**options, "return_dict": False})
            return tuple(part.to(latents.dtype) for part in stepped)

        self.scheduler.step = step
        try:
            yield
        finally:
            del self.scheduler.step
