"""The presentations of a session: onsets, pictures by content, repeats, and splits in which no picture is twice.

Letters: P presentations.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurobridge.data.checks import STIMULUS_FIELDS
from neurobridge.data.images import content_id, is_content_id
from neurobridge.data.importing import refuse_pointer, repeats
from neurobridge.data.pictures import read_picture
from neurobridge.data.recording import SPLITS
from neurobridge.data.sources.lab.columns import Frame, first_of_each, read_frame, seconds
from neurobridge.data.sources.lab.extras import kept_columns
from neurobridge.data.sources.lab.manifest import MIX_UP, TIGHT, Manifest, resolve, stimulus_unit
from neurobridge.data.splits import split_keys
from neurobridge.errors import UserError

STIMULUS_COLUMNS = ("onset", "offset", "image_id")
STIMULUS_OPTIONS = ("trial_id", "repeat", "valid", "image_path", "split", "concept", "condition")
BRIEF_S = 0.01


@dataclass(kw_only=True)
class Presentations:
    """The stimulus table: ``name`` is the lab's own image id; ``key`` the content id, or empty without pictures.

    ``columns``: what is kept beside, trial ids, concepts and the lab's own columns among it.
    """

    frame: Frame
    start: np.ndarray
    end: np.ndarray
    name: np.ndarray
    key: np.ndarray
    repeat: np.ndarray
    split: np.ndarray
    valid: np.ndarray
    concept: np.ndarray | None
    condition: np.ndarray | None
    columns: dict[str, np.ndarray]

    @property
    def image(self) -> np.ndarray:
        """[P] what tells the images apart: their content, or the lab's id of a picture that is not at hand."""
        return np.where(self.key == "", self.name, self.key)


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
    frame = read_frame(manifest, manifest.stimuli, needed, optional, extra=True)
    if not len(frame):
        raise UserError(
            f"{frame.file} holds no presentations of session {manifest.session_id}: remove stimuli, or mend it"
        )
    unit = stimulus_unit(manifest)
    onset, offset = (seconds(frame.times(name, unit, manifest), unit, manifest) for name in ("onset", "offset"))
    _check_presentations(frame, onset, offset, manifest)
    names = frame.text("image_id")
    _refuse_same_rows(frame, onset, names)
    key, pictures = _pictures(frame, names, manifest)
    unseen = ("image_path",) if manifest.image_root is None else ()
    concept = frame.text("concept") if "concept" in frame else None
    shown = Presentations(
        frame=frame,
        start=onset,
        end=offset,
        name=names,
        key=key,
        repeat=_repeats(frame, names, key),
        split=_splits(frame, np.where(key == "", names, key), concept, manifest),
        valid=frame.truths("valid") if "valid" in frame else np.ones(len(frame), dtype=bool),
        concept=concept,
        condition=frame.text("condition", empty=True) if "condition" in frame else None,
        columns={
            **{name: frame.text(name) for name in ("trial_id", "concept", *unseen) if name in frame},
            **kept_columns(frame, (*STIMULUS_COLUMNS, *STIMULUS_OPTIONS), STIMULUS_FIELDS),
        },
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
    span, typical = float(offset.max() - onset.min()), float(np.median(offset - onset))
    if span < TIGHT * (end - start) and typical < BRIEF_S:
        raise UserError(
            f"{frame.file}: presentations of {typical:g} s, all within {span:g} s of a recording of {end - start:g} s; "
            f"{MIX_UP} (the table has the time_unit {stimulus_unit(manifest)}; 'stimuli: {{time_unit: ...}}' declares "
            "another)"
        )
    back = np.zeros(len(onset), dtype=bool)
    back[1:] = np.diff(onset) < 0
    frame.refuse(back, lambda row: f"the onset ({onset[row]:g} s) is before that of the row above; sort by onset")
    if "trial_id" in frame:
        trial = frame.text("trial_id")
        frame.refuse(
            ~first_of_each(trial), lambda row: f"trial_id '{trial[row]}' was there before; give each trial its own"
        )


def _refuse_same_rows(frame: Frame, onset: np.ndarray, names: np.ndarray) -> None:
    """A row that was there before would count its spikes twice."""
    rows = np.array([f"{at!r} {name}" for at, name in zip(onset.tolist(), names.tolist(), strict=True)])
    frame.refuse(
        ~first_of_each(rows),
        lambda row: f"image_id '{names[row]}' at {onset[row]:g} s was there before; remove one of the rows",
    )


def _pictures(frame: Frame, names: np.ndarray, manifest: Manifest) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Content id [P] of each presentation's picture (empty without an image_root), and the pictures."""
    if manifest.image_root is None:
        frame.refuse(
            np.array([is_content_id(name) for name in names.tolist()], dtype=bool),
            lambda row: (
                f"image_id '{names[row]}' is written like the content ids of pictures at hand (16 hex digits); give "
                f"it another name, such as 'im_{names[row]}'"
            ),
        )
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
    inside = {path: (root / path).resolve().is_relative_to(root.resolve()) for path in set(paths.tolist())}
    frame.refuse(
        np.array([not inside[path] for path in paths.tolist()], dtype=bool),
        lambda row: f"the image '{paths[row]}' lies outside of {root}; put it there, or mend image_path or image_root",
    )
    place = {path: _on_disk(root, path) for path in set(paths.tolist())}
    frame.refuse(
        np.array([place[path] is None for path in paths.tolist()], dtype=bool),
        lambda row: f"the image '{paths[row]}' is not in {root}; {_near(root, paths[row])}",
    )
    key_of: dict[str, str] = {}
    pictures: dict[str, np.ndarray] = {}
    for path in dict.fromkeys(paths.tolist()):
        file = place[path]
        assert file is not None, "refused before"
        refuse_pointer(file)
        pixels = read_picture(file)
        key_of[path] = content_id(pixels)
        pictures[key_of[path]] = pixels
    return np.array([key_of[path] for path in paths.tolist()]), pictures


def _on_disk(root: Path, path: str) -> Path | None:
    """The file, whichever way its name writes an accent; None where there is none."""
    spelled = (root / unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((file for file in spelled if file.is_file()), None)


def _near(root: Path, path: str) -> str:
    """What to do about a picture that is not there."""
    if "\\" in path and _on_disk(root, path.replace("\\", "/")):
        return "write / between folders"
    folder = (root / path).parent
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    alike = next((name for name in names if name.lower() == Path(path).name.lower() and name != Path(path).name), "")
    return f"there is '{alike}': write the names alike" if alike else "add it, or mend image_path or image_root"


def _splits(frame: Frame, image: np.ndarray, concept: np.ndarray | None, manifest: Manifest) -> np.ndarray:
    if manifest.split == "column":
        split = frame.text("split")
        frame.refuse(
            ~np.isin(split, [*SPLITS, "none"]),
            lambda row: f"split is '{split[row]}', expected {', '.join(SPLITS)} or none; mend the row",
        )
        return split
    keys = image if manifest.split == "image" else concept
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


def _repeats(frame: Frame, names: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The table's own ``repeat``, or how often the image was shown before.

    One picture under two names is one image: its showings are counted through, whatever the table says of each name.
    """
    counted = repeats(np.where(key == "", names, key))
    if "repeat" not in frame:
        return counted
    repeat = frame.integers("repeat")
    frame.refuse(repeat < 0, lambda row: f"repeat is {repeat[row]}; showings count from 0: mend the row")
    named = Counter(image for image, _ in set(zip(key.tolist(), names.tolist(), strict=True)) if image)
    return np.where([named[image] > 1 for image in key.tolist()], counted, repeat)
