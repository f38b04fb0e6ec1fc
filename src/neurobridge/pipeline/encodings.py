"""The rivals that go from images to responses in closed form, session by session: a ridge a layer, and windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track

from neurobridge.baselines.linear_encoding import LinearEncoding
from neurobridge.baselines.windowed_encoding import Encoding, WindowedEncoding
from neurobridge.pipeline.decoding import Decoded
from neurobridge.pipeline.image_data import StackFeatures

MOST_ROWS = 4000


@dataclass(kw_only=True)
class SeenImages:
    """Training data of a session: ``images`` [P] rows of the feature arrays, ``responses`` [P, N] to them."""

    images: np.ndarray
    responses: np.ndarray


@dataclass(kw_only=True)
class ClosedForm:
    """expected: of the windowed model [I, N], training images out of fold; stacked: a ridge a layer."""

    windowed: np.ndarray
    stacked: LinearEncoding


def closed_forms(decoded: Sequence[Decoded], features: StackFeatures) -> dict[str, ClosedForm]:
    """Session -> its closed-form encodings."""
    out = {}
    for d in track(decoded, "encoding, closed form", transient=True):
        seen = SeenImages(images=d.train_images, responses=d.train_responses)
        out[d.session] = ClosedForm(
            windowed=windowed_expectation(seen, features),
            stacked=LinearEncoding().fit(features.of(d.train_images), d.train_responses),
        )
    return out


def closed_form(seen: SeenImages, features: StackFeatures) -> Encoding:
    """The windowed model; beyond MOST_ROWS training images its kernels are too large, and a ridge a layer stands in."""
    wide = len(seen.images) > MOST_ROWS
    model = LinearEncoding() if wide else WindowedEncoding(grids=features.grids)
    return model.fit(features.of(seen.images), seen.responses)


def expected_by(model: Encoding, features: StackFeatures, images: np.ndarray) -> np.ndarray:
    """[I, N]: what the model expects of some images, by row, a part at a time."""
    return np.concatenate([model.predict(features.of(part)) for part in np.array_split(images, len(images) // 512 + 1)])


def windowed_expectation(seen: SeenImages, features: StackFeatures) -> np.ndarray:
    """[I, N]: the closed-form model's expectations of all images, out of fold for the session's training images."""
    model = closed_form(seen, features)
    expected = expected_by(model, features, np.arange(len(features.layers[0])))
    expected[seen.images] = model.out_of_fold
    return expected
