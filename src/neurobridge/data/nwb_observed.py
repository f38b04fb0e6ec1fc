"""What an NWB file knows of when its units were observed: their ``obs_intervals`` and the file's ``invalid_times``.

Letters: S spikes, K intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurobridge.data.intervals import complement, contains, intersection, merged
from neurobridge.data.nwb import Nwb, Ragged, Unreadable
from neurobridge.errors import UserError

INVALID = "intervals/invalid_times"


def unit_intervals(nwb: Nwb, table: str = "units") -> list[np.ndarray] | None:
    """The set of intervals [K, 2] s of each unit of ``table``; None where the file does not say.

    A unit without an interval is one that nothing is known of: it takes those of all the others together. Raises
    Unreadable for intervals that cannot be right.
    """
    key = f"{table}/obs_intervals"
    if not nwb.has(key):
        return None
    ragged = nwb.ragged(key, dimensions=2)
    _check(nwb, key, ragged.values)
    if not len(ragged.values):
        return None
    return split_intervals(ragged)


def split_intervals(ragged: Ragged) -> list[np.ndarray]:
    """The set of intervals [K, 2] of each row; a row without one takes those of all the others together."""
    every = merged(ragged.values)
    return [merged(one) if len(one) else every for one in np.split(ragged.values.astype(np.float64), ragged.ends[:-1])]


def observed_by_all(
    of_units: Sequence[np.ndarray] | None, invalid: np.ndarray, duration: tuple[float, float], path: Path
) -> np.ndarray | None:
    """[K, 2] s within ``duration`` when all units were observed and no time is ``invalid``; None for throughout.

    Raises UserError if there is no such time.
    """
    start, end = duration
    distinct = {one.tobytes(): one for one in of_units or ()}
    observed = intersection([*distinct.values(), complement(invalid, start, end)], start, end)
    if not len(observed):
        raise UserError(f"{path}: no moment is valid and was observed in all units; leave this session out")
    return observed if len(complement(observed, start, end)) else None


def invalid_times(nwb: Nwb) -> np.ndarray:
    """[K, 2] s, a set. Raises Unreadable for intervals that cannot be right."""
    if not nwb.has(INVALID):
        return np.empty((0, 2))
    start = nwb.numbers(f"{INVALID}/start_time")
    edges = np.stack([start, nwb.numbers(f"{INVALID}/stop_time", rows=len(start))], axis=1).astype(np.float64)
    _check(nwb, INVALID, edges)
    return merged(edges)


def seen_by_unit(times: np.ndarray, unit: np.ndarray, of_units: Sequence[np.ndarray]) -> np.ndarray:
    """[S]: which of ``times`` lie in the intervals of their unit ([S], rows of ``of_units``)."""
    order = np.argsort(unit, kind="stable")
    ends = np.searchsorted(unit[order], np.arange(len(of_units)), side="right")
    seen = np.zeros(len(times), dtype=bool)
    for rows, intervals in zip(np.split(order, ends[:-1]), of_units, strict=True):
        seen[rows] = contains(times[rows], times[rows], intervals)
    return seen


def _check(nwb: Nwb, key: str, edges: np.ndarray) -> None:
    if edges.shape[1:] != (2,):
        raise Unreadable(nwb.path, f"of shape {edges.shape}, not a start and a stop an interval", key=key)
    bad = np.flatnonzero(~(np.isfinite(edges).all(1) & (edges[:, 1] >= edges[:, 0])))
    if len(bad):
        raise Unreadable(nwb.path, f"{edges[bad[0]].tolist()} in row {bad[0]}, not a start and a later stop", key=key)
