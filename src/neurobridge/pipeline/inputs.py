"""What a run reads: names are checked before anything is made, and files have to stay what they were at every stage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from neurobridge.data.checks import check_events
from neurobridge.data.images import read_ids
from neurobridge.data.recording import open_recording, read_stimuli
from neurobridge.data.stored import StoredRecording
from neurobridge.errors import UserError
from neurobridge.pipeline.kept import read_twice, sealed_json, unsealed_json, write_twice
from neurobridge.training.settings import RunSettings

INPUTS = "inputs.json"
EVENTS_AT_ONCE = 2**22


def check_names(settings: RunSettings) -> None:
    """Raise UserError for a session, in any option that names some, that is not there or not where it has to be."""
    there = session_names(settings.data)
    for folder in settings.mixture.data:
        session_names(folder)
    named = {
        "sessions": settings.sessions,
        "held_out": settings.held_out,
        "picture_sessions": settings.picture_sessions,
        "align.sessions": settings.align.sessions,
    }
    for option, names in named.items():
        for number, name in enumerate(names):
            if name not in there:
                raise UserError(f"{option}: session '{name}' is not in {settings.data}; there are: {', '.join(there)}")
            if name in names[:number]:
                raise UserError(f"{option}: session '{name}' is named twice: name it once")
    both = sorted(set(settings.sessions) & set(settings.held_out))
    if both:
        raise UserError(f"session '{both[0]}' is both in sessions and in held_out: name it once")
    pretrained = settings.sessions or [name for name in there if name not in settings.held_out]
    if not pretrained and not pretrained_elsewhere(settings):
        raise UserError(f"every session of {settings.data} is held out ({', '.join(there)}): leave one to pretrain on")
    part = {*pretrained, *settings.held_out}
    for option in ("picture_sessions", "align.sessions"):
        outside = [name for name in named[option] if name not in part]
        if outside:
            raise UserError(
                f"{option} names '{outside[0]}', which is neither in sessions nor in held_out: add it there"
            )
    unaligned = [name for name in settings.picture_sessions if name not in (settings.align.sessions or part)]
    if unaligned:
        raise UserError(f"picture_sessions names '{unaligned[0]}', which is not in align.sessions: add it there")


def pretrained_elsewhere(settings: RunSettings) -> bool:
    """Whether the run has a pretrained model already, so that it needs no session to pretrain on."""
    return (settings.out / "pretrain" / "done.json").is_file()


def session_names(folder: Path) -> list[str]:
    """Names of the sessions in a data folder. Raises UserError if there are none."""
    names = sorted(path.stem for path in (folder / "sessions").glob("*.h5"))
    if not names:
        raise UserError(
            f"no sessions under {folder / 'sessions'}: simulate or import a data set first ('neurobridge data --help')"
        )
    return names


def shows_pictures(settings: RunSettings) -> bool:
    """Whether a session of the run shows an image whose pixels are in the data folder's images.h5."""
    there = read_ids(settings.data / "images.h5")
    names = {*settings.sessions, *settings.held_out} if settings.sessions else None
    for file in sorted((settings.data / "sessions").glob("*.h5")) if there else ():
        if names is None or file.stem in names:
            with open_recording(file) as opened:
                shown = read_stimuli(opened)
            if shown is not None and not there.isdisjoint(shown.image_id.tolist()):
                return True
    return False


def input_files(settings: RunSettings) -> dict[str, Path]:
    """Every file that a run reads recordings or pictures from, by a name that does not tell where the folder lies."""
    names = [*settings.sessions, *settings.held_out] if settings.sessions else session_names(settings.data)
    files = {f"sessions/{name}.h5": settings.data / "sessions" / f"{name}.h5" for name in names}
    if (settings.data / "images.h5").is_file():
        files["images.h5"] = settings.data / "images.h5"
    for folder in settings.mixture.data:
        paths = [folder / "sessions" / f"{name}.h5" for name in session_names(folder)]
        files |= {f"{folder.name}/sessions/{path.name}": path for path in paths}
    return files


def compare_inputs(settings: RunSettings, known: dict[str, list]) -> dict[str, list]:
    """Size, time of change and digest of every input. Raises UserError for one that is not what was ``known`` of it.

    What has the size and the time of change that are known is taken to be the same. Files that are read for the
    first time are looked through: an event that is no finite number is refused.
    """
    files = input_files(settings)
    refuse_gone(settings, known)
    mend = "put it back as it was, or choose another --out"
    found: dict[str, list] = {}
    for name, path in files.items():
        if known and name not in known:
            raise UserError(
                f"{path} was added after this run began: name its sessions in 'sessions', take the file out, or choose "
                "another --out"
            )
        stamp = [path.stat().st_size, path.stat().st_mtime_ns]
        if known and known[name][:2] == stamp:
            found[name] = known[name]
            continue
        digest = digest_of(path)
        if known and known[name][2] != digest:
            raise UserError(f"{path} is not what it was when this run began, for its content was altered: {mend}")
        if not known and path.parent.name == "sessions":
            check_numbers(path)
        found[name] = [*stamp, digest]
    return found


def refuse_gone(settings: RunSettings, known: Iterable[str]) -> None:
    """Raise UserError if one of the inputs that are ``known`` by name is gone."""
    folders = {folder.name: folder for folder in settings.mixture.data}
    for name in known:
        first, _, rest = name.partition("/")
        path = folders[first] / rest if first in folders else settings.data / name
        if not path.is_file():
            raise UserError(f"{path}, which this run reads, is gone: put it back as it was, or choose another --out")


def keep_inputs(settings: RunSettings, run: Path) -> None:
    """Compare the inputs with run/inputs.json, and note there what is new."""
    known = read_inputs(run)
    found = compare_inputs(settings, known)
    if found != known:
        write_twice(run / INPUTS, sealed_json({"files": found}))


def read_inputs(run: Path) -> dict[str, list]:
    """What run/inputs.json says; nothing where there is none. Raises UserError where it and its copy are spoilt."""
    return read_twice(run / INPUTS, files_of) or {}


def files_of(text: str) -> dict[str, list]:
    """Name -> [size, time of change, digest], as inputs.json has them. Raises ValueError for anything else."""
    try:
        files = unsealed_json(text)["files"]
        return {str(name): [int(size), int(time), str(digest)] for name, (size, time, digest) in files.items()}
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError("it names no files") from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_numbers(path: Path) -> None:
    """Raise UserError if an event of the session at ``path`` has no finite time or value, or none of its units."""
    recording = StoredRecording(path)
    events, units = recording.events, len(recording.unit_ids)
    for first in range(0, len(events.units), EVENTS_AT_ONCE):
        rows = events.units[first : first + EVENTS_AT_ONCE]
        check_events(np.zeros(len(rows)), rows, units, str(path), first=first)
    for what, numbers in (("time", events.times), ("value", events.values)):
        if numbers is None:
            continue
        for first in range(0, len(numbers), EVENTS_AT_ONCE):
            bad = np.flatnonzero(~np.isfinite(numbers[first : first + EVENTS_AT_ONCE]))
            if len(bad):
                raise UserError(
                    f"{path}: the {what} of event {first + bad[0]} is no finite number: mend the recording and import "
                    "it again ('neurobridge data validate' looks at the rest)"
                )
