"""When the spikes of a session could be seen: what its manifest declares, and what its files know of it.

Outside, a count is unknown and not zero. What is known: the manifest's ``observed``, the time support of a saved
TsGroup, ``obs_intervals`` of the units of an NWB file and its ``invalid_times``.

Letters: S events, K intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neurobridge.data.intervals import complement, contains, intersection, length_of, merged
from neurobridge.data.nwb import open_nwb
from neurobridge.data.nwb_observed import invalid_times, seen_by_unit, unit_intervals
from neurobridge.data.sources.lab.containers import read_npz
from neurobridge.data.sources.lab.manifest import MIX_UP, Manifest, resolve
from neurobridge.errors import UserError

QUIET_SHARE, QUIET_SPIKES = 0.05, 30  # of the duration; spikes of all units that were to be expected in such a time


def observe(
    manifest: Manifest, times: np.ndarray, units: np.ndarray, rows: np.ndarray, span: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """([S] which events were seen, [K, 2] when every unit was observed or None for throughout, both in words).

    times [S] in s; units [S] rows of the unit table; rows [S] rows of the spikes' own file; span [1, 2] s: what bins
    that follow one another cover.
    """
    start, end = manifest.duration
    seen = np.ones(len(times), dtype=bool)
    sets: list[np.ndarray] = []
    known: list[str] = []
    if span is not None:
        sets.append(span)
        known.append(f"bins of {manifest.spikes.path.name}")
    for told, one in _of_all_units(manifest, times):
        seen &= contains(times, times, one)
        sets.append(one)
        known.append(told)
    for file, table, row in dict.fromkeys(_unit_tables(manifest)):
        of_units = _unit_intervals(file, table)
        if of_units is not None:
            seen &= seen_by_unit(times, {"file": rows, "ours": units}[row], of_units)
            sets += {one.tobytes(): one for one in of_units}.values()
            known.append(f"obs_intervals of {file.name}")
    if not sets:
        return seen, None, ""
    observed = intersection(sets, start, end)
    where = f"{manifest.file}: of {start:g} to {end:g} s"
    if not len(observed):
        raise UserError(
            f"{where}, no moment was observed in all units ({', '.join(known)}): mend the intervals, or import the "
            "units of each part as a session of its own"
        )
    if not seen.any():
        raise UserError(f"{where}, no spike lies in what was observed ({', '.join(known)}); {MIX_UP}")
    told = f"observed {length_of(observed):.6g} of {end - start:.6g} s ({', '.join(known)})"
    outside = len(seen) - int(seen.sum())
    told += f", {outside} of {len(seen)} events outside left out" if outside else ""
    throughout = len(complement(observed, start, end)) == 0
    return seen, None if throughout else observed, told if outside or not throughout else ""


def silences(manifest: Manifest, times: np.ndarray, observed: np.ndarray | None) -> str:
    """What is observed, as it is declared, and so long without any spike that it may not have been; in words."""
    start, end = manifest.duration
    known = np.array([[start, end]]) if observed is None else observed
    longest = max(QUIET_SHARE * (end - start), QUIET_SPIKES * length_of(known) / max(len(times), 1))
    if np.histogram(times, bins=int(np.ceil(2 * (end - start) / longest)), range=(start, end))[0].all():
        return ""  # the usual case, without another copy of all times
    edges = np.concatenate([[start], np.sort(times), [end]])
    long = np.flatnonzero(np.diff(edges) > longest)
    gaps = intersection([np.stack([edges[long], edges[long + 1]], axis=1), known], start, end)
    gaps = gaps[gaps[:, 1] - gaps[:, 0] > longest]
    if not len(gaps):
        return ""
    where = " and ".join(f"{low:.6g} to {high:.6g} s" for low, high in gaps.tolist())
    return (
        f"no unit fired in {where}, {length_of(gaps) / (end - start):.0%} of the duration, and rates count that as "
        "silence: if nothing was recorded there, say so by 'duration' or 'observed'"
    )


def _of_all_units(manifest: Manifest, times: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(where from, intervals [K, 2]) of everything that speaks of all units."""
    if manifest.observed:
        yield f"'observed' of {manifest.file.name}", merged(np.array(manifest.observed))
    if manifest.spikes.format == "tsgroup":
        file = resolve(manifest, manifest.spikes.path)
        support = _support(file, times)
        if support is not None:
            yield f"time support of {file.name}", support
    tables = (manifest.spikes, manifest.units, manifest.stimuli)
    for file in dict.fromkeys(resolve(manifest, t.path) for t in tables if t is not None and t.format == "nwb"):
        with open_nwb(file) as opened:
            invalid = invalid_times(opened)
        if len(invalid):
            yield f"invalid_times of {file.name}", complement(invalid, *manifest.duration)


def _unit_tables(manifest: Manifest) -> Iterator[tuple[Path, str, str]]:
    """(file, table, whose rows tell the unit of an event) of the NWB tables that may hold obs_intervals."""
    for table, row in ((manifest.spikes, "file"), (manifest.units, "ours")):
        if table is not None and table.format == "nwb":
            yield resolve(manifest, table.path), table.table or "units", row
            return


def _unit_intervals(file: Path, table: str) -> list[np.ndarray] | None:
    with open_nwb(file) as opened:
        return unit_intervals(opened, table)


def _support(file: Path, times: np.ndarray) -> np.ndarray | None:
    """[K, 2] s; None where it is what pynapple takes by itself, from the first spike to the last: that says nothing."""
    edges = read_npz(file, ("start", "end")).columns
    if len(edges) < 2 or edges["start"].shape != edges["end"].shape or edges["start"].dtype.kind not in "iuf":
        return None
    support = np.stack([edges["start"].ravel(), edges["end"].ravel()], axis=1).astype(np.float64)
    taken = len(support) == 1 and len(times) > 0 and support[0].tolist() == [times.min(), times.max()]
    return None if taken or not len(support) or not np.isfinite(support).all() else merged(support)
