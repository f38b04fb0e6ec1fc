"""What is known of a unit before anything of it was seen: a prior over unit vectors, learnt from the units of training.

Shape letters: see the package docstring; V = units that the prior is learnt from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

from neurobridge.errors import UserError, atomic_path

AREA_UNITS = 20.0  # an area of so many units has a mean of its own that counts as much as the mean of all


class UnitPrior:
    """A Gaussian over unit vectors: a mean an area [E], one covariance about them, ``factor`` [E, E] its root.

    A mean of few units is drawn to that of all; the covariance is shrunk by its number of units (Ledoit & Wolf 2004).
    """

    def __init__(self, *, mean: Tensor, factor: Tensor, areas: dict[str, Tensor]) -> None:
        self.mean, self.factor, self.areas = mean, factor, areas

    @classmethod
    def fit(cls, vectors: Tensor, regions: Sequence[str]) -> UnitPrior:
        """vectors [V, E] of units in ``regions`` [V]; 'unknown' is no area."""
        mean = vectors.mean(0)
        areas, centred = {}, vectors - mean
        for area in sorted(set(regions) - {"unknown"}):
            rows = torch.tensor([region == area for region in regions])
            share = float(rows.sum()) / (float(rows.sum()) + AREA_UNITS)
            areas[area] = mean + share * centred[rows].mean(0)
            centred[rows] = vectors[rows] - areas[area]
        covariance = torch.zeros(2 * vectors.shape[1:], dtype=torch.float64)  # of a single unit nothing is known
        if len(vectors) > 1:
            covariance = torch.from_numpy(ledoit_wolf(centred.double().numpy(), assume_centered=True)[0])
        level = covariance.diagonal().mean().clamp(min=1e-6)
        covariance += 1e-6 * level * torch.eye(len(covariance), dtype=covariance.dtype)
        return cls(mean=mean, factor=torch.linalg.cholesky(covariance).float(), areas=areas)

    def means(self, regions: Sequence[str]) -> Tensor:
        """[n, E] for units that lie in ``regions`` [n]."""
        return torch.stack([self.areas.get(region, self.mean) for region in regions])

    def save(self, folder: Path) -> None:
        """Write prior.safetensors and prior.json (names of the areas) into ``folder``."""
        names = sorted(self.areas)
        tensors = {"mean": self.mean, "factor": self.factor} | {f"area{i}": self.areas[n] for i, n in enumerate(names)}
        with atomic_path(folder / "prior.safetensors") as path:
            save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        with atomic_path(folder / "prior.json") as path:
            path.write_text(json.dumps(names))

    @classmethod
    def load(cls, folder: Path) -> UnitPrior:
        """Read what :meth:`save` wrote. Raises UserError where it is missing."""
        if not (folder / "prior.json").is_file():
            raise UserError(f"no prior over units in {folder}: run the pretrain stage of this version first")
        tensors = load_file(folder / "prior.safetensors")
        names = json.loads((folder / "prior.json").read_text())
        areas = {name: tensors[f"area{i}"] for i, name in enumerate(names)}
        return cls(mean=tensors["mean"], factor=tensors["factor"], areas=areas)


class NewUnits(nn.Module):
    """Vectors of new units, told by how far they lie from where they start, in the prior's own measure.

    vector = base + reach * epsilon @ factor.T, epsilon from 0: a step goes where units differ from each other, and a
    decay of epsilon is the prior's pull (the MAP estimate). ``first``: the row of the first of them in the vocabulary.
    reach [N]: how far a unit may lie from its start, in deviations of the prior (None: 1, the prior itself).
    """

    base: Tensor
    factor: Tensor
    reach: Tensor

    def __init__(self, base: Tensor, factor: Tensor, *, first: int, reach: Tensor | None = None) -> None:
        super().__init__()
        self.first = first
        self.register_buffer("base", base)
        self.register_buffer("factor", factor)
        self.register_buffer("reach", torch.ones(len(base)) if reach is None else reach)
        self.epsilon = nn.Parameter(torch.zeros_like(base))

    def forward(self, unit_row: Tensor) -> Tensor:
        """Vectors [..., E] of rows of the vocabulary; padding (row 0) gets some vector that nobody looks at."""
        row = (unit_row - self.first).clamp(min=0)
        return self.base[row] + self.reach[row, None] * self.epsilon[row] @ self.factor.T
