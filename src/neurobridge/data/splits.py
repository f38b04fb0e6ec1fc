"""Who is train, valid and test: by image content or concept, by trial or time block, by session or subject.

An image or concept gets its split from its name alone, so it has the same one in every session, now and later. Trials,
blocks, sessions and subjects are counted out instead, for they are few and their shares have to come out right.

Letters: P presentations, B blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from neurobridge.data.recording import Recording, Stimuli
from neurobridge.errors import UserError

SplitBy = Literal["image", "concept", "trial", "time_block", "session", "subject"]
BLOCKS = 20


def split_of(key: str, *, seed: int = 0, test: float = 1 / 6, valid: float = 0.07) -> str:
    """Split of an image (by content id) or a concept (by name): a draw from the SHA-1 of ``seed`` and ``key``.

    Near-duplicates are other content and split apart: see :mod:`neurobridge.data.audit`.
    """
    digest = hashlib.sha1(f"{seed}:{key}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < test:
        return "test"
    return "valid" if draw < test + valid else "train"


def split_keys(keys: Sequence[str], *, seed: int = 0, test: float = 1 / 6, valid: float = 0.07) -> np.ndarray:
    """:func:`split_of` each of ``keys`` [P] (content ids or concepts). An empty key, an image unknown, is train."""
    known = {key: split_of(key, seed=seed, test=test, valid=valid) if key else "train" for key in set(keys)}
    return np.array([known[key] for key in keys], dtype="U5")


def split_trials(count: int, *, seed: int = 0, test: float = 1 / 6, valid: float = 0.07) -> np.ndarray:
    """[P] a split for each of ``count`` presentations in random order: repeats of one image fall into several."""
    return _shares(count, seed, test, valid)


def split_blocks(
    start: np.ndarray, *, blocks: int = BLOCKS, seed: int = 0, test: float = 1 / 6, valid: float = 0.07
) -> np.ndarray:
    """[P] splits by time: the span of ``start`` [P] (s) is cut into ``blocks`` equal blocks, each of one split."""
    span = max(float(np.ptp(start)), 1e-9) if len(start) else 1.0
    block = np.minimum(((start - start.min(initial=np.inf)) / span * blocks).astype(np.int64), blocks - 1)
    return _shares(blocks, seed, test, valid)[block]


def split_groups(groups: Sequence[str], *, seed: int = 0, test: float = 1 / 6, valid: float = 0.07) -> dict[str, str]:
    """Group (session or subject) -> split, whole groups each. Raises UserError if a split would stay empty."""
    names = sorted(set(groups))
    splits = _shares(len(names), seed, test, valid)
    wanted = {"train", *(name for name, share in (("test", test), ("valid", valid)) if share > 0)}
    if missing := wanted - set(splits.tolist()):
        raise UserError(
            f"{len(names)} groups ({', '.join(names[:5])}) are too few to split: none is left for "
            f"{' and '.join(sorted(missing))}; set that share to 0, or split by image"
        )
    return dict(zip(names, splits.tolist(), strict=True))


def resplit(
    recordings: Sequence[Recording],
    by: SplitBy,
    *,
    concepts: dict[str, str] | None = None,
    seed: int = 0,
    test: float = 1 / 6,
    valid: float = 0.07,
) -> list[Recording]:
    """``recordings`` with new splits; those without stimuli stay as they are.

    ``concepts`` maps image id to concept, for ``by="concept"``. Raises UserError if an image has no concept, or if
    there are too few sessions or subjects.
    """
    shares = {"seed": seed, "test": test, "valid": valid}
    groups: dict[str, str] = {}
    if by in ("session", "subject"):
        groups = split_groups([getattr(r, by) for r in recordings], **shares)
    made = []
    for r in recordings:
        if r.stimuli is None:
            made.append(r)
            continue
        if by == "image":
            split = split_keys(r.stimuli.image_id.tolist(), **shares)
        elif by == "concept":
            split = split_keys(_concepts(r, concepts or {}), **shares)
        elif by == "trial":
            split = split_trials(len(r.stimuli), **shares)
        elif by == "time_block":
            split = split_blocks(r.stimuli.start, **shares)
        else:
            split = np.full(len(r.stimuli), groups[getattr(r, by)])
        told = {"split": f"by {by}, seed {seed}, test {test:.3g}, valid {valid:.3g}"}
        stimuli = Stimuli(**{**vars(r.stimuli), "split": split})
        made.append(replace(r, stimuli=stimuli, provenance={**r.provenance, **told}))
    return made


def _concepts(recording: Recording, concepts: dict[str, str]) -> list[str]:
    assert recording.stimuli is not None
    ids = recording.stimuli.image_id.tolist()
    missing = [key for key in ids if key and key not in concepts]
    if missing:
        raise UserError(
            f"session {recording.session}: image {missing[0]} has no concept ({len(set(missing))} such images): give "
            "every image one, or split by image"
        )
    return [concepts[key] if key else "" for key in ids]


def _shares(count: int, seed: int, test: float, valid: float) -> np.ndarray:
    """[count] splits in random order, with rounded shares; a share above 0 is at least one where there is room."""
    most = max(count - 1, 0)
    tests = min(max(round(count * test), int(test > 0)), most)
    valids = min(max(round(count * valid), int(valid > 0)), most - tests)
    split = np.repeat(np.array(["test", "valid", "train"]), [tests, valids, count - tests - valids])
    return np.random.default_rng(seed).permutation(split)
