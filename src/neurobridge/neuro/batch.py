"""SpikeBatch: what the model takes. Shape letters: see the package docstring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(kw_only=True)
class SpikeBatch:
    """B windows of equal length from G sessions, B / G consecutive windows a session.

    unit_row     [G, N] int64, row of each unit in the vocabulary (0 where padded)
    unit_mask    [G, N] bool, True for a unit that exists
    region       [G, N] int64, code of the brain region (-1: unknown)
    event_window [S] int64, window of each event;  event_unit [S] int64, its column in N
    event_tick   [S] int64, milliseconds since the start of the window
    event_value  [S] float or None: None for spikes, the count or envelope for value-carrying signals
    target       [B, N, T] float: spike counts a bin, or the value in that bin
    window_ms, bin_ms: lengths in ms
    stimulus     [B] int64, row of the image shown in its image set (-1: none)
    locked       [B] bool, True for a window that begins at a known time after the onset of a stimulus
    session      [G] int64, index of the session; row [B] int64, index of the window within its session
    course       [G, N, T] float or None: log of each unit's own time course over its mean rate, in locked windows
    unit_window  [G, N, 2] ms or None: the part of a window that each unit is seen in (:meth:`within`)
    """

    unit_row: Tensor
    unit_mask: Tensor
    region: Tensor
    event_window: Tensor
    event_unit: Tensor
    event_tick: Tensor
    event_value: Tensor | None
    target: Tensor
    window_ms: int
    bin_ms: int
    stimulus: Tensor
    locked: Tensor
    session: Tensor
    row: Tensor
    course: Tensor | None = None
    unit_window: Tensor | None = None

    @property
    def windows(self) -> int:
        return self.target.shape[0]

    @property
    def groups(self) -> int:
        return self.unit_row.shape[0]

    def per_window(self, per_session: Tensor) -> Tensor:
        """[G, ...] -> [B, ...]: repeat what belongs to a session for each of its windows."""
        return per_session[:, None].expand(-1, self.windows // self.groups, *per_session.shape[1:]).flatten(0, 1)

    def to(self, device: torch.device | str) -> SpikeBatch:
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        for name in ("unit_mask", "region"):
            here, there = getattr(self, name), getattr(moved, name)
            if there is not here and here.device.type == "cpu":
                there.host = here  # masks are drawn from it, so that nothing waits for a copy back
        return moved

    def pin_memory(self) -> SpikeBatch:
        """In memory from which a GPU copies while it computes."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> SpikeBatch:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(value) for name, value in held.items() if torch.is_tensor(value)})

    def only_units(self, keep: Tensor) -> SpikeBatch:
        """Remove units in the data: ``keep`` [G, N] bool. Their events, presence and targets are gone."""
        kept = self.unit_mask & keep
        return replace(self._only_events(self.per_window(kept)[self.event_window, self.event_unit]), unit_mask=kept)

    def within(self, unit_window: Tensor) -> SpikeBatch:
        """Show each unit in a part of the window alone: ``unit_window`` [G, N, 2] ms. Targets stay."""
        low, high = self.per_window(unit_window)[self.event_window, self.event_unit].unbind(-1)
        kept = (self.event_tick >= low) & (self.event_tick < high)
        return replace(self._only_events(kept), unit_window=unit_window)

    def unseen(self, count: int) -> SpikeBatch:
        """The first ``count`` windows of each session without their events, for where every spike is hidden."""
        per_session = self.windows // self.groups

        def some(x: Tensor) -> Tensor:
            return x.unflatten(0, (-1, per_session))[:, :count].flatten(0, 1)

        kept = {name: some(getattr(self, name)) for name in ("target", "stimulus", "locked", "row")}
        return replace(self._only_events(torch.zeros_like(self.event_window, dtype=torch.bool)), **kept)

    def _only_events(self, kept: Tensor) -> SpikeBatch:
        return replace(
            self,
            event_window=self.event_window[kept],
            event_unit=self.event_unit[kept],
            event_tick=self.event_tick[kept],
            event_value=None if self.event_value is None else self.event_value[kept],
        )


def collate_windows(
    *,
    unit_rows: Sequence[Sequence[int]],
    regions: Sequence[Sequence[int]],
    windows: Sequence[Sequence[tuple]],
    window_ms: int,
    bin_ms: int,
    stimuli: Sequence[Sequence[int]] | None = None,
    sessions: Sequence[int] | None = None,
) -> SpikeBatch:
    """Build a batch from lists: for session g, ``windows[g]`` holds (unit columns, ticks in ms, values or None).

    Every session must give the same number of windows. Raises ValueError for a tick outside the window.
    """
    groups, per_group = len(unit_rows), len(windows[0])
    if any(len(w) != per_group for w in windows):
        raise ValueError(f"every session of a batch gives the same number of windows, got {[len(w) for w in windows]}")
    widest = max(len(rows) for rows in unit_rows)
    unit_row = torch.zeros(groups, widest, dtype=torch.int64)
    region = torch.full((groups, widest), -1, dtype=torch.int64)
    unit_mask = torch.zeros(groups, widest, dtype=torch.bool)
    for g, rows in enumerate(unit_rows):
        unit_row[g, : len(rows)] = torch.as_tensor(rows, dtype=torch.int64)
        region[g, : len(rows)] = torch.as_tensor(regions[g], dtype=torch.int64)
        unit_mask[g, : len(rows)] = True
    flat = [w for group in windows for w in group]
    lengths = torch.tensor([len(w[0]) for w in flat])
    event_window = torch.repeat_interleave(torch.arange(len(flat)), lengths)
    event_unit = torch.cat([torch.as_tensor(w[0], dtype=torch.int64) for w in flat])
    event_tick = torch.cat([torch.as_tensor(w[1], dtype=torch.int64) for w in flat])
    valued = flat[0][2] is not None
    event_value = torch.cat([torch.as_tensor(w[2], dtype=torch.float32) for w in flat]) if valued else None
    if len(event_tick) and (int(event_tick.min()) < 0 or int(event_tick.max()) >= window_ms):
        raise ValueError(f"event ticks must lie in 0..{window_ms - 1} ms, got up to {int(event_tick.max())}")
    return SpikeBatch(
        unit_row=unit_row,
        unit_mask=unit_mask,
        region=region,
        event_window=event_window,
        event_unit=event_unit,
        event_tick=event_tick,
        event_value=event_value,
        target=bin_events(
            event_window, event_unit, event_tick, event_value, (len(flat), widest, window_ms // bin_ms), bin_ms
        ),
        window_ms=window_ms,
        bin_ms=bin_ms,
        stimulus=torch.full((len(flat),), -1) if stimuli is None else torch.as_tensor([s for g in stimuli for s in g]),
        locked=torch.full((len(flat),), stimuli is not None),
        session=torch.arange(groups) if sessions is None else torch.as_tensor(sessions),
        row=torch.arange(per_group).repeat(groups),
    )


def bin_events(
    window: Tensor, unit: Tensor, tick: Tensor, value: Tensor | None, shape: tuple[int, int, int], bin_ms: int
) -> Tensor:
    """Counts (or summed values) on the [B, N, T] grid. Exact: ticks are whole milliseconds."""
    b, n, t = shape
    cell = (window * n + unit) * t + torch.div(tick, bin_ms, rounding_mode="floor").clamp(max=t - 1)
    weight = torch.ones(len(cell)) if value is None else value.float()
    return (
        torch.zeros(b * n * t, dtype=torch.float32, device=tick.device)
        .index_add_(0, cell, weight.to(tick.device))
        .view(b, n, t)
    )
