"""The frozen tasks of spike prediction: what is hidden from a model, and which cells are then scored.

Shapes: ``N`` units, ``T`` bins of a window, ``W`` windows. True = hidden, and True = scored. A task depends on the name
of the session, the name of the mode and the units alone: choices are made by SHA-256 of those names, never by a
generator, so they are the same in every run, on every machine, in every version.

A mode gives a list of tasks, in which no cell is scored twice, and none where the session does not allow it (one unit,
one region): an empty list means that the session has no score in this mode. Region names that say nothing (empty,
unknown, root, void) belong to no region.

Hidden *units* are removed in the data, before a token, a presence token or an identity encoder can see them; a model
that wants them in ticks of its own repeats ``hidden_bin``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import ArrayLike

NO_REGION = ("", "unknown", "root", "void")


@dataclass(frozen=True, kw_only=True)
class Task:
    """``hidden_unit`` [N], ``hidden_bin`` [T]: not seen by the model. ``scored`` [N, T]: some of the hidden cells.

    ``name``: mode, and region or unit where there is one.
    """

    name: str
    hidden_unit: np.ndarray
    hidden_bin: np.ndarray
    scored: np.ndarray

    @property
    def hidden(self) -> np.ndarray:
        """[N, T]: every cell that the model does not see."""
        return self.hidden_unit[:, None] | self.hidden_bin


def co_smoothing(*, units: int, bins: int, session: str, share: float = 0.1) -> list[Task]:
    """A fixed ``share`` of the units (at least one) from all others; one task. None with fewer than two units."""
    if not 0 < share < 1:
        raise ValueError(f"co-smoothing holds out a share of the units between 0 and 1, got {share}")
    if units < 2:
        return []
    out = _order("co_smoothing", session, np.arange(units))[: min(units - 1, max(1, round(share * units)))]
    return [_units("co_smoothing", out, out, units, bins)]


def leave_one_out(*, units: int, bins: int) -> list[Task]:
    """Every unit in turn from all others (MtM's co-smoothing): N tasks. None with fewer than two units."""
    return [_units(f"leave_one_out {n}", [n], [n], units, bins) for n in range(units)] if units > 1 else []


def forward_prediction(*, units: int, bins: int, ahead: int) -> list[Task]:
    """The last ``ahead`` bins of the window, of all units, from the bins before them; one task."""
    if not 0 < ahead < bins:
        raise ValueError(f"forward prediction hides between 1 and {bins - 1} of {bins} bins, got {ahead}")
    hidden_bin = np.arange(bins) >= bins - ahead
    scored = np.broadcast_to(hidden_bin, (units, bins)).copy()
    return [Task(name="forward", hidden_unit=np.zeros(units, bool), hidden_bin=hidden_bin, scored=scored)]


def intra_region(*, regions: ArrayLike, bins: int, session: str, folds: int | None = None) -> list[Task]:
    """Units of one region from the other units of that region: all other regions are hidden, and not scored.

    ``regions`` [N] names. Each unit of a region is left out alone, or with ``folds`` (two or more) in fixed groups,
    one task a group. Regions with one unit give none.
    """
    if folds is not None and folds < 2:
        raise ValueError(f"intra-region prediction leaves units out in two folds or more, got {folds}")
    regions, tasks = np.asarray(regions).astype(str), []
    for region, members in _regions(regions):
        if len(members) < 2:
            continue
        order = _order(f"intra_region {region}", session, members)
        for group in np.array_split(order, min(folds or len(order), len(order))):
            hidden = np.union1d(np.flatnonzero(regions != region), group)
            tasks.append(_units(f"intra_region {region}", hidden, group, len(regions), bins))
    return tasks


def inter_region(*, regions: ArrayLike, bins: int) -> list[Task]:
    """All units of one region from the other regions: one task a region. None with fewer than two regions.

    ``regions`` [N] names. Units of no known region may lie in the scored one, so they are hidden too.
    """
    regions = np.asarray(regions).astype(str)
    known = _regions(regions)
    unknown = np.flatnonzero(~np.isin(regions, [region for region, _ in known]))
    if len(known) < 2:
        return []
    return [
        _units(f"inter_region {region}", np.union1d(members, unknown), members, len(regions), bins)
        for region, members in known
    ]


def collect(tasks: Sequence[Task], predict: Callable[[Task], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of all tasks in one array [W, N, T], and the cells [N, T] that they fill (others are NaN).

    ``predict(task)`` gives expected counts [W, N, T]; only its scored cells are read. Score the result with
    ``spikes.bits_per_spike(rates, counts, np.broadcast_to(scored, counts.shape))``.
    """
    if not tasks:
        raise ValueError("no task to score: the session does not allow this mode")
    scored, rates = np.zeros_like(tasks[0].scored), None
    for task in tasks:
        assert not (scored & task.scored).any(), "a cell is scored twice"
        prediction = np.asarray(predict(task), np.float64)
        rates = np.full(prediction.shape, np.nan) if rates is None else rates
        rates[:, task.scored] = prediction[:, task.scored]
        scored |= task.scored
    assert rates is not None
    return rates, scored


def _units(name: str, hidden: ArrayLike, scored: ArrayLike, units: int, bins: int) -> Task:
    """A task that hides units ``hidden`` and scores units ``scored`` in every bin."""
    rows, cells = np.zeros(units, bool), np.zeros((units, bins), bool)
    rows[np.asarray(hidden)], cells[np.asarray(scored)] = True, True
    return Task(name=name, hidden_unit=rows, hidden_bin=np.zeros(bins, bool), scored=cells)


def _regions(regions: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(name, units) of each region with a name that says something, in alphabetical order."""
    names = [name for name in np.unique(regions).tolist() if name.lower() not in NO_REGION]
    return [(name, np.flatnonzero(regions == name)) for name in names]


def _order(mode: str, session: str, units: np.ndarray) -> np.ndarray:
    """``units`` in an order that looks random and never changes."""
    return np.array(sorted(units.tolist(), key=lambda n: sha256(f"{mode}\n{session}\n{n}".encode()).digest()))
