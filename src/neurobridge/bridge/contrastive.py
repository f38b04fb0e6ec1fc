"""The contrastive loss between predicted and true embeddings. Shape letters: B rows (of all ranks), K components."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def info_nce(predicted: Tensor, target: Tensor, image: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018; Radford et al. 2021) with a clamped learnable inverse temperature.

    predicted, target [B, K]; image [B]: rows that show the same image are positives of each other, never negatives.
    """
    cosine = F.normalize(predicted, dim=-1) @ F.normalize(target, dim=-1).T
    similarity = cosine * log_scale.clamp(max=math.log(100.0)).exp()
    same = (image[:, None] == image[None, :]).to(similarity.dtype)
    same = same / same.sum(1, keepdim=True)
    forward = -(same * similarity.log_softmax(1)).sum(1).mean()
    backward = -(same * similarity.T.log_softmax(1)).sum(1).mean()
    return (forward + backward) / 2
