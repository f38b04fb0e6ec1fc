"""Pictures found by gradient: the climb in an autoencoder's latents, and the one that explains a response.

:func:`ascend` makes a picture explain a response (Pierzchlewicz et al. 2023). The other aim, features that were decoded
from the response, is in :mod:`neurobridge.bridge.inversion`.

Letters: B batch, I responses, N units, C latent channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.progress import track
from torch import nn

from neurobridge.bridge.steering import ResponseLikelihood

Loss = Callable[[torch.Tensor, slice, int], torch.Tensor]


def climb(
    start: torch.Tensor,
    loss: Loss,
    *,
    autoencoder: nn.Module,
    steps: int,
    rate: float,
    scale: torch.Tensor | None = None,
    settle: bool = False,
    batch_size: int = 10,
    title: str = "pictures",
    progress: bool = True,
) -> torch.Tensor:
    """Pictures [I, 3, H, W] in [0, 1] of less ``loss`` than ``start`` [I, 3, H, W], by Adam on latents.

    ``loss``: images [B, 3, H, W], which rows of all they are, and the step -> [B]. ``autoencoder``: its ``factor``
    divides H and W. ``scale``: how large a change of ``rate`` 1 is, [C, 1, 1] (:func:`latent_scale`), or the standard
    deviation of each start's latents. ``settle``: the rate falls to a tenth, as a cosine. An image depends on no other
    one of its batch.
    """
    drawn = []
    rows = range(0, len(start), batch_size)
    for at in track(rows, title, transient=True, disable=not progress):
        some = slice(at, at + batch_size)
        with torch.no_grad():
            origin = autoencoder.encode(start[some])
        unit = scale if scale is not None else origin.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
        change = torch.zeros_like(origin, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=rate)
        final = 0.1 * rate if settle else rate
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1), eta_min=final)
        for step in range(steps):
            value = loss(autoencoder.decode(origin + unit * change), some, step)
            optimizer.zero_grad(set_to_none=True)
            value.sum().backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            drawn.append(autoencoder.decode(origin + unit * change).clamp(0, 1))
    return torch.cat(drawn)


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

    What is minimised, an image: minus its log likelihood in nats a unit, plus ``pull`` times its squared distance to
    the start (mean over pixels, as a share of the start's variance), plus ``variation`` times its total variation.
    """

    def loss(images: torch.Tensor, rows: slice, step: int) -> torch.Tensor:
        first = start[rows]
        explained = likelihood(images, responses[rows]) / likelihood.units
        distance = (images - first).square().mean(dim=(1, 2, 3)) / first.var(dim=(1, 2, 3)).clamp(min=1e-4)
        return pull * distance + variation * total_variation(images) - explained

    options = {"batch_size": batch_size, "progress": progress, "title": "likelihood ascent"}
    return climb(start, loss, autoencoder=autoencoder, steps=steps, rate=rate, **options)


@torch.no_grad()
def latent_scale(autoencoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Standard deviation [C, 1, 1] of every latent channel over ``images`` [I, 3, H, W] and positions."""
    latents = torch.cat([autoencoder.encode(batch) for batch in images.split(64)])
    return latents.std(dim=(0, 2, 3)).clamp(min=1e-4)[:, None, None]


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference [B] of vertical and of horizontal neighbours, added; ``images`` [B, 3, H, W]."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    right = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    return down + right
