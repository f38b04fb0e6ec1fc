"""The presentations of a session: onsets, pictures by content, repeats, and splits in which no picture is twice.

Letters: P presentations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurobridge.data.images import content_id
from neurobridge.data.importing import refuse_pointer
from neurobridge.data.pictures import read_picture
from neurobridge.data.recording import SPLITS
from neurobridge.data.sources.lab.columns import Frame, first_of_each, read_frame, seconds
from neurobridge.data.sources.lab.manifest import MIX_UP, Manifest, resolve, stimulus_unit
from neurobridge.data.splits import split_keys
from neurobridge.errors import UserError

STIMULUS_COLUMNS = ("onset", "offset", "image_id")
STIMULUS_OPTIONS = ("trial_id", "repeat", "valid", "image_path", "split", "concept")


@dataclass(kw_only=True)
class Presentations:
    """The stimulus table: ``name`` is the lab's own image id; ``key`` the content id, or empty without pictures."""

    frame: Frame
    start: np.ndarray
    end: np.ndarray
    name: np.ndarray
    key: np.ndarray
    repeat: np.ndarray
    split: np.ndarray
    valid: np.ndarray
    concept: np.ndarray | None


def stimulus_columns(manifest: Manifest) -> tuple[str, ...]:
    """The columns that a stimulus table needs, given where pictures and splits come from."""
    split = {"column": ("split",), "concept": ("concept",)}.get(manifest.split or "", ())
    return (*STIMULUS_COLUMNS, *(("image_path",) if manifest.image_root is not None else ()), *split)


def read_presentations(manifest: Manifest) -> tuple[Presentations | None, dict[str, np.ndarray]]:
    """The stimulus table with content ids and splits, and the pictures by content id."""
    if manifest.stimuli is None:
        return None, {}
    needed = stimulus_columns(manifest)
    optional = [name for name in STIMULUS_OPTIONS if name not in needed]
    frame = read_frame(manifest, manifest.stimuli, needed, optional)
    if not len(frame):
        raise UserError(
            f"{frame.file} holds no presentations of session {manifest.session_id}: remove stimuli, or mend it"
        )
    unit = stimulus_unit(manifest)
    onset, offset = (seconds(frame.numbers(name), unit, manifest) for name in ("onset", "offset"))
    _check_presentations(frame, onset, offset, manifest)
    names = frame.text("image_id")
    key, pictures = _pictures(frame, names, manifest)
    concept = frame.text("concept") if "concept" in frame else None
    shown = Presentations(
        frame=frame,
        start=onset,
        end=offset,
        name=names,
        key=key,
        repeat=_repeats(frame, names),
        split=_splits(frame, key, concept, manifest),
        valid=frame.truths("valid") if "valid" in frame else np.ones(len(frame), dtype=bool),
        concept=concept,
    )
    _refuse_two_splits(shown)
    return shown, pictures


def _check_presentations(frame: Frame, onset: np.ndarray, offset: np.ndarray, manifest: Manifest) -> None:
    start, end = manifest.duration
    frame.refuse(
        (onset < start) | (onset > end),
        lambda row: f"the onset is at {onset[row]:g} s, outside the duration of {start:g} to {end:g} s; {MIX_UP}",
    )
    frame.refuse(
        offset <= onset,
        lambda row: f"the offset ({offset[row]:g} s) is not after the onset ({onset[row]:g} s); mend it",
    )
    frame.refuse(
        offset > end,
        lambda row: f"the offset is at {offset[row]:g} s, after the end of the recording at {end:g} s; {MIX_UP}",
    )
    back = np.zeros(len(onset), dtype=bool)
    back[1:] = np.diff(onset) < 0
    frame.refuse(back, lambda row: f"the onset ({onset[row]:g} s) is before that of the row above; sort by onset")
    if "trial_id" in frame:
        trial = frame.text("trial_id")
        frame.refuse(
            ~first_of_each(trial), lambda row: f"trial_id '{trial[row]}' was there before; give each trial its own"
        )


def _pictures(frame: Frame, names: np.ndarray, manifest: Manifest) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Content id [P] of each presentation's picture (empty without an image_root), and the pictures."""
    if manifest.image_root is None:
        return np.full(len(frame), "", dtype="U16"), {}
    root = resolve(manifest, manifest.image_root)
    if not root.is_dir():
        raise UserError(
            f"{manifest.file}: image_root {root} is not a folder; mend it (null: the pictures are not at hand)"
        )
    paths = frame.text("image_path")
    path_of: dict[str, str] = {}
    other = [path_of.setdefault(name, path) != path for name, path in zip(names.tolist(), paths.tolist(), strict=True)]
    frame.refuse(
        np.array(other, dtype=bool),
        lambda row: (
            f"image_id '{names[row]}' is '{paths[row]}' here but '{path_of[names[row]]}' above; mend one of them"
        ),
    )
    there = {path: (root / path).is_file() for path in set(paths.tolist())}
    frame.refuse(
        np.array([not there[path] for path in paths.tolist()], dtype=bool),
        lambda row: f"the image '{paths[row]}' is not in {root}; add it, or mend image_path or image_root",
    )
    key_of: dict[str, str] = {}
    pictures: dict[str, np.ndarray] = {}
    for path in dict.fromkeys(paths.tolist()):
        refuse_pointer(root / path)
        pixels = read_picture(root / path)
        key_of[path] = content_id(pixels)
        pictures[key_of[path]] = pixels
    return np.array([key_of[path] for path in paths.tolist()]), pictures


def _splits(frame: Frame, key: np.ndarray, concept: np.ndarray | None, manifest: Manifest) -> np.ndarray:
    if manifest.split == "column":
        split = frame.text("split")
        frame.refuse(
            ~np.isin(split, [*SPLITS, "none"]),
            lambda row: f"split is '{split[row]}', expected {', '.join(SPLITS)} or none; mend the row",
        )
        return split
    keys = key if manifest.split == "image" else concept
    assert keys is not None, "the manifest was checked"
    return split_keys(keys.tolist(), seed=manifest.split_seed, test=manifest.split_test, valid=manifest.split_valid)


def _refuse_two_splits(shown: Presentations) -> None:
    """One image, by content (by the lab's id where there are no pictures), is in one split."""
    identity = [key or name for key, name in zip(shown.key.tolist(), shown.name.tolist(), strict=True)]
    before: dict[str, int] = {}
    first = np.array([before.setdefault(image, row) for row, image in enumerate(identity)], dtype=np.int64)
    shown.frame.refuse(
        shown.split != shown.split[first],
        lambda row: (
            f"image_id '{shown.name[row]}' is in the split {shown.split[row]}, but the same picture (image_id "
            f"'{shown.name[first[row]]}' in {shown.frame.place(int(first[row]))}) is in {shown.split[first[row]]}; "
            "give one picture one split"
        ),
    )


def _repeats(frame: Frame, names: np.ndarray) -> np.ndarray:
    """The table's own ``repeat``, or how often the image was shown before."""
    if "repeat" in frame:
        repeat = frame.integers("repeat")
        frame.refuse(repeat < 0, lambda row: f"repeat is {repeat[row]}; showings count from 0: mend the row")
        return repeat
    seen: dict[str, int] = {}
    repeats = np.zeros(len(names), dtype=np.int64)
    for row, name in enumerate(names.tolist()):
        repeats[row] = seen.get(name, 0)
        seen[name] = int(repeats[row]) + 1
    return repeats
