"""The commands under 'neurobridge data' that look: at raw files, and at a data folder. What is slow to load waits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Column, Table

from neurobridge.data.behaviour import defect_of, described
from neurobridge.data.intervals import elapsed, length_of, merged
from neurobridge.data.recording import (
    Recording,
    behaviour_names,
    open_recording,
    read_identity,
    read_observed,
    read_recording,
)
from neurobridge.data.sessions import session_files
from neurobridge.errors import UserError, printable
from neurobridge.terminal import console

if TYPE_CHECKING:
    from neurobridge.data.doctor import Finding


def doctor(path: Path, *, manifest: Path | None = None) -> None:
    """Say what a raw file or folder holds, beside what its reader expects; with --manifest, draft one for it.

    Args:
        path: A file or folder as it was downloaded, a manifest, or a data folder of ours.
        manifest: Write a draft for 'neurobridge data import lab' here, and list the keys of any HDF5, NWB, MATLAB, NPZ,
            Parquet, CSV or phy folder.

    Raises:
        UserError: Something is not as its reader needs it (exit code 2).
    """
    from neurobridge.data.doctor import examine_path

    if manifest is not None:
        from neurobridge.data.sources.lab.draft import draft_manifest

        print_findings(draft_manifest(Path(path), Path(manifest)), Path(path))
        _say(f"{manifest}: a draft; fill in what says TODO, then 'neurobridge data doctor {manifest}'")
        return
    findings = examine_path(path)
    print_findings(findings, Path(path))
    _refuse_wrong(findings, path, "mend what the table names, then import")


def validate(path: Path) -> None:
    """Read every session of a data folder; check pictures and splits over all of them.

    Args:
        path: Data folder (the parent of sessions/).

    Raises:
        UserError: Something is wrong (exit code 2).
    """
    from neurobridge.data.validation import validate_folder

    findings = validate_folder(path)
    print_findings(findings, Path(path))
    _refuse_wrong(findings, path, "mend what the table names")


def audit(path: Path, *, window_ms: int | None = None, offset_ms: int = 0) -> None:
    """Look for pictures, concepts and moments that leak from a test or valid split into training.

    Args:
        path: Data folder (the parent of sessions/).
        window_ms: Compare windows of this length, as training cuts them, instead of the presentations.
        offset_ms: Start of a window after stimulus onset.

    Raises:
        UserError: One picture in two splits, or presentations of two splits that overlap (exit code 2).
    """
    from neurobridge.data.audit import audit as audit_folder

    leaks = audit_folder(path, window_ms=window_ms, offset_ms=offset_ms)
    if not leaks:
        console.print("no leak: no picture, near-duplicate, concept or moment is shared between splits", soft_wrap=True)
        return
    table = Table("leak", "between", "where", "cases", "first", caption="in red: what no split may do")
    for leak in leaks:
        style = "red" if leak.certain else None
        cases = f"{leak.count} of {leak.of}"
        cells = (leak.kind, " / ".join(leak.splits), leak.where, cases, leak.examples[0])
        table.add_row(*map(_cell, cells), style=style)
    console.print(table)
    certain = [leak for leak in leaks if leak.certain]
    if certain:
        raise UserError(
            f"{path}: {len(certain)} leaks that no split may have ({certain[0].kind}, {certain[0].where}: "
            f"{certain[0].examples[0]}); split by image content and import again"
        )


def list_sessions(path: Path) -> None:
    """List the sessions of a data folder: minutes are those that were observed.

    Args:
        path: Data folder (the parent of sessions/).
    """
    behaviour = Column("behaviour", overflow="fold")
    table = Table("session", "subject", "signal", "units", "regions", "minutes", "presentations", "images", behaviour)
    broken = []
    for name, file in session_files(path).items():
        try:
            table.add_row(*map(_cell, (name, *_row(file))))
        except UserError as error:
            table.add_row(_cell(name), "broken", style="red")
            broken.append(error)
    console.print(table)
    for error in broken:
        _say(str(error))


def show(path: Path, *, session: str | None = None, out: Path = Path("figures")) -> None:
    """Show sessions: a table of each one's regions, and a picture with a raster and the mean response.

    Args:
        path: Data folder (the parent of sessions/).
        session: Name of one session; all of the folder if not given.
        out: Folder for <session>.png.
    """
    from neurobridge.pipeline.data_pictures import draw_session

    files = session_files(path)
    if session is not None and session not in files:
        raise UserError(f"session '{session}' is not in {path}; there are: {', '.join(files)}")
    for name in files if session is None else [session]:
        try:
            recording = read_recording(files[name])
        except UserError as error:
            if session is not None or len(files) == 1:
                raise
            _say(f"passed over: {error}")
            continue
        _print_session(recording, name)
        picture = out / f"{name}.png"
        draw_session(recording, picture)
        _say(f"picture: {picture}")


def print_findings(findings: Sequence[Finding], root: Path) -> None:
    """A table of findings, file names relative to ``root``; what is not ok in red, with its mend."""
    table = Table(Column("file", overflow="fold"), Column("key", no_wrap=True), "found", "expected", "mend")
    above = None
    for f in findings:
        name = f.file.relative_to(root) if root.is_dir() and f.file.is_relative_to(root) else Path(f.file.name)
        cells = ("" if f.file == above else name.as_posix(), f.key, f.found, f.expected, f.mend or "ok")
        table.add_row(*map(_cell, cells), style=None if f.ok else "red")
        above = f.file
    console.print(table)


def _refuse_wrong(findings: Sequence[Finding], path: Path, mend: str) -> None:
    wrong = [finding for finding in findings if not finding.ok]
    if wrong:
        first = wrong[0].mend or f"{wrong[0].key} is {wrong[0].found}, expected {wrong[0].expected}"
        raise UserError(f"{path}: {len(wrong)} of {len(findings)} findings are not ok (first: {first}); {mend}")


def _row(file: Path) -> tuple:
    """What the list says of a session, without its events."""
    with open_recording(file) as opened:
        identity, observed = read_identity(opened, file), read_observed(opened)
        series = ", ".join(behaviour_names(opened)) or "-"
        shown = opened["stimuli/image_id"][:].tolist() if "stimuli" in opened else []
    observed = np.array([identity["duration"]]) if observed is None else observed
    return (
        identity["subject"],
        identity["signal_kind"],
        len(identity["unit_ids"]),
        ", ".join(sorted(set(identity["regions"].tolist()))),
        f"{length_of(observed) / 60:.1f}",
        len(shown),
        len({*shown} - {"", b""}),
        series,
    )


def _print_session(r: Recording, name: str) -> None:
    valued = r.spike_values is not None
    table = Table(
        "region", "units", "events", "mean value" if valued else "mean rate (Hz)", title=_cell(f"session {name}")
    )
    start, end = r.duration
    observed = merged(r.observed_time)
    length = max(length_of(observed), 1e-3)
    inside = elapsed(r.spike_times, observed)[0] >= 0
    for region in sorted(set(r.regions.tolist())):
        units = np.flatnonzero(r.regions == region)
        mine = np.isin(r.spike_units, units) & inside
        mean = r.spike_values[mine].mean() if r.spike_values is not None else mine.sum() / length / len(units)
        table.add_row(_cell(region), str(len(units)), str(int(mine.sum())), f"{mean:.3g}")
    console.print(table)
    told = {"subject": r.subject, "signal": r.signal_kind, "duration": f"{end - start:.1f} s", **r.provenance}
    if r.observed is not None:
        told["observed"] = r.provenance.get("observed", f"{length:.1f} s in {len(observed)} intervals")
    if r.stimuli is not None:
        names, counts = np.unique(r.stimuli.split, return_counts=True)
        told["presentations"] = ", ".join(f"{n} {name}" for name, n in zip(names.tolist(), counts, strict=True))
    told.pop("behaviour", None)  # each series has a line of its own
    told |= {f"behaviour {key}": defect_of(series) or described(series) for key, series in r.behaviour.items()}
    for name, value in told.items():
        _say(f"  {name}: {value}")


def _cell(content: object) -> str:
    """What a table shows of names and numbers that may hold anything."""
    return escape(printable(str(content)))


def _say(line: str) -> None:
    console.print(printable(line), markup=False, soft_wrap=True)
