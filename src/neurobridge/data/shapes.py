"""A recording's columns fit together: each as long as its table, and of a kind that can be what it has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch_brain.data import Interval

from neurobridge.errors import UserError

if TYPE_CHECKING:
    from neurobridge.data.recording import Recording

NUMBERS = "fiub"


def check_shapes(r: Recording, where: str) -> None:
    """Raise UserError at the first column of another length or kind; ``where`` names the file in the sentence."""
    events, units = len(r.spike_times), len(r.unit_ids)
    if r.spike_times.dtype.kind not in "fiu" or r.spike_times.ndim != 1:
        raise UserError(
            f"{where}: spike times have {_what(r.spike_times)}, expected one list of seconds; import it again"
        )
    if r.spike_units.shape != (events,) or r.spike_units.dtype.kind not in "iu":
        raise UserError(
            f"{where}: {events} spike times but unit indices have {_what(r.spike_units)}, expected as many integers"
        )
    if r.unit_ids.ndim != 1 or r.unit_ids.dtype.kind != "U":
        raise UserError(f"{where}: unit ids have {_what(r.unit_ids)}, expected one list of text; import it again")
    for name, column in {"brain_region": r.regions, **r.unit_columns}.items():
        if column.shape[:1] != (units,):
            raise UserError(f"{where}: the unit column '{name}' has {_what(column)} for {units} units; import it again")
    if r.spike_values is not None:
        if r.spike_values.shape != (events,) or r.spike_values.dtype.kind not in NUMBERS:
            raise UserError(
                f"{where}: {events} events but values have {_what(r.spike_values)}, expected as many numbers"
            )
        bad = np.flatnonzero(~np.isfinite(r.spike_values))
        if len(bad):
            raise UserError(f"{where}: event {bad[0]} has the value {r.spike_values[bad[0]]}; remove such events")
    start, end = r.duration
    if not -np.inf < start <= end < np.inf:
        raise UserError(f"{where}: the recording runs from {start} to {end} s; mend its start and end")
    if r.stimuli is not None:
        text = ("image_id", "split", "condition")
        fixed = {name: column for name, column in vars(r.stimuli).items() if name != "columns" and column is not None}
        for name, column in {**r.stimuli.columns, **fixed}.items():
            kinds = "U" if name in text else NUMBERS if name in fixed else NUMBERS + "U"
            if column.shape[:1] != (len(r.stimuli),) or column.dtype.kind not in kinds:
                raise UserError(
                    f"{where}: stimulus column '{name}' has {_what(column)} for {len(r.stimuli)} presentations; "
                    "import it again"
                )
        bad = np.flatnonzero(~(r.stimuli.start <= r.stimuli.end))
        if len(bad):
            raise UserError(
                f"{where}: stimulus row {bad[0]} runs from {r.stimuli.start[bad[0]]} to {r.stimuli.end[bad[0]]} s; "
                "mend or remove the row"
            )
    for name, series in r.behaviour.items():
        if series.timestamps.ndim != 1 or series.values.shape[:1] != series.timestamps.shape:
            raise UserError(
                f"{where}: the times of '{name}' have {_what(series.timestamps)}, its values {_what(series.values)}; "
                "each time needs one value or row of values"
            )


def name_defect(name: str) -> str:
    """Why a file of ours can have no column called ``name``, '' if it can."""
    if name.startswith("_") or "/" in name:
        return "names do not begin with '_' and have no '/'"
    return f"torch_brain has a '{name}' of its own" if hasattr(Interval, name) and name != "split" else ""


def _what(array: np.ndarray) -> str:
    return f"shape {array.shape} and type {array.dtype}"
