"""The rivals that go from images to responses in closed form, session by session: a ridge a layer, and windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track

from neurobridge.baselines.linear_encoding import LinearEncoding
from neurobridge.baselines.windowed_encoding import WindowedEncoding
from neurobridge.pipeline.decoding import Decoded
from neurobridge.pipeline.image_data import StackFeatures
from neurobridge.terminal import console

MOST_ROWS = 4000  # training images of the windowed model: it holds kernels [P, P]


@dataclass(kw_only=True)
class SeenImages:
    """Training data of a session: ``images`` [P] rows of the feature arrays, ``responses`` [P, N] to them."""

    images: np.ndarray
    responses: np.ndarray

    @classmethod
    def of(cls, decoded: Decoded, *, seed: int = 0) -> SeenImages:
        """The session's training images; of more than :data:`MOST_ROWS` so many, drawn by ``seed``, and said."""
        images, responses = decoded.train_images, decoded.train_responses
        if len(images) <= MOST_ROWS:
            return cls(images=images, responses=responses)
        told = f"session {decoded.session}: the windowed encoding, a rival, is fitted to {MOST_ROWS:,} of its"
        console.print(f"{told} {len(images):,} training images, drawn at random", markup=False, soft_wrap=True)
        some = np.sort(np.random.default_rng(seed).permutation(len(images))[:MOST_ROWS])
        return cls(images=images[some], responses=responses[some])


@dataclass(kw_only=True)
class ClosedForm:
    """windowed: expectations [I, N] of that model, out of fold for the images that it was fitted to, which are
    ``fitted`` in number; stacked: a ridge a layer, on all training images."""

    windowed: np.ndarray
    fitted: int
    stacked: LinearEncoding


def closed_forms(decoded: Sequence[Decoded], features: StackFeatures) -> dict[str, ClosedForm]:
    """Session -> its closed-form encodings."""
    out = {}
    for d in track(decoded, "encoding, closed form", transient=True):
        seen = SeenImages.of(d)
        out[d.session] = ClosedForm(
            windowed=windowed_expectation(seen, features),
            fitted=len(seen.images),
            stacked=LinearEncoding().fit(features.of(d.train_images), d.train_responses),
        )
    return out


def closed_form(seen: SeenImages, features: StackFeatures) -> WindowedEncoding:
    """The windowed model of a session."""
    return WindowedEncoding(grids=features.grids).fit(features.of(seen.images), seen.responses)


def expected_by(model: WindowedEncoding, features: StackFeatures, images: np.ndarray) -> np.ndarray:
    """[I, N]: what the model expects of some images, by row, a part at a time."""
    return np.concatenate([model.predict(features.of(part)) for part in np.array_split(images, len(images) // 512 + 1)])


def windowed_expectation(seen: SeenImages, features: StackFeatures) -> np.ndarray:
    """[I, N]: the windowed model's expectations of all images, out of fold for those that it was fitted to."""
    model = closed_form(seen, features)
    expected = expected_by(model, features, np.arange(len(features.layers[0])))
    expected[seen.images] = model.out_of_fold
    return expected
