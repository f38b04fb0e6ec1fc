"""What every source does on import: refuse pointers, skip what is current, merge images, say where data came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from neurobridge import __version__
from neurobridge.data.images import ImageSet, content_id
from neurobridge.data.recording import read_recording
from neurobridge.errors import UserError

FORMAT = 1
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


def is_current(out: Path, session: str, mark: str) -> bool:
    """True if the session is already written, whole, with this :func:`signature` in ``provenance['signature']``."""
    try:
        return read_recording(out / "sessions" / f"{session}.h5").provenance.get("signature") == mark
    except UserError:
        return False


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
    path = out / "images.h5"
    known = ImageSet.read(path) if path.is_file() else None
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
        columns = _merge_labels({} if known is None else known.labels, before, labels or {}, ids, list(unique))
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
