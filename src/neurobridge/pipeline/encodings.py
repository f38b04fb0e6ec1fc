"""Images -> responses for every session of a run: features of the stack, two encoding models, their combination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.progress import track

from neurobridge.baselines.linear_encoding import LinearEncoding, stacking_weights
from neurobridge.baselines.noise import GaussianNoise
from neurobridge.baselines.shared_encoding import SeenImages, SharedEncoding, common_maps
from neurobridge.baselines.windowed_encoding import Encoding, WindowedEncoding
from neurobridge.data.images import ImageSet
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.pipeline.alignment import average_by_image
from neurobridge.pipeline.decoding import Decoded, responses
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spikes import held_out_sessions, pretraining_sessions
from neurobridge.training.settings import RunSettings
from neurobridge.vision.feature_stack import FeatureStack, embed_stack

MOST_ROWS = 4000


@dataclass(kw_only=True)
class StackFeatures:
    """K layers [I, D] float16 of all images of the data folder, and the side of each layer's grid (0: none)."""

    layers: list[np.ndarray]
    grids: list[int]

    def of(self, images: np.ndarray) -> list[np.ndarray]:
        """K layers of some images, by row."""
        return [layer[images] for layer in self.layers]


@dataclass(kw_only=True)
class SessionEncoding:
    """Expected responses of a session to every image of the data folder, and how far they may be off.

    expected [I, N], of training images out of fold; noise: covariance of the training images' residuals;
    held_out_r2 [N]: share of variance explained on training images, out of fold.
    """

    expected: np.ndarray
    noise: GaussianNoise
    held_out_r2: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[np.ndarray], images: np.ndarray, responses: np.ndarray) -> SessionEncoding:
        """Combine the models' expectations (``parts``, each [I, N], out of fold for the training ``images`` [P])."""
        mean = responses.mean(axis=0, dtype=np.float64)
        held_out = np.stack([part[images] for part in parts]) - mean
        weights = stacking_weights(held_out, responses - mean)
        expected = np.einsum("kin,kn->in", np.stack(parts) - mean, weights) + mean
        residual = responses - expected[images]
        variance = responses.var(axis=0, dtype=np.float64)
        r2 = 1 - (residual**2).mean(axis=0) / np.where(variance > 0, variance, 1.0)
        return cls(expected=expected, noise=GaussianNoise(residual), held_out_r2=r2)

    def log_likelihood(self, responses: np.ndarray, images: np.ndarray) -> np.ndarray:
        """[P, G] in nats: each response [P, N] under each of the ``images`` [G], by row."""
        return self.noise.log_likelihood(np.asarray(responses, np.float64), self.expected[images])


def feature_stack(settings: RunSettings, layers: Sequence[str]) -> FeatureStack:
    """Some layers of the run's image encoder."""
    return FeatureStack(settings.image.encoder, layers=layers, resolution=settings.image.resolution)


def stack_features(settings: RunSettings, images: ImageSet, layers: Sequence[str] | None = None) -> StackFeatures:
    """Features of all images (``layers``: by default encoding.layers), cached beside the data."""
    stack = feature_stack(settings, layers or settings.encoding.layers)
    embedded = embed_stack(stack, images.ids, images.pixels, settings.data / "embeddings", device=settings.image.device)
    return StackFeatures(layers=embedded, grids=stack.grids)


def seen_images(session: Session) -> SeenImages:
    """Mean responses of a session to each image of its train split."""
    rows = session.rows("train")
    rows = rows[session.image_row[rows] >= 0]
    images, mean = average_by_image(responses(session, rows), session.image_row[rows])
    return SeenImages(images=images, responses=mean)


@dataclass(kw_only=True)
class ClosedForm:
    """What needs no seed: the windowed model's expectations [I, N], and the linear rival, a ridge a layer."""

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


def encode_sessions(
    run: RunFolder,
    decoded: Sequence[Decoded],
    images: ImageSet,
    features: StackFeatures,
    closed: dict[str, ClosedForm],
) -> dict[str, SessionEncoding]:
    """Session -> its encoding, for the sessions of ``decoded``; all sessions that show images train the shared one.

    Raises UserError if an image that some session trains on is a held-out one of another.
    """
    settings, options = run.settings, run.settings.encoding
    names = [d.session for d in decoded]
    seen = {d.session: SeenImages(images=d.train_images, responses=d.train_responses) for d in decoded}
    if options.epochs:
        for session in [*pretraining_sessions(settings), *held_out_sessions(settings)]:
            if session.name in seen:
                continue
            session.attach_images(images)
            if (session.image_row[session.rows("train")] >= 0).any():
                seen[session.name] = seen_images(session)
    held_out = np.concatenate([part for d in decoded for part in (d.valid.images, d.test.images)])
    for name, one in seen.items():
        if len(both := np.intersect1d(one.images, held_out)):
            raise UserError(
                f"session {name} trains on image {images.ids[both[0]]}, which is held out elsewhere: split by image "
                "content"
            )
    parts = {name: [closed[name].windowed] for name in names}
    if options.epochs:
        used = np.unique(np.concatenate([held_out, *(one.images for one in seen.values())]))
        maps = common_maps(features.of(used), features.grids, grid=max(1, *features.grids))
        local = [SeenImages(images=np.searchsorted(used, one.images), responses=one.responses) for one in seen.values()]
        shared = SharedEncoding(
            features=options.features, folds=options.folds, epochs=options.epochs, seed=settings.seed
        ).fit(maps, local)
        for name, expected in zip(seen, shared.expected(maps), strict=True):
            if name in parts:
                everywhere = np.zeros((len(images), expected.shape[1]))
                everywhere[used] = expected
                parts[name].append(everywhere)
    return {name: SessionEncoding.of(parts[name], seen[name].images, seen[name].responses) for name in names}


def closed_form(seen: SeenImages, features: StackFeatures) -> Encoding:
    """The windowed model; beyond MOST_ROWS training images its kernels are too large, and a ridge a layer stands in."""
    wide = len(seen.images) > MOST_ROWS
    model = LinearEncoding() if wide else WindowedEncoding(grids=features.grids)
    return model.fit(features.of(seen.images), seen.responses)


def expected_responses(model: Encoding, features: StackFeatures, images: np.ndarray) -> np.ndarray:
    """[I, N]: what the model expects of some images, by row, a part at a time."""
    return np.concatenate([model.predict(features.of(part)) for part in np.array_split(images, len(images) // 512 + 1)])


def windowed_expectation(seen: SeenImages, features: StackFeatures) -> np.ndarray:
    """[I, N]: the closed-form model's expectations of all images, out of fold for the session's training images."""
    model = closed_form(seen, features)
    expected = expected_responses(model, features, np.arange(len(features.layers[0])))
    expected[seen.images] = model.out_of_fold
    return expected
