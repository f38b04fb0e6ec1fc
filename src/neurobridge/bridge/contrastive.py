"""Contrastive losses between predicted and true embeddings: InfoNCE, MixCo, SoftCLIP.

Repeats of one image are positives of each other, never negatives. Shape letters: B rows (of all ranks), K components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MIXED_SHARE = 0.5  # of the rows of a batch (MindEye)
MIXED_BETA = 0.15  # both parameters of the Beta distribution of the shares (MindEye)


def similarities(predicted: Tensor, target: Tensor, log_scale: Tensor) -> Tensor:
    """Cosines [B, B] times a learnable inverse temperature, which is clamped at 100 (Radford et al. 2021)."""
    return F.normalize(predicted, dim=-1) @ F.normalize(target, dim=-1).T * log_scale.clamp(max=math.log(100.0)).exp()


def shares_of(image: Tensor, target_image: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, B]: row i spreads one over all columns whose ``target_image`` [B] is its ``image`` [B]."""
    same = (image[:, None] == target_image[None, :]).to(dtype)
    return same / same.sum(1, keepdim=True)


def info_nce(predicted: Tensor, target: Tensor, image: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018; Radford et al. 2021) with a clamped learnable inverse temperature.

    predicted, target [B, K]; image [B]: rows that show the same image are positives of each other, never negatives.
    """
    similarity = similarities(predicted, target, log_scale)
    same = shares_of(image, image, similarity.dtype)
    forward = -(same * similarity.log_softmax(1)).sum(1).mean()
    backward = -(same * similarity.T.log_softmax(1)).sum(1).mean()
    return (forward + backward) / 2


@dataclass(kw_only=True)
class Mixture:
    """Which row each row of a batch was mixed with: partner [B] int64 (a row), share [B] of its own (1: unmixed)."""

    partner: Tensor
    share: Tensor

    @classmethod
    def draw(cls, image: Tensor, groups: int, rng: np.random.Generator) -> Mixture:
        """Half of the rows get a partner of their own group (session); image [B], -1: unknown, never mixed."""
        partner = np.arange(len(image))
        for rows in np.split(partner.copy(), groups):
            partner[rows] = rng.permutation(rows)
        share = np.where(rng.random(len(image)) < MIXED_SHARE, rng.beta(MIXED_BETA, MIXED_BETA, len(image)), 1.0)
        known = image.cpu().numpy() >= 0
        share = np.where(known & known[partner], share, 1.0).astype(np.float32)
        partner = np.where(share < 1, partner, np.arange(len(image)))
        return cls(partner=torch.from_numpy(partner).to(image.device), share=torch.from_numpy(share).to(image.device))

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows [B, ...] of a batch, mixed."""
        share = self.share.to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))
        return share * rows + (1 - share) * rows[self.partner]


def mixco(
    predicted: Tensor, target: Tensor, image: Tensor, log_scale: Tensor, partner_image: Tensor, share: Tensor
) -> Tensor:
    """InfoNCE of mixed inputs with soft targets, both ways (Kim et al. 2020; Scotti et al. 2023, equation 1).

    Row i shows ``share`` [B] of ``image`` [B] and the rest of ``partner_image`` [B], which is in the batch too. With
    shares of one it is :func:`info_nce`.
    """
    similarity = similarities(predicted, target, log_scale)
    share = share.to(similarity.dtype)[:, None]
    weight = share * shares_of(image, image, similarity.dtype)
    weight = weight + (1 - share) * shares_of(partner_image, image, similarity.dtype)
    forward = -(weight * similarity.log_softmax(1)).sum(1).mean()
    backward = -(weight * similarity.log_softmax(0)).sum(0).mean()
    return (forward + backward) / 2


def soft_clip(predicted: Tensor, target: Tensor, log_scale: Tensor) -> Tensor:
    """Cross-entropy against the targets' own similarities, at one temperature (Gao et al. 2023; Scotti et al. 2023).

    predicted, target [B, K]. Repeats of one image have one target, so they share its weight and repel nothing.
    """
    similarity = similarities(predicted, target, log_scale)
    wanted = similarities(target, target, log_scale).detach().softmax(1)
    forward = -(wanted * similarity.log_softmax(1)).sum(1).mean()
    backward = -(wanted * similarity.T.log_softmax(1)).sum(1).mean()
    return (forward + backward) / 2
