"""What the encoder may not see, and the loss must score: four modes, drawn per window, one plan object.

Modes after MtM (Hurwitz et al. 2024), moved in front of the Perceiver: events are removed, never replaced.
Shape letters: see the package docstring. True = hidden = scored; what is hidden and not scored has a mask of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.modes import MODES, Mode


@dataclass(kw_only=True)
class MaskPlan:
    """hidden_unit [B, N], hidden_tick [B, window_ms]: True where the encoder sees nothing. mode [B]: index in MODES.

    unscored_unit [B, N]: True for those of the hidden units that the loss does not score either (None: all are scored).
    sees_nothing: all units are hidden in all windows, as where an image alone is seen.
    """

    hidden_unit: Tensor
    hidden_tick: Tensor
    mode: Tensor
    unscored_unit: Tensor | None = None
    sees_nothing: bool = False

    def rows(self, index: Tensor) -> MaskPlan:
        """The plan of some windows."""
        unscored = None if self.unscored_unit is None else self.unscored_unit[index]
        parts = {"hidden_unit": self.hidden_unit[index], "hidden_tick": self.hidden_tick[index]}
        return replace(self, mode=self.mode[index], unscored_unit=unscored, **parts)

    def hides_event(self, batch: SpikeBatch) -> Tensor:
        """[S] bool, True for an event that must be removed from the input."""
        window = batch.event_window
        unit = self.hidden_unit.flatten()[window * self.hidden_unit.shape[1] + batch.event_unit]
        return unit | self.hidden_tick.flatten()[window * self.hidden_tick.shape[1] + batch.event_tick]

    def scored(self, batch: SpikeBatch) -> Tensor:
        """[B, N, T] bool: cells that are wholly hidden, of existing units but the unscored ones."""
        whole_bin = self.hidden_tick.unflatten(1, (-1, batch.bin_ms)).all(-1)
        cells = self.hidden_unit[:, :, None] | whole_bin[:, None, :]
        units = batch.per_window(batch.unit_mask)
        if self.unscored_unit is not None:
            units = units & ~self.unscored_unit
        return cells & units[:, :, None]


def nothing_hidden(batch: SpikeBatch) -> MaskPlan:
    """The plan of downstream use: the encoder sees all."""
    b, n, _ = batch.target.shape
    device = batch.target.device
    return MaskPlan(
        hidden_unit=torch.zeros(b, n, dtype=torch.bool, device=device),
        hidden_tick=torch.zeros(b, batch.window_ms, dtype=torch.bool, device=device),
        mode=torch.full((b,), -1, device=device),
    )


def everything_hidden(batch: SpikeBatch) -> MaskPlan:
    """The plan of encoding: the encoder sees no spike."""
    plan = nothing_hidden(batch)
    plan.hidden_unit[:] = True
    plan.hidden_tick[:] = True
    plan.sees_nothing = True
    return plan


def on_host(tensor: Tensor) -> np.ndarray:
    """``tensor`` as it was before :meth:`SpikeBatch.to` moved it; copied where it came to be on a device."""
    return getattr(tensor, "host", tensor).cpu().numpy()


class Masker:
    """Draws a plan a batch. Each window gets a mode of its own.

    ratios: mode -> (low, high), the share that is hidden and scored: of the window's time (temporal), of all units
    (neuron), of one region's units (intra_region, inter_region). As in the protocols by which a model is scored, other
    units may be hidden besides: in intra_region all other regions', so that a unit is told from its own region alone;
    in inter_region those of no known region, which may lie in the scored one. span_ms: length of a hidden stretch of
    time, (25, 40) by default, its start on any millisecond so that it straddles chunks.
    Guards: intra_region wants a region with at least two units, inter_region at least two regions; a window that
    has none falls back to neuron, and a window with fewer than two units to temporal. Temporal wants bins that two
    stretches can hide as a whole, for nothing else is scored; with longer ones (windows of one bin) it is neuron.
    whole_chunks_ms: hide whole chunks of that length in time instead (for masking behind the Perceiver).
    """

    def __init__(
        self,
        *,
        modes: Sequence[Mode] = MODES,
        ratios: dict[str, tuple[float, float]] | None = None,
        span_ms: tuple[int, int] = (25, 40),
        min_region_units: int = 2,
        whole_chunks_ms: int | None = None,
    ) -> None:
        if not modes or any(mode not in MODES for mode in modes):
            raise ValueError(f"masking modes are {', '.join(MODES)}; got {list(modes)}")
        self.modes = tuple(modes)
        self.ratios = {
            "temporal": (0.5, 0.75),
            "neuron": (0.3, 0.5),
            "intra_region": (0.5, 0.75),
            "inter_region": (0.5, 1.0),
        } | (ratios or {})
        self.span_ms = span_ms
        self.min_region_units = min_region_units
        self.whole_chunks_ms = whole_chunks_ms

    def draw(self, batch: SpikeBatch, rng: np.random.Generator, mode: Mode | None = None) -> MaskPlan:
        """One plan for ``batch``; ``mode`` fixes the mode of every window (frozen evaluation masks)."""
        windows, n = batch.windows, batch.unit_row.shape[1]
        device = batch.target.device
        exists, region = on_host(batch.unit_mask), on_host(batch.region)
        group = np.repeat(np.arange(batch.groups), windows // batch.groups)
        wanted = rng.integers(len(self.modes), size=windows)
        low_high = {name: self.ratios[name] for name in MODES}
        ratio = rng.random(windows)
        actual = np.empty(windows, dtype=np.int64)
        pool = exists[group]
        besides = np.zeros_like(pool)
        whole = (
            batch.bin_ms <= 2 * self.span_ms[1]
            or batch.window_ms <= self.span_ms[1]
            or self.whole_chunks_ms is not None
        )
        possible = functools.cache(lambda name, g: self._possible(name, exists[g], region[g], whole))
        for b, g in enumerate(group):
            name, codes = possible(mode or self.modes[wanted[b]], g)
            actual[b] = MODES.index(name)
            low, high = low_high[name]
            ratio[b] = low + (high - low) * ratio[b]
            if codes is not None:
                pool[b] &= region[g] == rng.choice(codes)
                besides[b] = exists[g] & (region[g] < 0) if name == "inter_region" else exists[g] & ~pool[b]
        temporal = actual == MODES.index("temporal")
        size = pool.sum(1)
        count = np.maximum(1, np.round(ratio * size)).astype(np.int64)
        count = np.where(actual == MODES.index("inter_region"), np.minimum(count, size), np.minimum(count, size - 1))
        count[temporal] = 0
        rank = np.where(pool, rng.random((windows, n)), np.inf).argsort(1).argsort(1)
        hidden_tick = np.zeros((windows, batch.window_ms), dtype=bool)
        if temporal.any():
            hidden_tick[temporal] = self._spans(batch.window_ms, ratio[temporal], rng)
        return MaskPlan(
            hidden_unit=torch.from_numpy((rank < count[:, None]) | besides).to(device),
            hidden_tick=torch.from_numpy(hidden_tick).to(device),
            mode=torch.from_numpy(actual).to(device),
            unscored_unit=torch.from_numpy(besides).to(device),
        )

    def _possible(
        self, mode: Mode, exists: np.ndarray, region: np.ndarray, whole: bool
    ) -> tuple[Mode, np.ndarray | None]:
        """The mode that this session allows, and the regions to choose from (None: all units). ``whole``: whether bins
        can be hidden in time.
        """
        codes, sizes = np.unique(region[exists & (region >= 0)], return_counts=True)
        if mode == "intra_region" and (sizes >= self.min_region_units).any():
            return mode, codes[sizes >= self.min_region_units]
        if mode == "inter_region" and len(codes) >= 2:
            return mode, codes
        if (mode == "temporal" and whole) or exists.sum() < 2:
            return "temporal", None
        return "neuron", None

    def _spans(self, window_ms: int, ratio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """[len(ratio), window_ms] bool: stretches of span_ms from any millisecond, until ``ratio`` is hidden."""
        if self.whole_chunks_ms is not None:
            chunks = -(-window_ms // self.whole_chunks_ms)
            count = np.clip(np.round(ratio * chunks), 1, max(1, chunks - 1))
            rank = rng.random((len(ratio), chunks)).argsort(1).argsort(1)
            return np.repeat(rank < count[:, None], self.whole_chunks_ms, axis=1)[:, :window_ms]
        hidden = np.zeros((len(ratio), window_ms), dtype=bool)
        low, high = self.span_ms
        if window_ms <= high:
            return ~hidden
        tick = np.arange(window_ms)
        for _ in range(4 * window_ms // low):
            open_rows = hidden.mean(1) < ratio
            if not open_rows.any():
                break
            start = rng.integers(1 - low, window_ms, size=len(ratio))[:, None]
            span = rng.integers(low, high + 1, size=len(ratio))[:, None]
            hidden |= (tick >= start) & (tick < start + span) & open_rows[:, None]
        return hidden
