"""What every source does on import: refuse pointers, skip what is there, merge images, write sessions and say so."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from neurobridge import __version__
from neurobridge.data.checks import SPLITS
from neurobridge.data.hdf5 import has, read_array, strings
from neurobridge.data.images import ImageSet, content_id, is_content_id, read_ids
from neurobridge.data.intervals import TOLERANCE
from neurobridge.data.recording import Recording, Stimuli, open_recording, read_provenance, write_recording
from neurobridge.data.sessions import Identity, file_of, locked
from neurobridge.errors import UserError

FORMAT = 3
SAID = ("observed", "silence", "behaviour", "left_out")  # of the provenance, in the line on a session
POINTER_BYTES = 32_768


def file_hash(path: Path, *, most: int = 64 * 2**20) -> str:
    """16 hex digits of the SHA-1 of size and content; of a file above ``most`` bytes, of its first and last parts."""
    size = path.stat().st_size
    digest = hashlib.sha1(str(size).encode())
    with path.open("rb") as file:
        if size <= most:
            digest.update(file.read())
        else:
            digest.update(file.read(most // 2))
            file.seek(size - most // 2)
            digest.update(file.read())
    return digest.hexdigest()[:16]


def signature(files: Iterable[Path], **options: object) -> str:
    """Hash of all that a session file is made from: our version, options, and the bytes of ``files``."""
    parts = [FORMAT, __version__, {k: str(v) for k, v in options.items()}, [file_hash(f) for f in files]]
    return hashlib.sha1(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def is_there(out: Path, identity: Identity, mark: str) -> bool:
    """True, and said, if the session is written with this :func:`signature`, can be opened, and has its pictures.

    Judged by what the folder holds now: a session whose pictures are gone is imported again. Of the session attributes
    are read, and which pictures were shown; none of its events.
    """
    try:
        path = file_of(out, identity)
        with open_recording(path) as file:
            if read_provenance(file).get("signature") != mark:
                return False
            shown = read_array(file, "stimuli/image_id") if has(file, "stimuli/image_id") else np.empty(0, "S1")
        if {key for key in strings(shown).tolist() if is_content_id(key)} - read_ids(out / "images.h5"):
            return False
    except UserError:
        return False
    print(f"{path.stem}: already imported")
    return True


def write_session(recording: Recording, out: Path) -> Path:
    """Write ``recording`` to its file in ``out`` (:func:`sessions.file_of`) and say in a line what was kept.

    A split without a presentation is warned of. Raises UserError if the recording is not sound.
    """
    identity = Identity(recording.dataset, recording.subject, recording.session)
    with locked(out):
        path = file_of(out, identity)
        write_recording(recording, path)
    told = recording.provenance
    said = [told.get("kept", f"{len(recording.unit_ids)} units"), *(told[key] for key in SAID if key in told)]
    if path.stem != recording.session:
        said.append(f"stored beside another session {recording.session}, as it is {identity}")
    print(f"{path.stem}: {'; '.join(said)}")
    if recording.stimuli is not None:
        if shared := _shared_with_others(recording.stimuli):
            print(
                f"warning: {path.stem} has {shared} presentations that overlap one of another split: what is learnt "
                "from a window is scored on the same spikes; mend the times or the splits ('neurobridge data audit')",
                file=sys.stderr,
            )
        empty = [split for split in SPLITS if not len(recording.stimuli.rows(split))]
        if empty:
            print(
                f"warning: {path.stem} has no valid presentation in {' and '.join(empty)}: "
                "nothing can be learnt or scored there from this session alone",
                file=sys.stderr,
            )
    return path


def _shared_with_others(stimuli: Stimuli) -> int:
    """Valid presentations that begin before one of another split, of those with a picture or condition, has ended."""
    rows = np.flatnonzero(stimuli.valid & np.isin(stimuli.split, SPLITS))
    rows = rows[np.argsort(stimuli.start[rows], kind="stable")]
    start, end, split = stimuli.start[rows], stimuli.end[rows], stimuli.split[rows]
    shared = np.zeros(len(rows), dtype=bool)
    for other in SPLITS:
        ends = np.where(split == other, end, -np.inf)
        before = np.maximum.accumulate(np.concatenate([[-np.inf], ends[:-1]])) if len(rows) else ends
        shared |= (split != other) & (before > start + TOLERANCE)
    return int(shared.sum())


def refuse_pointer(path: Path) -> None:
    """Raise UserError for a git-annex or Git LFS pointer: a small text file where the content should be."""
    if not path.is_file() or path.stat().st_size > POINTER_BYTES:
        return
    head = path.read_bytes()[:200]
    if head.startswith(b"version https://git-lfs") or b"/annex/objects/" in head or b".git/annex" in head:
        raise UserError(
            f"{path} is a git-annex or Git LFS pointer, not the file itself: fetch its content ('git annex get' or "
            "'git lfs pull') and import again"
        )


def add_images(
    out: Path, pixels: Iterable[np.ndarray], labels: Mapping[str, Sequence[str | float]] | None = None
) -> list[str]:
    """Add pictures [H, W, 3] uint8 of one size to ``out``/images.h5; return their content ids in order.

    ``labels``: name -> one value a picture ('concept', 'category': what ``data audit`` looks at). What the set holds
    already stays, labels included; where a label is not known for a picture it is empty, or 0. Raises UserError if the
    sizes differ.
    """
    pixels = list(pixels)  # decoded before the folder is locked
    with locked(out):
        return _merge_images(out / "images.h5", pixels, labels or {})


def _merge_images(path: Path, pixels: Sequence[np.ndarray], labels: Mapping[str, Sequence[str | float]]) -> list[str]:
    known = None
    if path.is_file():
        try:
            known = ImageSet.read(path)
        except UserError as error:
            raise UserError(f"{error}: remove {path} first, and import every session of the folder again") from error
    unique = {} if known is None else dict(zip(known.ids.tolist(), known.pixels, strict=True))
    before, ids = len(unique), []
    for picture in pixels:
        ids.append(content_id(picture))
        unique.setdefault(ids[-1], picture)
    shapes = {picture.shape for picture in unique.values()}
    if len(shapes) > 1:
        raise UserError(
            f"{path} would hold pictures of several sizes {sorted(shapes)}: bring them to one size before the import, "
            "or import into another folder"
        )
    if len(unique) > before:
        columns = _merge_labels({} if known is None else known.labels, before, labels, ids, list(unique))
        ImageSet(ids=np.array(list(unique)), pixels=np.stack(list(unique.values())), labels=columns).write(path)
    return ids


def repeats(names: np.ndarray) -> np.ndarray:
    """[P]: how often each of ``names`` [P] was there before, in order."""
    seen: dict[str, int] = {}
    counts = np.zeros(len(names), dtype=np.int64)
    for row, name in enumerate(names.tolist()):
        counts[row] = seen[name] = seen.get(name, -1) + 1
    return counts


def _merge_labels(
    known: Mapping[str, np.ndarray],
    count: int,
    labels: Mapping[str, Sequence[str | float]],
    ids: Sequence[str],
    order: Sequence[str],
) -> dict[str, np.ndarray]:
    """Label columns in the ``order`` of all ids, of which the first ``count`` have those of ``known``."""
    merged = {}
    for name in {**known, **labels}:
        if name in known:
            old = known[name]
        else:
            old = np.zeros(count, dtype=np.asarray(labels[name]).dtype)
        new = dict(zip(ids, labels[name], strict=True)) if name in labels else {}
        empty = np.zeros(old.shape[1:], dtype=old.dtype)
        merged[name] = np.array([*old.tolist(), *(new.get(key, empty.tolist()) for key in order[count:])])
    return merged
