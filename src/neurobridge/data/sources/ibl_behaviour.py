"""Behaviour of an IBL session: trials as presentations without a picture, and the wheel.

A trial lasts from stimulus onset to feedback. It is valid by the standard mask: reaction time (first movement minus
stimulus onset) from 0.08 to 2 s and none of six events missing. Trials and wheel mostly carry no revision.

Letters: P trials, T samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.signal

from neurobridge.data.findings import Check, unreadable
from neurobridge.data.intervals import contains
from neurobridge.data.recording import Stimuli, TimeSeries
from neurobridge.data.sources.ibl_files import Session, newest
from neurobridge.data.sources.ibl_probe import DAY_S, FETCH, in_a_day, read_array, read_table
from neurobridge.errors import UserError

EVENTS = ("stimOn_times", "choice", "feedback_times", "probabilityLeft", "firstMovement_times", "feedbackType")
NEEDED = ("intervals_0", "intervals_1", *EVENTS)
REACTION = (0.08, 2.0)
TRIALS = "_ibl_trials.table.pqt"
WHEEL = ("_ibl_wheel.position.npy", "_ibl_wheel.timestamps.npy")
WHEEL_HZ, CORNER_HZ, KEEP_EVERY, FAR_RAD = 1000, 20, 10, 1e5


def behaviour_files(session: Session, until: str = "") -> dict[str, Path]:
    """Name -> path of the trial table and the wheel, with or without a revision; absent ones are not in it."""
    found = {}
    for name in (TRIALS, *WHEEL):
        file = newest(session.path / "alf", name, until) or newest(session.path / "alf" / "task_00", name, until)
        if file:
            found[name] = file
    return found


def read_trials(files: dict[str, Path], session: Session) -> tuple[list[Check], pd.DataFrame | None]:
    """Checks of the trial table, and the table."""
    if TRIALS not in files:
        mend = "without it the session serves pretraining only: download it with ONE"
        return [_absent(session, TRIALS, mend)], None
    path = files[TRIALS]
    try:
        table = read_table(path)
    except UserError as error:
        return [unreadable(path, error)], None
    missing = [name for name in NEEDED if name not in table.columns]
    strings = [name for name in NEEDED if name not in missing and table[name].dtype.kind not in "fiub"]
    text = f"no column {missing[0]}" if missing else f"{strings[0]} is no number" if strings else f"{len(table)} trials"
    ok = not missing and not strings
    mend = "" if ok else f"is it an old revision? {FETCH}"
    checks = [Check(file=path, key="trials columns", found=text, expected=", ".join(NEEDED), ok=ok, mend=mend)]
    if not ok:
        return checks, None

    def add(key: str, rows: np.ndarray, what: str, expected: str, mend: str, *, needed: bool = True) -> None:
        bad = np.flatnonzero(rows)
        text = f"row {bad[0]}: {what} ({len(bad)} such rows)" if len(bad) else "as expected"
        ok = len(bad) == 0
        mend = "" if ok else mend
        checks.append(Check(file=path, key=key, found=text, expected=expected, ok=ok, mend=mend, needed=needed))

    values = {name: table[name].to_numpy(dtype=np.float64) for name in NEEDED}
    clock = np.stack([values[name] for name in NEEDED if "times" in name or "interval" in name])
    late = (np.abs(clock) > DAY_S).any(0)
    add(
        "trials times",
        late,
        "a time beyond one day",
        "s",
        "is it in milliseconds? Divide by 1000, or download it again",
    )
    order = np.zeros(len(table), dtype=bool)
    order[1:] = np.diff(values["intervals_0"]) < 0
    add("trials intervals_0", order, "starts before the trial above", "ascending", FETCH)
    choice, feedback = values["choice"], values["feedbackType"]
    add("trials choice", ~(np.isnan(choice) | np.isin(choice, (-1, 0, 1))), "another choice", "-1, 0 or 1", FETCH)
    add("trials feedbackType", ~(np.isnan(feedback) | np.isin(feedback, (-1, 1))), "another type", "-1 or 1", FETCH)
    nowhere = ~np.isfinite(values["intervals_0"] + values["intervals_1"])
    add("trials intervals", nowhere, "no start or end", "finite", "such trials are left out", needed=False)
    return checks, table


def check_span(files: dict[str, Path], table: pd.DataFrame, spikes: tuple[float, float]) -> Check:
    """Do the trials lie between the first and the last spike (s)? Those that do not are not valid."""
    outside = np.flatnonzero((table["intervals_1"] < spikes[0]) | (table["intervals_0"] > spikes[1]))
    text = f"{len(outside)} of {len(table)} trials outside" + (f" (first: row {outside[0]})" if len(outside) else "")
    ok = len(outside) == 0
    mend = "" if ok else "such trials are not valid; are spikes and trials of one session and clock?"
    expected = f"{spikes[0]:.3f} to {spikes[1]:.3f} s, as the spikes"
    found = {"file": files[TRIALS], "key": "trials within spikes", "found": text}
    return Check(**found, expected=expected, ok=ok, mend=mend, needed=False)


def read_wheel(files: dict[str, Path], session: Session) -> tuple[list[Check], TimeSeries | None]:
    """Checks of the wheel, and its position in rad at irregular times."""
    absent = [name for name in WHEEL if name not in files]
    if absent:
        mend = "the session is imported without its wheel: download it with ONE"
        return [_absent(session, name, mend) for name in absent], None
    checks, arrays = [], []
    for name in WHEEL:
        try:
            array = np.asarray(read_array(files[name]))
        except UserError as error:
            return [unreadable(files[name], error)], None
        ok = array.ndim == 1 and array.dtype.kind in "fiu" and bool(np.isfinite(array).all()) and len(array) > 0
        text, expected = f"{array.dtype} {array.shape}", "finite numbers (samples,)"
        key, mend = name.removesuffix(".npy").removeprefix("_ibl_"), "" if ok else FETCH
        checks.append(Check(file=files[name], key=key, found=text, expected=expected, ok=ok, mend=mend))
        arrays.append(array)
    if not all(check.ok for check in checks):
        return checks, None
    position, timestamps = arrays
    equal = len(position) == len(timestamps)
    text, mend = f"{len(timestamps)} times for {len(position)} positions", "" if equal else FETCH
    path = files[WHEEL[1]]
    checks.append(Check(file=path, key="wheel length", found=text, expected="as many", ok=equal, mend=mend))
    back = np.flatnonzero(np.diff(timestamps) < 0)
    text = f"sample {back[0] + 1} is before sample {back[0]}" if len(back) else "ascending"
    mend = FETCH if len(back) else ""
    checks.append(Check(file=path, key="wheel order", found=text, expected="ascending", ok=not len(back), mend=mend))
    low, high = float(timestamps.min()), float(timestamps.max())
    ok, text = in_a_day(low, high), f"{low:.3f} to {high:.3f}"
    mend = "" if ok else "is it in milliseconds? Divide by 1000, or download it again"
    expected = "s, within one day"
    checks.append(Check(file=path, key="wheel times", found=text, expected=expected, ok=ok, mend=mend))
    far = float(np.abs(position).max())
    ok, mend = far <= FAR_RAD, "" if far <= FAR_RAD else FETCH
    text, path = f"up to {far:g}", files[WHEEL[0]]
    checks.append(Check(file=path, key="wheel angle", found=text, expected="rad", ok=ok, mend=mend))
    whole = all(check.ok for check in checks)
    series = TimeSeries(timestamps=timestamps.astype(np.float64), values=position.astype(np.float64)) if whole else None
    return checks, series


def wheel_velocity(position: TimeSeries) -> TimeSeries:
    """Angular velocity in rad/s at 100 Hz, much as IBL has it: linear interpolation at 1 kHz, low-pass below 20 Hz.

    The filter is an eighth-order Butterworth, run forwards and backwards (brainbox.behavior.wheel).
    """
    start, end = position.timestamps[0], position.timestamps[-1]
    clock = start + np.arange(int((end - start) * WHEEL_HZ) + 1) / WHEEL_HZ
    angle = np.interp(clock, position.timestamps, position.values)
    sos = scipy.signal.butter(8, CORNER_HZ / WHEEL_HZ * 2, output="sos")
    smooth = scipy.signal.sosfiltfilt(sos, angle, padlen=min(27, len(angle) - 1))
    speed = np.gradient(smooth) * WHEEL_HZ if len(smooth) > 1 else np.zeros(1)
    return TimeSeries(timestamps=clock[::KEEP_EVERY], values=speed[::KEEP_EVERY].astype(np.float32))


def trials_to_stimuli(table: pd.DataFrame, *, observed: np.ndarray, block: int) -> Stimuli:
    """One presentation a trial, without a picture. observed [K, 2] s: a trial that leaves it is not valid.

    Contiguous blocks of ``block`` trials (fewer if that made less than ten): of every ten blocks the fifth is valid,
    the tenth test, the rest train. The table's numeric columns are kept; rows without a start or end are left out.
    """
    table = table[np.isfinite(table["intervals_0"] + table["intervals_1"])]
    number = {name: table[name].to_numpy() for name in table.columns if table[name].dtype.kind in "fiub"}
    event = {name: number[name].astype(np.float64) for name in NEEDED}
    reaction = event["firstMovement_times"] - event["stimOn_times"]
    valid = (reaction >= REACTION[0]) & (reaction <= REACTION[1])
    valid &= np.isfinite(np.stack([event[name] for name in EVENTS])).all(0)
    start = np.where(np.isfinite(event["stimOn_times"]), event["stimOn_times"], event["intervals_0"])
    end = np.where(np.isfinite(event["feedback_times"]), event["feedback_times"], event["intervals_1"])
    valid &= (end > start) & contains(start, end, observed)
    size = max(1, min(block, len(table) // 10))
    tenth = np.arange(len(table)) // size % 10
    return Stimuli(
        start=start,
        end=np.maximum(end, start),
        image_id=np.full(len(table), ""),
        repeat=np.zeros(len(table), dtype=np.int64),
        split=np.select([tenth == 4, tenth == 9], ["valid", "test"], "train"),
        valid=valid,
        condition=_condition(number, len(table)),
        columns=number,
    )


def _condition(columns: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Side and contrast of the grating, 'left 0.25'; '' where the table has no contrast."""
    unknown = np.full(count, np.nan)
    left, right = (columns.get(name, unknown).astype(float) for name in ("contrastLeft", "contrastRight"))
    sides = zip(left.tolist(), right.tolist(), strict=True)
    return np.array([f"left {a:g}" if a == a else f"right {b:g}" if b == b else "" for a, b in sides])


def _absent(session: Session, name: str, mend: str) -> Check:
    file = session.path / "alf" / name
    return Check(file=file, key=name, found="absent", expected="a file", ok=False, mend=mend, needed=False)
