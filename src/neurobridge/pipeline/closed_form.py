"""The windowed encoding of a session in closed form: a rival, and where it is asked for the teacher of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from neurobridge.baselines.windowed_encoding import WindowedEncoding
from neurobridge.errors import atomic_path
from neurobridge.pipeline.image_data import StackFeatures
from neurobridge.terminal import console

VERSION = 1  # of the windowed encoding: what an earlier one kept is not read
MOST_ROWS = 4000  # training images of the windowed model: it holds kernels [P, P]


@dataclass(kw_only=True)
class SeenImages:
    """Training data of a session: ``images`` [P] rows of the feature arrays, ``responses`` [P, N] to them."""

    images: np.ndarray
    responses: np.ndarray

    @classmethod
    def of(cls, session: str, images: np.ndarray, responses: np.ndarray) -> SeenImages:
        """A session's training images; of more than :data:`MOST_ROWS` so many, drawn at random, and said."""
        if len(images) <= MOST_ROWS:
            return cls(images=images, responses=responses)
        told = f"session {session}: the windowed encoding is fitted to {MOST_ROWS:,} of its"
        console.print(f"{told} {len(images):,} training images, drawn at random", markup=False, soft_wrap=True)
        some = np.sort(np.random.default_rng(0).permutation(len(images))[:MOST_ROWS])
        return cls(images=images[some], responses=responses[some])


def closed_form(seen: SeenImages, features: StackFeatures) -> WindowedEncoding:
    """The windowed model of a session."""
    return closed_form_of_all([seen], features)[0]


def closed_form_of_all(seen: Sequence[SeenImages], features: StackFeatures) -> list[WindowedEncoding]:
    """The windowed models of sessions that were shown the same images: what costs most is done once for all.

    They are kept where the features are and read again by whoever asks for them.
    """
    paths = [kept_at(one, features) for one in seen]
    kept = [model for path in paths if path is not None and (model := read(path)) is not None]
    if len(kept) == len(seen):
        return kept
    together = np.concatenate([one.responses for one in seen], axis=1)
    fitted = WindowedEncoding(grids=features.grids).fit(features.of(seen[0].images), together)
    models = fitted.parts([one.responses.shape[1] for one in seen])
    for path, model in zip(paths, models, strict=True):
        if path is not None:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **model.state())  # pyright: ignore
    return models


def kept_at(seen: SeenImages, features: StackFeatures) -> Path | None:
    """Where the model of a session is kept: a name made of all that it was fitted to."""
    if features.folder is None:
        return None
    digest = sha256(f"{VERSION} {features.digest} {seen.images.dtype} {seen.responses.dtype}".encode())
    for part in (seen.images, seen.responses):
        digest.update(np.ascontiguousarray(part).tobytes())
    return features.folder / f"{digest.hexdigest()[:32]}.npz"


def read(path: Path) -> WindowedEncoding | None:
    """What was kept at ``path``; None where there is nothing, or nothing that can be read."""
    try:
        with np.load(path) as state:
            return WindowedEncoding.of(dict(state))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def expected_by(model: WindowedEncoding, features: StackFeatures, images: np.ndarray) -> np.ndarray:
    """[I, N]: what the model expects of some images, by row, a part at a time."""
    return np.concatenate([model.predict(features.of(part)) for part in np.array_split(images, len(images) // 512 + 1)])
