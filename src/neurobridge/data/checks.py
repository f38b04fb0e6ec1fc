"""What makes a recording unusable, each thing in one sentence with the row and the mend. Whole, or in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import h5py
import numpy as np

from neurobridge.data.shapes import check_shapes
from neurobridge.errors import UserError

if TYPE_CHECKING:
    from neurobridge.data.recording import Recording, Stimuli

SignalKind = Literal["sorted", "threshold_crossing", "binned_count", "mua_envelope"]
BLOCK = 2**20
SPLITS = ("train", "valid", "test")
STIMULUS_FIELDS = ("start", "end", "image_id", "repeat", "split", "valid", "condition")


def check(recording: Recording, where: str) -> None:
    """Raise UserError at the first thing that makes a recording unusable; ``where`` names the file in the sentence."""
    r = recording
    check_units(r.signal_kind, r.unit_ids, r.regions, where)
    if len(r.spike_times) != len(r.spike_units):
        raise UserError(f"{where}: {len(r.spike_times)} spike times but {len(r.spike_units)} unit indices")
    check_shapes(r, where)
    if len(r.spike_times) == 0:
        raise UserError(f"{where} holds no spikes: the file is empty or the import went wrong; import it again")
    check_events(r.spike_times, r.spike_units, len(r.unit_ids), where)
    check_range(r.spike_times.min(), r.spike_times.max(), r.duration, where)
    check_observed(r.observed, where)
    if r.stimuli is not None:
        check_stimuli(r.stimuli, r.duration, where)


def check_units(signal_kind: str, unit_ids: np.ndarray, regions: np.ndarray, where: str) -> None:
    """The unit table of :func:`check`."""
    if signal_kind not in get_args(SignalKind):
        raise UserError(f"{where}: signal_kind is '{signal_kind}', expected one of {', '.join(get_args(SignalKind))}")
    if len(unit_ids) == 0:
        raise UserError(f"{where} holds no units: relax the quality filters, or leave this session out")
    if len(set(unit_ids.tolist())) != len(unit_ids):
        raise UserError(f"{where}: unit ids are not unique; every unit of a session needs an id of its own")
    if len(regions) != len(unit_ids):
        raise UserError(f"{where}: {len(regions)} regions for {len(unit_ids)} units; give one region a unit")


def check_events(times: np.ndarray, units: np.ndarray, unit_count: int, where: str, *, first: int = 0) -> None:
    """The events of :func:`check`, or a stretch of them that starts at event ``first``."""
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise UserError(f"{where}: spike {first + bad[0]} has time {times[bad[0]]}; remove non-finite times")
    bad = np.flatnonzero((units < 0) | (units >= unit_count))
    if len(bad):
        raise UserError(
            f"{where}: spike {first + bad[0]} belongs to unit row {units[bad[0]]} of {unit_count}; "
            "unit indices count from 0 (is the index base off by one?)"
        )


def check_values(values: h5py.Dataset, where: str) -> None:
    """Raise UserError for a stored value of an event that is no finite number; reads a block at a time."""
    if values.dtype.kind not in "fiu":
        raise UserError(f"{where}: the values have the type {values.dtype}, expected numbers; import it again")
    for first in range(0, len(values), BLOCK):
        bad = np.flatnonzero(~np.isfinite(values[first : first + BLOCK]))
        if len(bad):
            at = first + bad[0]
            raise UserError(f"{where}: event {at} has the value {values[at]}; leave such events out, import it again")


def check_range(earliest: float, latest: float, duration: tuple[float, float], where: str) -> None:
    """Spikes inside the recording, as :func:`check` wants them."""
    start, end = duration
    if earliest < start - 1e-6 or latest > end + 1e-6:
        raise UserError(
            f"{where}: spikes run from {earliest:.3f} to {latest:.3f} s but the recording from "
            f"{start:.3f} to {end:.3f} s (milliseconds taken for seconds?)"
        )


def check_observed(observed: np.ndarray | None, where: str) -> None:
    """The observed intervals of :func:`check`."""
    if observed is None:
        return
    if not len(observed) or not np.isfinite(observed).all():
        raise UserError(
            f"{where}: the observed intervals are {observed.tolist()[:3]}; give finite starts and ends in s"
        )
    if (np.diff(observed.ravel()) < 0).any():
        raise UserError(f"{where}: the observed intervals overlap or are not in order; sort and merge them")


def check_stimuli(stimuli: Stimuli, duration: tuple[float, float], where: str) -> None:
    """The stimulus table of :func:`check`."""
    start, end = duration
    outside = np.flatnonzero((stimuli.start < start - 1e-6) | (stimuli.end > end + 1e-6))
    if len(outside):
        row = outside[0]
        raise UserError(
            f"{where}: stimulus row {row} starts at {stimuli.start[row]:.3f} s, outside the recording "
            f"({start:.3f}-{end:.3f} s); mend the onset or the clock"
        )
    reserved = set(stimuli.columns) & set(STIMULUS_FIELDS)
    if reserved:
        raise UserError(
            f"{where}: a stimulus column is named '{min(reserved)}', which is a field of its own; rename it"
        )
    foreign = set(np.unique(stimuli.split).tolist()) - {*SPLITS, "none"}
    if foreign:
        raise UserError(f"{where}: split '{min(foreign)}' is unknown; use train, valid, test or none")
