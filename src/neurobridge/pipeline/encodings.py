"""The rivals that go from images to responses in closed form, session by session: a ridge a layer, and windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track

from neurobridge.baselines.linear_encoding import LinearEncoding
from neurobridge.pipeline.closed_form import SeenImages, closed_form, expected_by
from neurobridge.pipeline.decoding import Decoded
from neurobridge.pipeline.image_data import StackFeatures


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
        seen = SeenImages.of(d.session, d.train_images, d.train_responses)
        out[d.session] = ClosedForm(
            windowed=windowed_expectation(seen, features),
            fitted=len(seen.images),
            stacked=LinearEncoding().fit(features.of(d.train_images), d.train_responses),
        )
    return out


def windowed_expectation(seen: SeenImages, features: StackFeatures) -> np.ndarray:
    """[I, N]: the windowed model's expectations of all images, out of fold for those that it was fitted to."""
    model = closed_form(seen, features)
    expected = expected_by(model, features, np.arange(len(features.layers[0])))
    expected[seen.images] = model.out_of_fold
    return expected
