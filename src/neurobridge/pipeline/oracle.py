"""The gate behind an adapter: pictures from true embeddings have to be recognised before any spikes are decoded.

What an adapter cannot draw from the true embedding of an image, it cannot draw from a decoded one. An adapter that
never met the generator's own loss can look trained and still draw at chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from neurobridge.errors import UserError
from neurobridge.evaluation.controls import Interval, bootstrap_interval
from neurobridge.evaluation.images import sample_diversity, two_way_identification
from neurobridge.vision.encoders import ImageEncoder, to_tensor
from neurobridge.vision.protocol import PictureGenerator

JUDGES, LAYER = ("efficientnet-lite1", "efficientnet-lite0"), "block10"
DIVERSE, SAMPLES = 8, 3


@dataclass(kw_only=True)
class Oracle:
    """two_way: its mean and interval over images; diversity: of several samples, in pixels."""

    two_way: Interval
    diversity: float
    images: int
    judge: str


@torch.no_grad()
def measure_oracle(
    generator: PictureGenerator,
    conditioner: Callable[[torch.Tensor], torch.Tensor],
    null: torch.Tensor,
    pixels: np.ndarray,
    embeddings: np.ndarray,
    *,
    target: str,
    steps: int,
    guidance: float,
    seed: int,
) -> Oracle:
    """Draw ``pixels`` [I, H, W, 3] uint8 from their true ``embeddings`` [I, D] and tell each from every other.

    The judge is block 10 of an EfficientNet-Lite other than ``target``, the network of the embeddings. The first images
    are drawn several times, for the diversity.
    """
    name = next(name for name in JUDGES if name != target)
    judge = ImageEncoder(name, layer=LAYER)
    conditions = conditioner(torch.from_numpy(embeddings).to(null.device))

    def draw(rows: slice, sample: int) -> torch.Tensor:
        some = conditions[rows]
        seeds = [seed * 1_000_003 + sample * 10_007 + i for i in range(len(some))]
        return generator.sample(some, null.detach(), seeds=seeds, steps=steps, guidance=guidance)

    def features(images: torch.Tensor) -> np.ndarray:
        return torch.cat([judge(batch) for batch in images.split(8)]).numpy()

    drawn = draw(slice(None), 0)
    true = torch.cat([generator.resize(to_tensor(pixels[at : at + 64])) for at in range(0, len(pixels), 64)])
    two_way = bootstrap_interval(two_way_identification(features(drawn), features(true)), seed=seed, share=False)
    again = [draw(slice(DIVERSE), sample) for sample in range(1, SAMPLES)]
    samples = torch.stack([drawn[:DIVERSE], *again]).numpy()
    diversity = float(sample_diversity(samples).mean())
    return Oracle(two_way=two_way, diversity=diversity, images=len(pixels), judge=f"{name} {LAYER}")


def require_oracle(oracle: Oracle, threshold: float, mend: str) -> None:
    """Raise UserError unless the whole interval of the oracle's two-way identification lies above ``threshold``."""
    mean, low, high = oracle.two_way
    if low > threshold:
        return
    raise UserError(
        f"pictures drawn from the true embeddings of {oracle.images} training images kept from the adapter are told "
        f"apart {mean:.2f} [{low:.2f}, {high:.2f}] of the time (two-way, {oracle.judge}; chance 0.50), "
        f"not surely above generator.oracle_two_way = {threshold:g}, and no spikes can do better: {mend}"
    )
