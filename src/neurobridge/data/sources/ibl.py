"""IBL Brain-Wide Map (International Brain Laboratory, 2023_12_bwm_release; public data of openalyx, CC BY 4.0).

Mice that turn a wheel to move a grating; one or two Neuropixels probes a session. Input is ONE's folder tree (ALF),
with or without its cache tables. A session's probes become one recording; a unit is ``probe00/<uuid>``, its region the
Beryl acronym of its channel. Trials become presentations without a picture, the wheel becomes ``wheel_position`` (rad,
irregular) and ``wheel_velocity`` (rad/s, 100 Hz).

Letters: S spikes, N units.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress

from neurobridge.data.findings import Check, refuse, unreadable
from neurobridge.data.importing import is_there, signature, write_session
from neurobridge.data.intervals import intersection
from neurobridge.data.quality import QualitySettings, select_units
from neurobridge.data.recording import UNKNOWN_REGION, Recording, TimeSeries, check, open_recording, read_provenance
from neurobridge.data.sessions import Identity, file_of
from neurobridge.data.sources.ibl_behaviour import (
    behaviour_files,
    check_span,
    read_trials,
    read_wheel,
    trials_to_stimuli,
    wheel_velocity,
)
from neurobridge.data.sources.ibl_files import TABLES, Probe, Session, find_probes, find_sessions, holds_sessions
from neurobridge.data.sources.ibl_probe import NO_GREY, SILENCE_S, SILENT_SPIKES, probe_observed, read_probe
from neurobridge.errors import UserError

SORTERS = ("iblsorter", "pykilosort")


def import_ibl(
    path: Path,
    out: Path = Path("data/ibl"),
    *,
    sessions: tuple[str, ...] = (),
    sorters: tuple[str, ...] = SORTERS,
    revision: str = "",
    min_label: float = 1.0,
    outside: Literal["drop", "unknown"] = "drop",
    block: int = 20,
    quality: QualitySettings = QualitySettings(),
) -> Path:
    """Import the sessions of an IBL folder tree: good units with Beryl regions, trials, wheel.

    Sessions without a sorted probe are passed over, and so are, where others are left, sessions without a unit. Raises
    UserError for input that cannot be used.

    Args:
        path: ONE's cache folder, a lab's, a subject's or one session's folder.
        out: Data folder to write.
        sessions: Names (subject_date_number) of the sessions to import; all if none is given.
        sorters: Spike sorters in the order of preference; the probe's own folder comes last.
        revision: Newest revision to take, such as 2024-05-06; the newest there is if empty.
        min_label: Lowest quality label of a unit, 1 for the units that pass all of IBL's criteria.
        outside: Units in root or void or without a location are dropped, or kept in the region unknown.
        block: Trials a block; of every ten contiguous blocks one is valid and one is test.
        quality: Thresholds for units, after the label.
    """
    path, out = Path(path), Path(out)
    if block < 1:
        raise UserError(f"--block is {block}: give at least one trial a block")
    found: dict[str, Session] = {}
    for session in find_sessions(path):
        other = found.setdefault(session.name, session)
        if other != session:
            raise UserError(
                f"{other.path} and {session.path} are both session {session.name}: import each lab into a folder of "
                "its own"
            )
    if not found:
        raise UserError(f"no IBL session under {path}: give the folder that holds lab/Subjects/subject/date/number/alf")
    strange = [name for name in sessions if name not in found]
    if strange:
        raise UserError(f"session '{strange[0]}' is not under {path}; there are: {', '.join(list(found)[:9])}")
    chosen = [found[name] for name in (sessions or found)]
    probes = {session.name: find_probes(session, sorters, revision) for session in chosen}
    chosen = [session for session in chosen if probes[session.name]]
    if not chosen:
        raise UserError(
            f"no session under {path} has a spike sorting (alf/probe*/spikes.times.npy): download it with ONE"
        )
    options = {"min_label": min_label, "outside": outside, "block": block}
    empty: list[UserError] = []
    with Progress(transient=True) as progress:
        for session in progress.track(chosen, description="sessions"):
            files = behaviour_files(session, revision)
            used = [file for probe in probes[session.name] for file in probe.files.values()]
            mark = signature(sorted([*used, *files.values()]), quality=quality, eid=session.eid, **options)
            if is_there(out, _identity(session), mark):
                continue
            _refuse_other_lab(out, session)
            recording = _recording(session, probes[session.name], files, **options)
            if recording is None:
                sentence = f"{session.path}: no unit has a label of at least {min_label:g} in grey matter"
                mend = "lower --min_label, import with --outside unknown, or leave this session out"
                empty.append(UserError(f"{sentence}: {mend}"))
                continue
            check(recording, str(session.path))
            try:
                recording = select_units(recording, quality)
            except UserError as error:  # the recording is sound, so no unit is left
                empty.append(error)
                continue
            recording.provenance["signature"] = mark
            write_session(recording, out)
    if len(empty) == len(chosen):
        raise empty[0]
    for error in empty:
        Console(stderr=True, highlight=False).print(f"passed over: {error}", markup=False, soft_wrap=True)
    return out


def _identity(session: Session) -> Identity:
    return Identity("ibl", session.parts[0], session.name)


def _refuse_other_lab(out: Path, session: Session) -> None:
    """Raise UserError if the data folder holds a session of this name, by a subject of this name, of another lab."""
    file = file_of(out, _identity(session))
    try:
        with open_recording(file) as stored:
            lab = read_provenance(stored).get("lab", "")
    except UserError:  # absent, or damaged and to be written again
        return
    if lab and session.lab and lab != session.lab:
        raise UserError(f"{file} is that of the lab {lab}, not {session.lab}: import each lab into a folder of its own")


def recognises(path: Path) -> bool:
    """Is this a folder of IBL sessions, or something in one? Cheap, never raises."""
    try:
        return holds_sessions(Path(path))
    except OSError:
        return False


def examine(path: Path) -> list[Check]:
    """Everything the importer needs of every session under ``path``."""
    try:
        sessions = find_sessions(Path(path))
    except UserError as error:
        return [unreadable(Path(path) / TABLES[0], error)]
    checks: list[Check] = []
    for session in sessions:
        probes, files = find_probes(session, SORTERS), behaviour_files(session)
        if not probes:
            what = {"file": session.path / "alf", "key": "probe*", "found": "no spike sorting", "needed": False}
            mend = "the session is passed over: download its spikes with ONE"
            checks.append(Check(**what, expected="spikes and clusters of a probe", ok=False, mend=mend))
        read = [read_probe(probe) for probe in probes]
        trials, table = read_trials(files, session)
        checks += [check for one, _ in read for check in one] + trials + read_wheel(files, session)[0]
        spikes = [data.times for _, data in read if data is not None]
        if table is not None and spikes and all(check.ok for check in trials):
            checks.append(check_span(files, table, (min(s.min() for s in spikes), max(s.max() for s in spikes))))
    if not checks:
        expected = "lab/Subjects/subject/date/number/alf"
        mend = "give the folder that holds the labs, a subject or a session"
        checks.append(Check(file=Path(path), key="sessions", found="none", expected=expected, ok=False, mend=mend))
    return checks


def _recording(
    session: Session, probes: list[Probe], files: dict[str, Path], *, min_label: float, outside: str, block: int
) -> Recording | None:
    """All probes, the trials and the wheel of a session; None if no unit passes the label and the region."""
    times, owners, ids, regions, columns, observed = [], [], [], [], [], []
    told, units = [], 0
    for probe in probes:
        checks, data = read_probe(probe)
        refuse(checks)
        assert data is not None, "a probe whose checks passed has data"
        observed.append(probe_observed(np.asarray(data.times, dtype=np.float64)))
        good = data.label >= min_label
        grey = ~np.isin(data.regions, NO_GREY)
        kept = good & (grey | (outside == "unknown"))
        row = np.where(kept, np.cumsum(kept) - 1 + units, -1)
        of_spike = row[data.clusters]
        times.append(np.asarray(data.times[of_spike >= 0], dtype=np.float64))
        owners.append(of_spike[of_spike >= 0])
        ids.append(data.unit_ids[kept])
        regions.append(np.where(grey, data.regions, UNKNOWN_REGION)[kept])
        columns.append({name: column[kept] for name, column in data.columns.items()})
        told.append(
            f"{probe.name}: {probe.sorter}, revision {probe.revisions}, kept {kept.sum()} of {len(kept)}, "
            f"dropped {(~good).sum()} by label and {(good & ~kept).sum()} outside grey matter"
        )
        units += int(kept.sum())
    spike_times, spike_units = np.concatenate(times), np.concatenate(owners)
    if len(spike_times) == 0:
        return None
    clocks = np.concatenate(observed)
    shared = intersection(observed, float(clocks.min()), float(clocks.max()))
    if not len(shared):
        raise UserError(f"{session.path}: no moment was recorded by all of its probes; leave this session out")
    span = (float(clocks.min()), float(clocks.max()))
    checks, table = read_trials(files, session)
    refuse(checks)
    stimuli = None if table is None or len(table) == 0 else trials_to_stimuli(table, observed=shared, block=block)
    checks, wheel = read_wheel(files, session)
    refuse(checks)
    behaviour: dict[str, TimeSeries] = {}
    if wheel is not None:
        behaviour = {"wheel_position": wheel, "wheel_velocity": wheel_velocity(wheel)}
    ends = [span, *((s.timestamps[0], s.timestamps[-1]) for s in behaviour.values())]
    ends += [] if stimuli is None else [(stimuli.start.min(), stimuli.end.max())]
    named = set(columns[0]).intersection(*columns)
    subject, date, number = session.parts
    return Recording(
        dataset="ibl",
        subject=subject,
        session=session.name,
        species="MUS_MUSCULUS",
        signal_kind="sorted",
        spike_times=spike_times,
        spike_units=spike_units,
        unit_ids=np.concatenate(ids),
        regions=np.concatenate(regions),
        duration=(min(0.0, *(float(low) for low, _ in ends)), max(float(high) for _, high in ends)),
        unit_columns={name: np.concatenate([c[name] for c in columns]) for name in sorted(named)},
        stimuli=stimuli,
        observed=shared,
        behaviour=behaviour,
        provenance={
            "source": "IBL Brain-Wide Map, openalyx.internationalbrainlab.org, CC BY 4.0",
            "session": f"lab {session.lab or 'unknown'}, subject {subject}, {date}, number {number}",
            "lab": session.lab,
            "eid": session.eid or "unknown (no cache tables of ONE)",
            "reader": f"ONE-api {version('ONE-api')}, iblatlas {version('iblatlas')}",
            "probes": "; ".join(told),
            "silences": f"{len(shared)} intervals in which every probe was observed: from its first spike to its last, "
            f"of any cluster, without silences of {SILENCE_S:g} s and {SILENT_SPIKES} expected spikes",
            "regions": f"Beryl; units in root or void: {outside}",
            "trials": _told(stimuli),
            "split": "none" if stimuli is None else _split_told(len(stimuli), block),
            "wheel": "none" if wheel is None else "velocity: linear at 1 kHz, low-pass 20 Hz, kept at 100 Hz",
        },
    )


def _told(stimuli) -> str:
    if stimuli is None:
        return "none"
    return (
        f"{stimuli.valid.sum()} of {len(stimuli)} valid: reaction time 0.08-2 s, no event missing, within the spikes; "
        "a trial lasts from stimulus onset to feedback"
    )


def _split_told(trials: int, block: int) -> str:
    size = max(1, min(block, trials // 10))
    return f"contiguous blocks of {size} trials, of every ten the fifth is valid, the tenth test"
