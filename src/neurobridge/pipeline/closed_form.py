"""The windowed encoding of a session in closed form: a rival, and where it is asked for the teacher of the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurobridge.baselines.windowed_encoding import WindowedEncoding
from neurobridge.pipeline.image_data import StackFeatures
from neurobridge.terminal import console

MOST_ROWS = 4000  # training images of the windowed model: it holds kernels [P, P]


@dataclass(kw_only=True)
class SeenImages:
    """Training data of a session: ``images`` [P] rows of the feature arrays, ``responses`` [P, N] to them."""

    images: np.ndarray
    responses: np.ndarray

    @classmethod
    def of(cls, session: str, images: np.ndarray, responses: np.ndarray, *, seed: int = 0) -> SeenImages:
        """A session's training images; of more than :data:`MOST_ROWS` so many, drawn by ``seed``, and said."""
        if len(images) <= MOST_ROWS:
            return cls(images=images, responses=responses)
        told = f"session {session}: the windowed encoding is fitted to {MOST_ROWS:,} of its"
        console.print(f"{told} {len(images):,} training images, drawn at random", markup=False, soft_wrap=True)
        some = np.sort(np.random.default_rng(seed).permutation(len(images))[:MOST_ROWS])
        return cls(images=images[some], responses=responses[some])


def closed_form(seen: SeenImages, features: StackFeatures) -> WindowedEncoding:
    """The windowed model of a session."""
    return WindowedEncoding(grids=features.grids).fit(features.of(seen.images), seen.responses)


def expected_by(model: WindowedEncoding, features: StackFeatures, images: np.ndarray) -> np.ndarray:
    """[I, N]: what the model expects of some images, by row, a part at a time."""
    return np.concatenate([model.predict(features.of(part)) for part in np.array_split(images, len(images) // 512 + 1)])
