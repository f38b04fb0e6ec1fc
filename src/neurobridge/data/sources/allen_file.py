"""What a session's file of Allen Visual Coding Neuropixels holds, read and checked: the ground of import and doctor.

Letters: N units, S spikes, P presentations, K intervals.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from neurobridge.data.intervals import merged
from neurobridge.data.nwb import Nwb, Ragged, Series
from neurobridge.data.nwb_doctor import FAR, UNIT_MIX_UP, Look, wrong_ids, wrong_intervals, wrong_spikes, wrong_times
from neurobridge.data.recording import UNKNOWN_REGION

SCENES, MOVIES = "natural_scenes", "natural_movie"
SUFFIX = "_presentations"
BLANK = -1
LAST_FRAME = 117
METRICS = ("firing_rate", "isi_violations", "presence_ratio", "amplitude_cutoff", "snr", "d_prime")
NO_REGION = ("", "none", "nan", "grey")
ELECTRODES = "general/extracellular_ephys/electrodes"
RUNNING = "processing/running/running_speed"
RUNNING_ENDS = f"{RUNNING}_end_times/timestamps"
NOT_PARAMETERS = (
    "id", "start_time", "stop_time", "stimulus_name", "stimulus_block", "stimulus_index", "tags", "timeseries",
)  # fmt: skip


@dataclass(kw_only=True)
class Presentations:
    """One table: ``start``, ``stop`` [P] in s; ``condition`` [P]; ``frame`` [P] of scenes and movies, NaN elsewhere."""

    start: np.ndarray
    stop: np.ndarray
    condition: np.ndarray
    frame: np.ndarray


@dataclass(kw_only=True)
class Found:
    """What stands in the file; None for what is absent or cannot be used.

    ids, regions, usable (the channel is valid) [N]; invalid [K, 2]; running_ends [T], where they are known. timeless:
    how many rows of the tables have no time or no duration; they are left out.
    """

    ids: np.ndarray | None = None
    spikes: Ragged | None = None
    regions: np.ndarray | None = None
    usable: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, Presentations] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    timeless: int = 0
    observed: Ragged | None = None
    invalid: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    running: Series | None = None
    running_ends: np.ndarray | None = None


def look_at(nwb: Nwb, wanted: tuple[str, ...]) -> tuple[Look, Found]:
    """Everything that the importer needs, noted as it is read; ``wanted`` names tables (none: all)."""
    look, found = Look(nwb.path), Found()
    _stimuli(nwb, look, found, wanted)
    last = max((float(t.stop.max()) for t in found.tables.values() if len(t.stop)), default=float("nan"))
    _units(nwb, look, found, last)
    found.running = look.at(
        RUNNING,
        "speed in cm/s at ascending times",
        lambda: nwb.series(RUNNING),
        wrong=lambda series: _wrong_speed(series, last),
        mend="the session is imported without running speed",
        fatal=False,
    )
    if found.running is not None and nwb.has(RUNNING_ENDS):
        rows = len(found.running.times)
        found.running_ends = look.at(
            RUNNING_ENDS,
            "one time a speed",
            lambda: nwb.numbers(RUNNING_ENDS, rows=rows),
            wrong=lambda ends: wrong_times(ends, last, "presentations end at"),
            mend="the start of a sample is taken for its time",
            fatal=False,
        )
    return look, found


def _stimuli(nwb: Nwb, look: Look, found: Found, wanted: tuple[str, ...]) -> None:
    names = [name.removesuffix(SUFFIX) for name in nwb.members("intervals") if name.endswith(SUFFIX)]
    chosen = [name for name in names if not wanted or name in wanted]
    missing = [name for name in wanted if name not in names]
    other_set = bool(names) and nwb.word("general/stimulus") == "functional_connectivity"
    found.left_out = [name for name in names if name not in chosen]
    told = f"{len(names)} tables of presentations ({', '.join(names)})"
    look.note(
        "intervals",
        found=f"{told}; no {', '.join(missing)}" if missing else told,
        expected=f"{', '.join(wanted) or 'anything'}, each with '{SUFFIX}' at its end",
        ok=bool(names) and (not missing or other_set),
        mend="name tables that are there (--tables), or download the file again (before NWB 2.2.2 it was one table)",
    )
    for name in chosen:
        presentations = _presentations(nwb, look, name)
        if presentations is not None:
            lasting = presentations.stop > presentations.start
            found.tables[name] = Presentations(**{key: column[lasting] for key, column in vars(presentations).items()})
            found.timeless += int((~lasting).sum())
    if found.timeless:
        told = f"{found.timeless} presentations that stop when they start: left out"
        look.note("intervals", found=told, expected="presentations that last")
    if nwb.has("intervals/invalid_times"):
        edges = _edges(nwb, look, "intervals/invalid_times")
        found.invalid = merged(np.stack(edges, axis=1)) if edges else found.invalid
    else:
        look.note("intervals/invalid_times", found="absent", expected="absent where all times are valid")


def _edges(nwb: Nwb, look: Look, table: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Starts and stops of a table of intervals, in s."""
    start = look.at(f"{table}/start_time", "seconds", lambda: nwb.numbers(f"{table}/start_time"), wrong=wrong_times)
    if start is None:
        return None

    def wrong(stop: np.ndarray) -> str:
        bad = np.flatnonzero(stop < start)
        backwards = f"row {bad[0]} stops at {stop[bad[0]]:.6g} but starts at {start[bad[0]]:.6g}" if len(bad) else ""
        return wrong_times(stop) or backwards

    rows = len(start)
    stop = look.at(
        f"{table}/stop_time",
        "seconds, after the start",
        lambda: nwb.numbers(f"{table}/stop_time", rows=rows),
        wrong=wrong,
    )
    return None if stop is None else (start.astype(np.float64), stop.astype(np.float64))


def _presentations(nwb: Nwb, look: Look, name: str) -> Presentations | None:
    table = f"intervals/{name}{SUFFIX}"
    edges = _edges(nwb, look, table)
    if edges is None:
        return None
    start, stop = edges
    if name != SCENES:
        frame = None
        if name.startswith(MOVIES) and nwb.has(f"{table}/frame"):
            frame = look.at(f"{table}/frame", "frame numbers", lambda: nwb.floats(f"{table}/frame", rows=len(start)))
        frame = np.full(len(start), np.nan) if frame is None else frame
        return Presentations(start=start, stop=stop, condition=_conditions(nwb, name, len(start)), frame=frame)
    typical = float(np.median(stop - start)) if len(start) else 0.0
    if typical > 0.25 * FAR:
        told = f"a table of presentations of {typical:.4g} s {UNIT_MIX_UP}"
        look.note(table, found=told, expected="presentations of 0.25 s", ok=False, mend="bring the times to seconds")
        return None
    expected = f"frame numbers 0 to {LAST_FRAME}, {BLANK} for the blank"
    frame = look.at(
        f"{table}/frame", expected, lambda: nwb.floats(f"{table}/frame", rows=len(start)), wrong=_wrong_frame
    )
    if frame is None:
        return None
    shown = ["unknown" if np.isnan(f) else "blank" if f == BLANK else f"{int(f)}" for f in frame.tolist()]
    condition = np.array([f"{SCENES}/{name}" for name in shown], dtype=str)
    return Presentations(start=start, stop=stop, condition=condition, frame=frame)


def _conditions(nwb: Nwb, name: str, rows: int) -> np.ndarray:
    """[P]: the table's name with every parameter, such as drifting_gratings/contrast=0.8,orientation=45."""
    table = f"intervals/{name}{SUFFIX}"
    texts = []
    for column in nwb.members(table):
        if column.removesuffix("_index") not in NOT_PARAMETERS:
            values = nwb.texts(f"{table}/{column}", rows=rows).tolist()
            texts.append([f"{column}={value.removesuffix('.0')}" for value in values])
    joined = [f"{name}/{','.join(row)}" for row in zip(*texts, strict=True)]
    return np.array(joined if texts else [name] * rows, dtype=str)


def _units(nwb: Nwb, look: Look, found: Found, last: float) -> None:
    found.ids = look.at("units/id", "one id a unit", lambda: nwb.numbers("units/id"), wrong=wrong_ids)
    units = None if found.ids is None else len(found.ids)
    spikes = "units/spike_times"
    found.spikes = look.at(
        spikes,
        "a list of seconds a unit",
        lambda: nwb.ragged(spikes, rows=units),
        wrong=lambda ragged: wrong_spikes(ragged, last, "presentations end at"),
    )
    early = 0 if found.spikes is None else int((found.spikes.values < 0).sum())
    if early:
        look.note(spikes, found=f"{early} times below 0, which are not valid: left out", expected="seconds from 0 on")
    if nwb.has("units/obs_intervals"):
        key, expected = "units/obs_intervals", "intervals in s a unit"
        found.observed = look.at(
            key, expected, lambda: nwb.ragged(key, rows=units, dimensions=2), wrong=wrong_intervals
        )
    for name in ("quality", *METRICS):
        read = nwb.texts if name == "quality" else nwb.floats
        column = look.at(
            f"units/{name}",
            "one value a unit",
            lambda read=read, name=name: read(f"units/{name}", rows=units),
            mend="the session is imported without this column",
            fatal=False,
        )
        if column is not None:
            found.columns[name] = column
    _regions(nwb, look, found, units)


def _regions(nwb: Nwb, look: Look, found: Found, units: int | None) -> None:
    ids, location, valid = (f"{ELECTRODES}/{name}" for name in ("id", "location", "valid_data"))
    electrodes = look.at(ids, "one id a channel", lambda: nwb.numbers(ids), wrong=wrong_ids)
    channels = None if electrodes is None else len(electrodes)
    acronyms = look.at(location, "acronyms of structures", lambda: nwb.texts(location, rows=channels))
    usable = look.at(
        valid,
        "true where a channel is usable",
        lambda: nwb.numbers(valid, rows=channels),
        mend="every channel is taken for usable",
        fatal=False,
    )

    def wrong(peak: np.ndarray) -> str:
        bad = [] if electrodes is None else np.flatnonzero(~np.isin(peak, electrodes))
        return f"row {bad[0]} is {peak[bad[0]]}, the id of no electrode (a row number?)" if len(bad) else ""

    peak = look.at(
        "units/peak_channel_id",
        "values of electrodes/id",
        lambda: nwb.numbers("units/peak_channel_id", rows=units),
        wrong=wrong,
        mend="write the id of each unit's channel",
    )
    if peak is None or electrodes is None or acronyms is None:
        return
    order = np.argsort(electrodes)
    channel = order[np.searchsorted(electrodes, peak, sorter=order)]
    names = [name.strip() for name in acronyms.tolist()]
    names = np.array([UNKNOWN_REGION if name.lower() in NO_REGION else name for name in names], dtype=str)
    found.regions = names[channel]
    found.usable = np.ones(len(peak), dtype=bool) if usable is None else usable[channel].astype(bool)


def _wrong_frame(frame: np.ndarray) -> str:
    odd = (frame != np.round(frame)) | (frame < BLANK) | (frame > LAST_FRAME)
    bad = np.flatnonzero(np.isfinite(frame) & odd)
    return f"row {bad[0]} is {frame[bad[0]]:g}" if len(bad) else ""


def _wrong_speed(series: Series, last: float) -> str:
    if series.unit.lower() not in ("cm/s", "m/s"):
        return f"in '{series.unit}'"
    if series.values.ndim != 1:
        return "more than one speed a time"
    defect = wrong_times(series.times, last, "presentations end at")
    return defect or ("its times are not ascending" if (np.diff(series.times) < 0).any() else "")
