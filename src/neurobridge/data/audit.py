"""Does a test picture leak into training? The audit that a training run performs and records.

Four ways to leak, from certain to arguable: the very same picture in two splits (``duplicate``); a presentation, or the
window cut around it, that overlaps one of another split (``overlap``); a picture that is nearly the same
(``near_duplicate``: difference hash, then pixels); a concept or category shown in several splits (``shared_concept``).

Letters: I images, P presentations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import numpy as np
from rich.progress import Progress

from neurobridge.data.guard import open_hdf5
from neurobridge.data.hdf5 import read_text, text
from neurobridge.data.images import ImageSet, picture_keys
from neurobridge.data.recording import SPLITS
from neurobridge.data.sessions import session_files
from neurobridge.errors import UserError, reading

CERTAIN = ("duplicate", "overlap")
CONCEPT_LABELS = ("concept", "category")
HASH_BITS = 8
THUMBNAIL = 16
PIXEL_DIFFERENCE = 0.03
EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Leak:
    """``count`` cases of one kind between two splits: where, and the first few as text."""

    kind: str
    splits: tuple[str, str]
    where: str
    count: int
    of: int
    examples: list[str] = field(default_factory=list)

    @property
    def certain(self) -> bool:
        """True for what no split may do; near-duplicates and shared concepts are to be known and reported."""
        return self.kind in CERTAIN


@dataclass(kw_only=True)
class Shown:
    """The valid presentations of one session."""

    session: str
    start: np.ndarray
    end: np.ndarray
    image_id: np.ndarray
    split: np.ndarray


def audit(
    folder: Path | str, *, sessions: Sequence[str] = (), window_ms: int | None = None, offset_ms: int = 0
) -> list[Leak]:
    """Every leak between the splits of a data folder, certain ones first.

    ``sessions`` limits it to those names. With ``window_ms``, the windows that training cuts (from ``offset_ms`` after
    each onset) are compared instead of the presentations. Raises UserError if there are no sessions, or one is broken.
    """
    folder = Path(folder)
    files = session_files(folder)
    if missing := [name for name in sessions if name not in files]:
        raise UserError(f"session '{missing[0]}' is not in {folder}; there are: {', '.join(files)}")
    chosen = [files[name] for name in (sessions or files)]
    with Progress(transient=True) as progress:
        shown = [table for path in progress.track(chosen, description="audit") if (table := _read(path)) is not None]
        leaks = [*_duplicates(shown)]
        for table in shown:
            leaks += _overlaps(table, window_ms, offset_ms)
        if (folder / "images.h5").is_file():
            images = ImageSet.read(folder / "images.h5")
            split = _split_of_images(images, shown)
            leaks += _near_duplicates(images, split)
            leaks += _shared_concepts(images, split)
    return leaks


def audit_record(folder: Path | str, **options) -> dict:
    """:func:`audit` as plain dicts and numbers, for a JSON file: ``checked``, ``leaks``, ``certain`` (their number)."""
    leaks = audit(folder, **options)
    return {
        "checked": ["duplicate", "overlap", "near_duplicate", "shared_concept"],
        "options": {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()},
        "leaks": [{**asdict(leak), "splits": list(leak.splits), "certain": leak.certain} for leak in leaks],
        "certain": sum(leak.certain for leak in leaks),
    }


def _read(path: Path) -> Shown | None:
    """The stimulus table alone: an audit needs no spikes."""
    with reading(path, "HDF5 recording", "import it again"), open_hdf5(path) as file:
        if "stimuli" not in file:
            return None
        table = file["stimuli"]
        valid = table["valid"][:].astype(bool) if "valid" in table else np.ones(len(table["start"]), bool)
        columns = {name: _text(table, name)[valid] for name in ("image_id", "split")}
        columns["image_id"] = np.array(
            picture_keys(columns["image_id"], read_text(file, "brainset", "id", "unknown")), str
        )
        return Shown(session=path.stem, start=table["start"][:][valid], end=table["end"][:][valid], **columns)


def _text(table: h5py.Group, name: str) -> np.ndarray:
    if name not in table:
        return np.full(len(table["start"]), "train")
    return text(table[name][:])


def _duplicates(tables: Sequence[Shown]) -> Iterator[Leak]:
    where: dict[str, dict[str, str]] = {}
    for table in tables:
        for key, split in zip(table.image_id.tolist(), table.split.tolist(), strict=True):
            if key and split in SPLITS:
                where.setdefault(key, {}).setdefault(split, table.session)
    for pair in _pairs():
        torn = {key: seen for key, seen in where.items() if set(pair) <= set(seen)}
        examples = [f"{key}: {', '.join(f'{s} in {seen[s]}' for s in pair)}" for key, seen in torn.items()]
        yield from _leak("duplicate", pair, "all sessions", examples, len(where))


def _overlaps(table: Shown, window_ms: int | None, offset_ms: int) -> Iterator[Leak]:
    """Presentations or windows of different splits that share time; touching is not sharing (1 us)."""
    start, end = table.start, table.end
    if window_ms is not None:
        start = table.start + offset_ms / 1000
        end = start + window_ms / 1000
    for pair in _pairs():
        first, second = (np.flatnonzero(table.split == name) for name in pair)
        first = first[np.argsort(start[first], kind="stable")]
        latest = np.maximum.accumulate(end[first]) if len(first) else end[first]
        before = np.searchsorted(start[first], end[second] - 1e-6)  # those that start before the other ends
        hit = second[(before > 0) & (np.concatenate([[-np.inf], latest])[before] > start[second] + 1e-6)]
        examples = [f"{pair[1]} presentation at {start[row]:.3f} s" for row in hit]
        yield from _leak("overlap", pair, f"session {table.session}", examples, len(second))


def _split_of_images(images: ImageSet, tables: Sequence[Shown]) -> np.ndarray:
    """[I] the split in which each picture is shown first; "" for what no valid presentation shows."""
    split: dict[str, str] = {}
    for table in tables:
        for key, name in zip(table.image_id.tolist(), table.split.tolist(), strict=True):
            if name in SPLITS:
                split.setdefault(key, name)
    return np.array([split.get(key, "") for key in images.ids.tolist()], dtype="U5")


def _near_duplicates(images: ImageSet, split: np.ndarray) -> Iterator[Leak]:
    hashes = difference_hash(images.pixels)
    small = thumbnails(images.pixels, THUMBNAIL)
    for pair in _pairs():
        first, second = (np.flatnonzero(split == name) for name in pair)
        examples, hit = [], set()
        for row in second:
            close = first[np.bitwise_count(hashes[first] ^ hashes[row]) <= HASH_BITS]
            far = np.abs(small[close] - small[row]).mean((1, 2, 3)) if len(close) else np.zeros(0)
            for other in close[far <= PIXEL_DIFFERENCE]:
                hit.add(int(row))
                examples.append(f"{pair[1]} {images.ids[row]} is like {pair[0]} {images.ids[other]}")
        if hit:
            yield Leak(
                kind="near_duplicate",
                splits=pair,
                where="images.h5",
                count=len(hit),
                of=len(second),
                examples=examples[:EXAMPLES],
            )


def _shared_concepts(images: ImageSet, split: np.ndarray) -> Iterator[Leak]:
    for name in CONCEPT_LABELS:
        if name not in images.labels:
            continue
        label = images.labels[name].astype(str)
        for pair in _pairs():
            first, second = (set(label[split == part].tolist()) - {""} for part in pair)
            yield from _leak("shared_concept", pair, f"label {name}", sorted(first & second), len(second))


def difference_hash(pixels: np.ndarray) -> np.ndarray:
    """dHash [I] uint64 of pictures [I, H, W, 3]: is each of 8 x 8 cells brighter than its left neighbour?

    N. Krawetz, "Kind of like that" (2013). Near-duplicates differ in few bits; so do plain pictures that are not alike,
    so compare pixels too.
    """
    grey = np.stack([_resized(picture.astype(np.float32).mean(2)[..., None], 8, 9)[..., 0] for picture in pixels])
    bits = (np.diff(grey, axis=2) > 0.5).reshape(len(pixels), 64)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def thumbnails(pixels: np.ndarray, size: int) -> np.ndarray:
    """[I, size, size, 3] float32 in [0, 1], each cell the mean of its pixels."""
    return np.stack([_resized(picture.astype(np.float32) / 255, size, size) for picture in pixels])


def _resized(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means over cells of [H, W, C]; a picture smaller than the grid is repeated first."""
    height, width = picture.shape[:2]
    picture = picture.repeat(-(-rows // height), 0).repeat(-(-columns // width), 1)
    down = np.linspace(0, picture.shape[0], rows + 1).astype(np.int64)
    across = np.linspace(0, picture.shape[1], columns + 1).astype(np.int64)
    sums = np.add.reduceat(np.add.reduceat(picture, down[:-1], axis=0), across[:-1], axis=1)
    return sums / (np.diff(down)[:, None, None] * np.diff(across)[None, :, None])


def _pairs() -> tuple[tuple[str, str], ...]:
    return (("train", "test"), ("train", "valid"), ("valid", "test"))


def _leak(kind: str, pair: tuple[str, str], where: str, examples: list[str], of: int) -> Iterator[Leak]:
    if examples:
        yield Leak(kind=kind, splits=pair, where=where, count=len(examples), of=of, examples=examples[:EXAMPLES])
