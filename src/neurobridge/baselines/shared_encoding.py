"""Images -> responses, learnt from all sessions and animals together: a shared core over frozen maps, a readout a unit.

The core maps the channels of every layer to a few features that all units of all sessions use (Lurz et al. 2021); a
unit reads them through a mask over positions times weights over features, both its own (Klindt et al. 2017). So a unit
costs G^2 + C numbers instead of the G^2 C of a ridge, and a session of few images borrows the core from the others.

Letters: I images, S sessions, N units of a session, U units of all, K layers, C features of the core, G side of the
common grid, B pictures of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn


@dataclass(kw_only=True)
class SeenImages:
    """Training data of a session: ``images`` [P] rows of the feature arrays, ``responses`` [P, N] to them."""

    images: np.ndarray
    responses: np.ndarray


class SharedReadout(nn.Module):
    """Maps [B, channels, G, G] -> responses [B, N] of session ``index``, standardised as :meth:`fit` saw them."""

    def __init__(self, *, channels: int, grid: int, units: Sequence[int], features: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, features, 1)
        self.norm = nn.BatchNorm2d(features)
        self.dropout = nn.Dropout2d(dropout)
        self.first = [0, *np.cumsum(units).tolist()]
        axis = torch.linspace(-1, 1, grid) if grid > 1 else torch.zeros(1)
        bump = torch.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 0.5**2)).flatten()
        self.mask = nn.Parameter(bump / bump.norm() + 0.02 * torch.randn(self.first[-1], grid**2))
        self.weight = nn.Parameter(0.02 * torch.randn(self.first[-1], features))
        self.bias = nn.Parameter(torch.zeros(self.first[-1]))

    def core(self, maps: Tensor) -> Tensor:
        """[B, channels, G, G] -> [B, C, G * G]."""
        return self.dropout(F.gelu(self.norm(self.project(maps)))).flatten(2)

    def read(self, core: Tensor, index: int) -> Tensor:
        """[B, C, G * G] -> [B, N]."""
        units = slice(self.first[index], self.first[index + 1])
        return torch.einsum("bcp,up,uc->bu", core, self.mask[units], self.weight[units]) + self.bias[units]


class SharedEncoding:
    """One :class:`SharedReadout` a fold, each trained on the images of the other folds, of all sessions at once.

    ``expected`` of an image that was trained on comes from the one model that has not seen it, of any other image from
    the mean over folds: so residuals of training images are out of fold. An image has one fold in all sessions.

    Args of the constructor: ``features`` C of the core; ``folds``; ``epochs`` over all presentations; ``batch``
    pictures a step; ``weight_decay`` of the weights over features (decoupled, Loshchilov & Hutter 2019).
    """

    def __init__(
        self,
        *,
        features: int = 64,
        folds: int = 5,
        epochs: int = 8,
        batch: int = 128,
        learning_rate: float = 3e-3,
        weight_decay: float = 2.0,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.features, self.folds, self.epochs, self.batch = features, folds, epochs, batch
        self.learning_rate, self.weight_decay, self.dropout, self.seed = learning_rate, weight_decay, dropout, seed
        self.models: list[SharedReadout] = []
        self.losses: list[list[float]] = []

    def fit(self, maps: Tensor, sessions: Sequence[SeenImages], *, progress: bool = True) -> SharedEncoding:
        """``maps`` [I, channels, G, G] (:func:`common_maps`); squared error of each unit's standardised response."""
        self.center = [s.responses.mean(axis=0) for s in sessions]
        self.scale = [np.where(s.responses.std(axis=0) > 0, s.responses.std(axis=0), 1.0) for s in sessions]
        targets = [
            torch.from_numpy((s.responses - c) / k).float()
            for s, c, k in zip(sessions, self.center, self.scale, strict=True)
        ]
        shown = np.unique(np.concatenate([s.images for s in sessions]))
        self.fold = np.full(len(maps), -1)
        self.fold[shown] = np.random.default_rng(self.seed).permutation(len(shown)) % self.folds
        self.models, self.losses = [], []
        for fold in track(range(self.folds), "encoding, shared by sessions", disable=not progress, transient=True):
            self._fit_fold(maps, sessions, targets, fold)
        return self

    def _fit_fold(self, maps: Tensor, sessions: Sequence[SeenImages], targets: list[Tensor], fold: int) -> None:
        generator = np.random.default_rng([self.seed, fold])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + fold)
            units = [target.shape[1] for target in targets]
            model = SharedReadout(
                channels=maps.shape[1],
                grid=maps.shape[2],
                units=units,
                features=self.features,
                dropout=self.dropout,
            )
            rows = [np.flatnonzero(self.fold[s.images] != fold) for s in sessions]
            index = np.concatenate([np.full(len(r), k) for k, r in enumerate(rows)])
            row = np.concatenate(rows)
            steps = self.epochs * max(1, len(row) // self.batch)
            decayed = [model.project.weight, model.weight]
            other = [p for p in model.parameters() if all(p is not d for d in decayed)]
            groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": other, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
            warm_up = max(1, steps // 10)
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer,
                lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
            )
            losses = []
            order = np.concatenate([generator.permutation(len(row)) for _ in range(self.epochs)])
            for step in range(steps):
                drawn = np.sort(np.take(order, np.arange(step * self.batch, (step + 1) * self.batch), mode="wrap"))
                loss = self._loss(model, maps, sessions, targets, index[drawn], row[drawn])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
        self.models.append(model.eval())
        self.losses.append(losses)

    def _loss(
        self,
        model: SharedReadout,
        maps: Tensor,
        sessions: Sequence[SeenImages],
        targets: list[Tensor],
        index: np.ndarray,
        row: np.ndarray,
    ) -> Tensor:
        """Squared error a presentation, mean over its session's units; ``index`` [B] sorted."""
        images = np.concatenate([sessions[k].images[row[index == k]] for k in np.unique(index)])
        core = model.core(maps[images].float())
        total = core.new_zeros(())
        for k in np.unique(index):
            at = np.flatnonzero(index == k)
            error = model.read(core[at[0] : at[-1] + 1], int(k)) - targets[k][row[at]]
            total = total + error.square().mean(1).sum()
        return total / len(index)

    def expected(self, maps: Tensor) -> list[np.ndarray]:
        """Responses [I, N] of each session to the images that :meth:`fit` was given, each row out of fold."""
        predicted = [self._predict(model, maps) for model in self.models]
        out = []
        for k in range(len(self.center)):
            folds = np.stack([p[k] for p in predicted])
            own = folds[self.fold.clip(min=0), np.arange(len(maps))]
            out.append(np.where(self.fold[:, None] >= 0, own, folds.mean(axis=0)))
        return out

    def predict(self, maps: Tensor) -> list[np.ndarray]:
        """Responses [I, N] of each session to other images: the mean over folds."""
        predicted = [self._predict(model, maps) for model in self.models]
        return [np.mean([p[k] for p in predicted], axis=0) for k in range(len(self.center))]

    @torch.inference_mode()
    def _predict(self, model: SharedReadout, maps: Tensor) -> list[np.ndarray]:
        parts = [[] for _ in self.center]
        for batch in maps.split(256):
            core = model.core(batch.float())
            for k, part in enumerate(parts):
                part.append(model.read(core, k))
        return [
            torch.cat(part).double().numpy() * s + c for part, s, c in zip(parts, self.scale, self.center, strict=True)
        ]


def common_maps(features: Sequence[np.ndarray], grids: Sequence[int], *, grid: int = 8) -> Tensor:
    """K layers [I, C_k * g_k^2] -> one map [I, sum C_k, G, G] float16, channels standardised over images and positions.

    Coarser maps are enlarged bilinearly, finer ones averaged. Grid 0 is a layer without positions: the same everywhere.
    """
    maps = []
    for layer, side in zip(features, grids, strict=True):
        side = max(side, 1)
        x = torch.from_numpy(np.asarray(layer)).unflatten(1, (-1, side, side))
        sample = x[:: max(1, len(x) // 2048)].float()
        mean, scale = sample.mean((0, 2, 3)), sample.std((0, 2, 3)).clamp(min=1e-6)
        parts = []
        for part in x.split(512):
            z = (part.float() - mean[:, None, None]) / scale[:, None, None]
            if side > grid:
                z = F.adaptive_avg_pool2d(z, grid)
            elif side < grid:
                z = F.interpolate(z, size=(grid, grid), mode="bilinear", align_corners=False)
            parts.append(z.half())
        maps.append(torch.cat(parts))
    return torch.cat(maps, dim=1).contiguous(memory_format=torch.channels_last)
