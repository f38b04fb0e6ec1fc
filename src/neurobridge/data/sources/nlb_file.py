"""What a file of NLB MC_Maze holds, read and checked: the ground of import and doctor.

Letters: N units, S spikes, P trials, K intervals, T samples, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neurobridge.data.nwb import AGAIN, Nwb, Ragged, Series
from neurobridge.data.nwb_doctor import UNIT_MIX_UP, Look, wrong_ids, wrong_intervals, wrong_spikes, wrong_times
from neurobridge.data.nwb_observed import INVALID, invalid_times
from neurobridge.data.recording import UNKNOWN_REGION

TRIALS = "intervals/trials"
ELECTRODES = "general/extracellular_ephys/electrodes"
BEHAVIOUR = ("hand_pos", "hand_vel", "cursor_pos", "eye_pos")


@dataclass(kw_only=True)
class Found:
    """What stands in the file; None for what is absent or cannot be used.

    ids, held_out, regions [N]; invalid [K, 2] s, a set; onset, within (the onset lies in its trial), trial_split,
    condition [P].
    """

    ids: np.ndarray | None = None
    spikes: Ragged | None = None
    held_out: np.ndarray | None = None
    observed: Ragged | None = None
    invalid: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    regions: np.ndarray | None = None
    onset: np.ndarray | None = None
    within: np.ndarray | None = None
    trial_split: np.ndarray | None = None
    condition: np.ndarray | None = None
    behaviour: dict[str, Series] = field(default_factory=dict)


def look_at(nwb: Nwb) -> tuple[Look, Found]:
    """Everything that the importer needs, noted as it is read."""
    look, found = Look(nwb.path), Found()
    test = is_test(nwb.path)
    found.ids = look.at("units/id", "one id a unit", lambda: nwb.numbers("units/id"), wrong=wrong_ids)
    units = None if found.ids is None else len(found.ids)
    found.observed = look.at(
        "units/obs_intervals",
        "a list of intervals in s a unit",
        lambda: nwb.ragged("units/obs_intervals", rows=units, dimensions=2),
        wrong=_wrong_intervals,
    )
    last = float("nan") if found.observed is None else float(found.observed.values[:, 1].max())
    found.spikes = look.at(
        "units/spike_times",
        "a list of seconds a unit",
        lambda: nwb.ragged("units/spike_times", rows=units),
        wrong=lambda spikes: wrong_spikes(spikes, last, "units were observed until"),
    )
    found.held_out = look.at(
        "units/heldout",
        "true for held-out units",
        lambda: nwb.numbers("units/heldout", rows=units),
        wrong=lambda held: "" if np.isin(held, (0, 1)).all() else "not true or false",
        fatal=not test,
    )
    if nwb.has(INVALID):
        invalid = look.at(INVALID, "intervals in s", lambda: invalid_times(nwb))
        found.invalid = found.invalid if invalid is None else invalid
    _regions(nwb, look, found, units)
    _trials(nwb, look, found, test)
    for name in BEHAVIOUR:
        key = f"processing/behavior/{name}"
        if test and not nwb.has(key):
            continue
        series = look.at(
            key,
            "samples [T, D] at 1 kHz, with gaps",
            lambda key=key: nwb.series(key),
            wrong=lambda series: _wrong_series(series, last),
            mend=f"the session is imported without {name}",
            fatal=False,
        )
        if series is not None:
            found.behaviour[name] = series
    return look, found


def _regions(nwb: Nwb, look: Look, found: Found, units: int | None) -> None:
    """``units/electrodes`` holds *rows* of the electrode table, one or several a unit; the first tells the region."""

    def read() -> np.ndarray:
        if nwb.has("units/electrodes_index"):
            ragged = nwb.ragged("units/electrodes", rows=units)
            rows = np.full(len(ragged.ends), -1)
            some = ragged.counts > 0
            rows[some] = np.nan_to_num(ragged.values[(ragged.ends - ragged.counts)[some]], nan=-1)
        else:
            rows = np.nan_to_num(nwb.numbers("units/electrodes", rows=units), nan=-1).astype(np.int64)
        names = nwb.texts(f"{ELECTRODES}/location")
        if nwb.has(f"{ELECTRODES}/group_name"):
            groups = nwb.texts(f"{ELECTRODES}/group_name", rows=len(names))
            names = np.where(np.isin(np.char.lower(names), ("", "none", "nan", "unknown")), groups, names)
        bad = np.flatnonzero((rows < -1) | (rows >= len(names)))
        if len(bad):
            found = f"{rows[bad[0]]} in row {bad[0]}"
            look.note("units/electrodes", found=found, expected=f"rows 0 to {len(names) - 1}", ok=False, mend=AGAIN)
        told = (rows >= 0) & (rows < len(names))
        return np.array([names[row] if ok else UNKNOWN_REGION for row, ok in zip(rows, told, strict=True)], dtype=str)

    found.regions = look.at(
        "units/electrodes", "rows of electrodes, with a location", read, mend="regions become 'unknown'", fatal=False
    )


def _trials(nwb: Nwb, look: Look, found: Found, test: bool) -> None:
    start = look.at(f"{TRIALS}/start_time", "seconds", lambda: nwb.numbers(f"{TRIALS}/start_time"))
    rows = None if start is None else len(start)
    stop = look.at(f"{TRIALS}/stop_time", "seconds", lambda: nwb.numbers(f"{TRIALS}/stop_time", rows=rows))

    def outside(onset: np.ndarray) -> np.ndarray:
        if start is None or stop is None:
            return np.zeros(len(onset), dtype=bool)
        return (onset < start) | (onset > stop)

    def wrong(onset: np.ndarray) -> str:
        told = int(np.isfinite(onset).sum())
        defect = wrong_times(onset[np.isfinite(onset)])
        strays = np.flatnonzero(outside(onset))
        if told == 0:
            return "no onset at all"
        if defect or 2 * len(strays) <= told:
            return defect
        return f"row {strays[0]}, and most others, are not within their trial {UNIT_MIX_UP}"

    onset = f"{TRIALS}/move_onset_time"
    found.onset = look.at(onset, "seconds, within the trial", lambda: nwb.floats(onset, rows=rows), wrong=wrong)
    found.within = None if found.onset is None else ~outside(found.onset)
    split = f"{TRIALS}/split"
    found.trial_split = look.at(
        split,
        "'test'" if test else "'train' and 'val'",
        lambda: nwb.texts(split, rows=rows),
        wrong=lambda names: wrong_splits(set(names.tolist()), test),
    )
    parts = [
        look.at(key, "half of the condition", lambda key=key: nwb.texts(key, rows=rows), fatal=not test)
        for key in (f"{TRIALS}/trial_type", f"{TRIALS}/trial_version")
        if not test or nwb.has(key)
    ]
    if len(parts) == 2 and parts[0] is not None and parts[1] is not None:
        pairs = zip(parts[0].tolist(), parts[1].tolist(), strict=True)
        found.condition = np.array(["/".join(part.removesuffix(".0") for part in pair) for pair in pairs], dtype=str)


def wrong_splits(names: set[str], test: bool) -> str:
    """What is wrong with the words of the split column, as a half sentence; empty if nothing is."""
    if strange := sorted(names - {"train", "val", "test", "none", ""}):
        return f"'{strange[0]}' among them, which is no split"
    return "" if test or {"train", "val"} <= names else "not both of them"


def is_test(file: Path) -> bool:
    """True for the part of a set whose labels are not public."""
    return "desc-test" in file.name


def _wrong_intervals(observed: Ragged) -> str:
    none = len(observed.values) == 0 or (observed.counts == 0).any()
    return wrong_intervals(observed) or ("a unit without intervals" if none else "")


def _wrong_series(series: Series, last: float) -> str:
    if series.values.ndim != 2:
        return f"of shape {series.values.shape}, not [T, D]"
    defect = wrong_times(series.times, last, "units were observed until")
    return defect or ("its times are not ascending" if (np.diff(series.times) <= 0).any() else "")
