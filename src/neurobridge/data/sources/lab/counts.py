"""Counts in bins that follow one another, with or without stimuli: a matrix [time, unit].

Letters: T bins, N units.
"""

from __future__ import annotations

import numpy as np

from neurobridge.data.sources.lab.columns import read_arrays
from neurobridge.data.sources.lab.events import check_rates
from neurobridge.data.sources.lab.manifest import MIX_UP, Manifest, per_second, resolve
from neurobridge.errors import UserError

MOST_COUNT = 10_000
TENSOR = "lay a tensor of conditions and repeats out with a row a presentation (docs/data-format.md)"


def read_counts(manifest: Manifest, units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Times [S] in s, unit rows [S], values [S] and the span [1, 2] in s of all bins.

    Each spike of a count has a time of its own, spread evenly over the bin, and there are no values; an envelope is one
    value a bin and unit, at the bin's centre.
    """
    file, values, edges = _matrix(manifest)
    if values.shape[1] != units:
        turned = " (transposed?)" if values.shape[0] == units else ""
        raise UserError(
            f"{file}: values have shape {values.shape}, expected [time, unit] of {units} units{turned}: mend it"
        )
    start, end = manifest.duration
    if edges[0] < start - 1e-6 or edges[-1] > end + 1e-6:
        raise UserError(
            f"{file}: {len(values)} bins run from {edges[0]:g} to {edges[-1]:g} s, outside the duration of {start:g} "
            f"to {end:g} s; {MIX_UP}"
        )
    span = np.array([[edges[0], edges[-1]]])
    if manifest.signal_kind == "mua_envelope":
        centre = (edges[1:] + edges[:-1]) / 2
        count = values.shape[1]
        rows = np.tile(np.arange(count), len(centre))
        return np.repeat(centre, count), rows, values.ravel().astype(np.float32), span
    full = np.iinfo(values.dtype).max if values.dtype.kind in "iu" and values.dtype.itemsize == 1 else np.inf
    if (values == full).sum() > 1:
        raise UserError(
            f"{file}: {(values == full).sum()} values are {full}, the most that {values.dtype} holds, so counts may "
            "have been cut off there; count again with a wider type, or save these as int16 if they are right"
        )
    whole = values.astype(np.int64)
    bad = np.argwhere((values != whole) | (values < 0) | (values > MOST_COUNT))
    if len(bad):
        time, unit = bad[0]
        raise UserError(
            f"{file}: values[{time}, {unit}] is {values[time, unit]:g} ({len(bad)} such values), and a count is a "
            "whole number from 0: give what was counted, or declare the signal_kind mua_envelope"
        )
    time, unit = np.nonzero(whole)
    times_each = whole[time, unit]
    first = np.repeat(np.cumsum(times_each) - times_each, times_each)
    place = (np.arange(len(first)) - first + 0.5) / np.repeat(times_each, times_each)
    at = np.repeat(time, times_each)
    times, rows = edges[at] + place * (edges[at + 1] - edges[at]), np.repeat(unit, times_each)
    if len(times):
        check_rates(
            resolve(manifest, manifest.spikes.path), times, rows, np.arange(units) + manifest.index_base, manifest
        )
    return times, rows, None, span


def count_of_units(manifest: Manifest, *, axis: int) -> int:
    """Units along ``axis`` of the values, where no table lists them."""
    file, raw = read_arrays(manifest, manifest.spikes, ("values",), ("bin_edges",))
    shape = raw.columns["values"].shape
    if len(shape) != axis + 1:
        mend = TENSOR if len(shape) > axis + 1 else "mend them"
        raise UserError(f"{file}: values have shape {shape}, expected {axis + 1} axes, the last of units; {mend}")
    return shape[axis]


def _matrix(manifest: Manifest) -> tuple[object, np.ndarray, np.ndarray]:
    """The file, values [T, N] and edges [T + 1] of bins in s."""
    table, rate = manifest.spikes, per_second(manifest)
    file, raw = read_arrays(manifest, table, ("values",), ("bin_edges",))
    values = raw.columns["values"]
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.ndim > 2:
        raise UserError(f"{file}: values have shape {values.shape}, expected 2 axes, [time, unit]; {TENSOR}")
    if values.dtype.kind not in "iuf" or values.ndim != 2 or 0 in values.shape:
        raise UserError(f"{file}: values are {values.dtype} of shape {values.shape}, expected numbers [time, unit]")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise UserError(
            f"{file}: values[{bad[0][0]}, {bad[0][1]}] is {values[tuple(bad[0])]} ({len(bad)} such values); leave the "
            "unit out, or cut the session there"
        )
    if "bin_edges" in raw.columns and table.bin_width is not None:
        raise UserError(f"{manifest.file}: spikes have both bin_edges and bin_width; keep one")
    if "bin_edges" not in raw.columns and table.bin_width is None:
        raise UserError(
            f"{manifest.file}: the layout continuous needs to know its bins: give 'bin_width' of spikes in "
            f"{manifest.time_unit}, or an array bin_edges in {file.name}"
        )
    if table.bin_width is not None:
        if not 0 < table.bin_width < np.inf:
            raise UserError(f"{manifest.file}: bin_width is {table.bin_width}; give the length of a bin")
        return file, values, manifest.duration[0] + np.arange(len(values) + 1) * table.bin_width / rate
    edges = raw.columns["bin_edges"].ravel().astype(np.float64) / rate
    if len(edges) != len(values) + 1 or not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        turned = " (are the values transposed?)" if len(edges) == values.shape[1] + 1 else ""
        raise UserError(
            f"{file}: {len(edges)} bin_edges for values of shape {values.shape}, expected {len(values) + 1} finite, "
            f"ascending ones{turned}"
        )
    return file, values, edges
