"""Pictures found by gradient: the climb in an autoencoder's latents, and two aims of it.

:func:`ascend` makes a picture explain a response (Pierzchlewicz et al. 2023); :func:`invert` gives it the features that
were decoded from the response (Shen et al. 2019, deep image reconstruction; Mahendran & Vedaldi 2015 for the total
variation; Olah et al. 2017 for the jitter, without which a picture pleases one network alone).

Letters: B batch, I responses, N units, K feature layers, D width of a layer, C latent channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import nn

from neurobridge.bridge.features import DecodedFeatures
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


def invert(
    start: torch.Tensor,
    layout: torch.Tensor,
    decoded: DecodedFeatures,
    *,
    stack: nn.Module,
    autoencoder: nn.Module,
    scale: torch.Tensor,
    steps: int = 60,
    rate: float = 0.05,
    pull: float = 4.0,
    variation: float = 2.0,
    jitter: float = 0.06,
    noise: float = 0.02,
    seed: int = 0,
    batch_size: int = 10,
    progress: bool = True,
) -> torch.Tensor:
    """Pictures [I, 3, H, W] in [0, 1] with the ``decoded`` features, laid out as ``layout`` [I, 3, H, W] is.

    ``stack``: images -> K layers [B, D], those of ``decoded``. What is minimised, an image: minus the cosines of its
    features with the decoded ones (about the library's mean; summed over layers), minus ``pull`` times the correlation
    of its pixels with the layout, plus ``variation`` times its total variation. Every step looks at the picture shifted
    and zoomed by up to ``jitter`` of its side, with ``noise`` of the pixels' range; both are drawn by ``seed``.
    """

    def loss(images: torch.Tensor, rows: slice, step: int) -> torch.Tensor:
        seen = shaken(images, seed=seed * 1_000_003 + step, jitter=jitter, noise=noise)
        agreement = decoded.agreement(stack(seen), rows).sum(dim=0)
        alike = F.cosine_similarity(centred(images), centred(layout[rows]))
        return variation * total_variation(images) - agreement - pull * alike

    options = {"batch_size": batch_size, "progress": progress, "title": "features inverted"}
    return climb(start, loss, autoencoder=autoencoder, scale=scale, settle=True, steps=steps, rate=rate, **options)


@torch.no_grad()
def latent_scale(autoencoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Standard deviation [C, 1, 1] of every latent channel over ``images`` [I, 3, H, W] and positions."""
    latents = torch.cat([autoencoder.encode(batch) for batch in images.split(64)])
    return latents.std(dim=(0, 2, 3)).clamp(min=1e-4)[:, None, None]


def shaken(images: torch.Tensor, *, seed: int, jitter: float, noise: float) -> torch.Tensor:
    """``images`` [B, 3, H, W], all shifted and zoomed alike by up to ``jitter`` of their side, with the same noise."""
    draw = torch.Generator().manual_seed(seed)
    zoom, right, down = (jitter * (2 * torch.rand(3, generator=draw) - 1)).tolist()
    grain = noise * torch.randn(1, *images.shape[1:], generator=draw)
    frame = torch.tensor([[1 + zoom, 0.0, right], [0.0, 1 + zoom, down]], device=images.device)
    grid = F.affine_grid(frame.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved + grain.to(images.device)


def centred(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> rows [B, 3 H W] of mean zero."""
    rows = images.flatten(1)
    return rows - rows.mean(dim=1, keepdim=True)


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference [B] of vertical and of horizontal neighbours, added; ``images`` [B, 3, H, W]."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    right = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    return down + right
