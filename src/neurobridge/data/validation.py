"""Is a whole data folder sound: every session readable, its pictures there, one picture in one split everywhere."""

from __future__ import annotations

from pathlib import Path

from rich.progress import Progress

from neurobridge.data.behaviour import defect_of, described
from neurobridge.data.doctor import Finding
from neurobridge.data.images import ImageSet, is_content_id, picture_keys
from neurobridge.data.recording import Recording, read_recording
from neurobridge.data.sessions import session_files
from neurobridge.errors import UserError


def validate_folder(folder: Path | str) -> list[Finding]:
    """One finding a session (ok, or what is wrong), then those of the image set and of the splits over sessions.

    Raises UserError if ``folder`` holds no sessions.
    """
    folder = Path(folder)
    files = list(session_files(folder).values())
    findings: list[Finding] = []
    known: set[str] | None = None
    if (folder / "images.h5").is_file():
        known = set(_image_set(folder / "images.h5", findings))
    splits: dict[str, tuple[str, str]] = {}
    names: dict[str, Path] = {}
    with Progress(transient=True) as progress:
        for file in progress.track(files, description="sessions"):
            try:
                recording = read_recording(file)
            except UserError as error:
                findings.append(_wrong(file, "contents", "refused", "a sound recording", str(error)))
                continue
            wrong = [*_names(recording, file, names), *_stimuli(recording, file, known, splits)]
            wrong += _behaviour(recording, file)
            findings += wrong or [_right(file, recording)]
    return findings


def _image_set(path: Path, findings: list[Finding]) -> list[str]:
    try:
        images = ImageSet.read(path)
        for _ in images.pixels:  # those of a large set are read only now
            pass
    except UserError as error:
        findings.append(_wrong(path, "contents", "refused", "a sound image set", str(error)))
        return []
    height, width = images.pixels.shape[1:3]
    found = f"{len(images)} pictures of {width} x {height}"
    findings.append(Finding(file=path, key="contents", found=found, expected="a sound image set", ok=True))
    return images.ids.tolist()


def _right(file: Path, r: Recording) -> Finding:
    found = f"{r.signal_kind}, {len(r.unit_ids)} units, {len(r.spike_times)} events"
    found += "".join(f", {name} ({described(series)})" for name, series in r.behaviour.items())
    return Finding(file=file, key="contents", found=found, expected="a sound recording", ok=True)


def _names(r: Recording, file: Path, names: dict[str, Path]) -> list[Finding]:
    """A session is called like its file, and no two of one subject alike: units would share their identity."""
    key = f"{r.dataset}/{r.subject}/{r.session}"
    other = names.setdefault(key, file)
    if other == file:
        return []
    return [
        _wrong(file, "session", key, f"a name of its own, {other.name} has it", "import one of them under another name")
    ]


def _stimuli(r: Recording, file: Path, known: set[str] | None, splits: dict[str, tuple[str, str]]) -> list[Finding]:
    if r.stimuli is None:
        return []
    found = []
    absent = sorted({key for key in r.stimuli.image_id.tolist() if is_content_id(key)} - (known or set()))
    if absent:
        lost = "no images.h5" if known is None else f"{len(absent)} pictures not in images.h5 (first {absent[0]})"
        found.append(
            _wrong(file, "stimuli/image_id", lost, "pictures of the image set", "import session and images again")
        )
    torn = {}
    for key, split in zip(picture_keys(r.stimuli.image_id, r.dataset), r.stimuli.split.tolist(), strict=True):
        there = splits.setdefault(key, (split, file.stem)) if key else (split, "")
        if there[0] != split:
            torn[key] = f"{key} is {split} here and {there[0]} in session {there[1]}"
    if torn:
        told = f"{len(torn)} pictures in two splits ({next(iter(torn.values()))})"
        mend = "import the sessions again with one seed, so that splits go by content"
        found.append(_wrong(file, "stimuli/split", told, "one split a picture", mend))
    return found


def _behaviour(r: Recording, file: Path) -> list[Finding]:
    found = []
    for name, series in r.behaviour.items():
        if defect := defect_of(series):
            mend = f"the behaviour '{name}' {defect}: mend it and import the session again"
            found.append(_wrong(file, name, defect, "a series in order of time", mend))
    return found


def _wrong(file: Path, key: str, found: str, expected: str, mend: str) -> Finding:
    return Finding(file=file, key=key, found=found, expected=expected, ok=False, mend=mend)
