"""Pictures found by gradient in an autoencoder's latents: they get the features that were decoded from a response.

Sources: Shen et al. 2019 (deep image reconstruction); Mahendran & Vedaldi 2015 for the total variation; Olah et al.
2017 for the jitter, without which a picture pleases one network alone.

Letters: B batch, I responses, K feature layers, D width of a layer, C latent channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import nn

from neurobridge.bridge.features import DecodedFeatures


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

    ``stack``: images -> K layers [B, D], those of ``decoded``. ``autoencoder``: its ``factor`` divides H and W. What is
    minimised, an image, by Adam on its latents from those of ``start``: minus the cosines of its features with the
    decoded ones (about the library's mean; summed over layers), minus ``pull`` times the correlation of its pixels with
    the layout, plus ``variation`` times its total variation. ``scale``: how large a change of ``rate`` 1 is, [C, 1, 1]
    (:func:`latent_scale`); the rate falls to a tenth, as a cosine. Every step looks at the picture shifted and zoomed
    by up to ``jitter`` of its side, with ``noise`` of the pixels' range; both are drawn by ``seed``. An image depends
    on no other one of its batch.
    """
    drawn = []
    for at in track(range(0, len(start), batch_size), "features inverted", transient=True, disable=not progress):
        rows = slice(at, at + batch_size)
        with torch.no_grad():
            origin = autoencoder.encode(start[rows])
        change = torch.zeros_like(origin, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1), eta_min=0.1 * rate)
        for step in range(steps):
            images = autoencoder.decode(origin + scale * change)
            seen = shaken(images, seed=seed * 1_000_003 + step, jitter=jitter, noise=noise)
            agreement = decoded.agreement(stack(seen), rows).sum(dim=0)
            alike = F.cosine_similarity(centred(images), centred(layout[rows]))
            loss = variation * total_variation(images) - agreement - pull * alike
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            drawn.append(autoencoder.decode(origin + scale * change).clamp(0, 1))
    return torch.cat(drawn)


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
