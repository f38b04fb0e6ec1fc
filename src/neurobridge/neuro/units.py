"""Unit vocabulary: a vector and a log-rate bias for every unit, keyed by 'dataset/subject/session/unit'. Grows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class UnitVocabulary(nn.Module):
    """What the model knows of units, one row a key, in order of arrival.

    embedding [V, E]; bias [V]: log expected count a bin, or mean value; dataset [K, E]: what all units of a data set
    share, added to each (from 0). New rows start near the mean of the existing embeddings (or near 0 in an empty
    vocabulary), the same unit of a subject alike in all sessions, with the bias at the unit's log mean rate, so that an
    unseen session starts at the null model and not below it.
    """

    dataset_row: Tensor

    def __init__(self, *, unit_width: int, init_std: float = 0.3) -> None:
        super().__init__()
        self.init_std = init_std
        self.keys: list[str] = []
        self.rows: dict[str, int] = {}
        self.embedding = nn.Parameter(torch.zeros(0, unit_width))
        self.bias = nn.Parameter(torch.zeros(0))
        self.dataset = nn.Parameter(torch.zeros(0, unit_width))
        self.register_buffer("dataset_row", torch.zeros(0, dtype=torch.int64), persistent=False)

    def __len__(self) -> int:
        return len(self.keys)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors [..., E] of the vocabulary's rows [...] int64."""
        return self.embedding[rows] + self.dataset[self.dataset_row[rows]]

    @torch.no_grad()
    def set_vectors(self, rows: Sequence[int], vectors: Tensor) -> None:
        """Make ``vectors`` [n, E] what :meth:`forward` gives for ``rows``."""
        index = torch.as_tensor(rows, device=self.embedding.device)
        self.embedding[index] = vectors - self.dataset[self.dataset_row[index]]

    def extend(self, keys: Sequence[str], *, log_rates: Tensor, seed: int = 0) -> None:
        """Add the keys that are new. The parameters are replaced: build the optimiser afterwards.

        log_rates [len(keys)]: the bias to start from. Raises ValueError where the lengths differ.
        """
        if len(log_rates) != len(keys):
            raise ValueError(f"{len(keys)} unit keys but {len(log_rates)} log rates")
        fresh = [i for i, key in enumerate(keys) if key not in self.rows]
        if not fresh:
            return
        noise = torch.stack([self._start(keys[i], seed) for i in fresh]) * self.init_std
        old = self.embedding.detach()
        if len(old):
            noise = (noise * old.std() / self.init_std).to(old) + old.mean(0)
        self._name([*self.keys, *(keys[i] for i in fresh)])
        self.embedding = nn.Parameter(torch.cat([old, noise.to(old)]))
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), log_rates[fresh].to(self.bias)]))

    def _start(self, key: str, seed: int) -> Tensor:
        """Standard normal numbers [E] that follow from the key without its session.

        The same electrode and unit of a subject starts alike in all sessions, for often it is the same neuron; what a
        session tells moves its row away.
        """
        dataset, subject, *_, unit = key.split("/")
        digest = hashlib.sha256(f"{seed} {dataset}/{subject}/{unit}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        return torch.from_numpy(rng.standard_normal(self.embedding.shape[1], dtype=np.float32))

    def rows_of(self, keys: Sequence[str]) -> list[int]:
        """Rows of known keys. Raises ValueError that names the first unknown one."""
        unknown = [key for key in keys if key not in self.rows]
        if unknown:
            raise ValueError(
                f"{len(unknown)} units are not in the vocabulary (first: '{unknown[0]}'); adapt to their session"
            )
        return [self.rows[key] for key in keys]

    def restore(self, keys: Sequence[str]) -> None:
        """Make room for ``keys`` before a state dict is loaded."""
        self._name(list(keys))
        self.embedding = nn.Parameter(torch.zeros(len(self.keys), self.embedding.shape[1]))
        self.bias = nn.Parameter(torch.zeros(len(self.keys)))

    def _name(self, keys: list[str]) -> None:
        """Set the keys; a data set that is new gets a row of zeros."""
        self.keys = keys
        self.rows = {key: row for row, key in enumerate(keys)}
        names = [key.split("/")[0] for key in keys]
        order = {name: row for row, name in enumerate(dict.fromkeys(names))}
        missing = len(order) - len(self.dataset)
        self.dataset = nn.Parameter(
            torch.cat([self.dataset.detach(), self.dataset.new_zeros(missing, self.dataset.shape[1])])
        )
        self.dataset_row = torch.tensor([order[name] for name in names], device=self.embedding.device)
