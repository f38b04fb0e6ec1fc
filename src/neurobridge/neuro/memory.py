"""What conditions the backbone: a map of features, position by position. Shape letters: see the package docstring."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MapMemory(nn.Module):
    """A map [B, K, W] -> what the blocks read of it [B, K, F]: a few features that all units of all sessions share.

    One linear map, normalised over positions and windows, and a soft threshold (the shared core of Lurz et al. 2021).
    dropout: of whole features.
    """

    def __init__(self, width: int, *, features: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.project = nn.Linear(width, features)
        self.norm = nn.BatchNorm1d(features)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, memory: Tensor) -> Tensor:
        x = self.norm(self.project(memory).transpose(1, 2))
        return self.dropout(torch.nn.functional.gelu(x)).transpose(1, 2)
