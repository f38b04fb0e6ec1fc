"""IDEncoder: unit embeddings from calibration windows, without gradients (after SPINT, arXiv:2507.08402).

Shape letters: see the package docstring; A = calibration windows of a session.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neurobridge.errors import UserError, atomic_path


class IDEncoder(nn.Module):
    """Counts of a unit in some windows, beside what the population did in them -> its embedding.

    One MLP reads a window (the unit's counts, the population's mean counts, and their products, each in units of the
    square root of its mean), the windows are averaged, a second MLP reads the average and the log rate. So neither the
    order of units nor that of windows matters, and any number of either will do. base [E] and spread [E]: mean and
    deviation of the embeddings that the body knows; the last layer starts at 0, hence at the base.
    """

    base: Tensor
    spread: Tensor

    def __init__(self, *, bins: int, unit_width: int, hidden: int = 128) -> None:
        super().__init__()
        self.options = {"bins": bins, "unit_width": unit_width, "hidden": hidden}
        self.register_buffer("base", torch.zeros(unit_width))
        self.register_buffer("spread", torch.ones(unit_width))
        self.window = nn.Sequential(
            nn.Linear(3 * bins, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU()
        )
        self.unit = nn.Sequential(
            nn.LayerNorm(hidden + 1), nn.Linear(hidden + 1, hidden), nn.GELU(), nn.Linear(hidden, unit_width)
        )
        nn.init.zeros_(self.unit[-1].weight)
        nn.init.zeros_(self.unit[-1].bias)

    def fit_scale(self, embeddings: Tensor) -> None:
        """Set base and spread from known embeddings [V, E]."""
        self.base.copy_(embeddings.mean(0))
        self.spread.copy_(embeddings.std(0))

    def forward(self, counts: Tensor, unit_mask: Tensor) -> Tensor:
        """counts [G, A, N, T] of the calibration windows, unit_mask [G, N] bool -> embeddings [G, N, E]."""
        exists = unit_mask[:, None, :, None].to(counts.dtype)
        own = _standardised(counts * exists)
        total = exists.sum(2, keepdim=True).clamp(min=1)
        population = _standardised((counts * exists).sum(2, keepdim=True) / total).expand_as(own)
        read = self.window(torch.cat([own, population, own * population], dim=-1)).mean(1)
        log_rate = counts.mean((1, 3)).clamp(min=1e-4).log()[..., None]
        return self.base + self.spread * self.unit(torch.cat([read, log_rate], dim=-1))

    def save(self, folder: Path | str) -> None:
        """Write identity.safetensors and identity.json into ``folder``."""
        with atomic_path(Path(folder) / "identity.safetensors") as path:
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, path)
        with atomic_path(Path(folder) / "identity.json") as path:
            path.write_text(json.dumps(self.options))

    @classmethod
    def load(cls, folder: Path | str) -> IDEncoder:
        """Read what :meth:`save` wrote. Raises UserError where it is missing."""
        folder = Path(folder)
        if not (folder / "identity.json").is_file():
            raise UserError(f"no IDEncoder in {folder}: run the adapt stage with adapt.method identity first")
        encoder = cls(**json.loads((folder / "identity.json").read_text()))
        encoder.load_state_dict(load_file(folder / "identity.safetensors"))
        return encoder


def _standardised(counts: Tensor) -> Tensor:
    """(count - mean) / sqrt(mean), mean over windows and bins: [G, A, N, T]."""
    mean = counts.mean((1, 3), keepdim=True)
    return (counts - mean) / mean.abs().clamp(min=1e-3).sqrt()
