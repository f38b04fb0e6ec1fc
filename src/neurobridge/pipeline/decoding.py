"""From responses of a session to what every picture and score needs: predictions, image averages, rivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from neurobridge.baselines.carried import CarriedRidge, carry_ridge
from neurobridge.baselines.linear_encoding import LinearEncoding
from neurobridge.baselines.ridge import LinearMap, RidgeDecoder
from neurobridge.bridge.alignment import EmbeddingSpace, ImageHead
from neurobridge.data.datamodule import Batcher
from neurobridge.data.store import Session
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.alignment import predict_windows
from neurobridge.pipeline.joint_encoding import (
    SessionEncoding,
    average_by_image,
    differences_between_repeats,
    expected_responses,
    mean_responses,
    responses,
)
from neurobridge.training.settings import RunSettings


@dataclass(kw_only=True)
class Presentations:
    """The first R presentations of every image: decoded [I, R, K] unit-length predictions, responses [I, R, N]."""

    decoded: np.ndarray
    responses: np.ndarray


@dataclass(kw_only=True)
class Split:
    """One split of a session, averaged over the repeats of each image.

    images [I] rows in the image set, sorted; decoded [I, K] mean of the unit-length predictions; responses [I, N]
    mean counts (or values); single [I, K] the prediction of one presentation; repeats: mean number averaged;
    presentations: one by one, None unless every image has at least two.
    """

    images: np.ndarray
    decoded: np.ndarray
    responses: np.ndarray
    single: np.ndarray
    repeats: float
    presentations: Presentations | None


@dataclass(kw_only=True)
class Decoded:
    """Splits of one session, by name; ``train`` holds no predictions (they would be those of seen images).

    areas [N]: where each unit lies. encoding: what the model expects of the session, by image (None: it reads none).
    """

    session: str
    areas: np.ndarray
    encoding: SessionEncoding | None
    valid: Split
    test: Split
    train_images: np.ndarray
    train_responses: np.ndarray


def decode_session(
    model: NeuroBridge,
    head: ImageHead,
    batcher: Batcher,
    index: int,
    settings: RunSettings,
    *,
    maps: torch.Tensor | None = None,
) -> Decoded:
    """Predictions and mean responses of a session; at most settings.reconstruct.images test images, drawn by seed.

    maps [I, positions, W] of all images: with them the session is encoded too.
    """
    session = batcher.sessions[index]

    def split(name: str, most: int | None = None) -> Split:
        rows = session.shown(name)
        if most is not None:
            shown = np.unique(session.image_row[rows])
            kept = np.random.default_rng(settings.seed).permutation(shown)[:most]
            rows = rows[np.isin(session.image_row[rows], kept)]
        shown = session.image_row[rows]
        predicted, counts = predict_windows(model, head, batcher, index, rows), responses(session, rows)
        images, decoded = average_by_image(predicted, shown)
        _, mean = average_by_image(counts, shown)
        return Split(
            images=images,
            decoded=decoded,
            responses=mean,
            single=predicted[first_presentations(shown, 1)[:, 0]],
            repeats=len(rows) / max(1, len(images)),
            presentations=one_by_one(predicted, counts, shown),
        )

    valid = split("valid")
    encoding = None
    if maps is not None and len(valid.images) > 1:
        encoding = SessionEncoding.of(
            expected_responses(model, batcher, index, maps, np.arange(len(maps))),
            images=valid.images,
            responses=valid.responses,
            repeats=valid.repeats,
            differences=differences_between_repeats(session, session.shown("valid")),
        )
    train_images, train_responses = mean_responses(session, "train")
    return Decoded(
        session=session.name,
        areas=np.asarray(session.recording.regions),
        encoding=encoding,
        valid=valid,
        test=split("test", settings.reconstruct.images),
        train_images=train_images,
        train_responses=train_responses,
    )


def one_by_one(predicted: np.ndarray, counts: np.ndarray, shown: np.ndarray) -> Presentations | None:
    """Predictions [W, K] and responses [W, N] of windows that ``shown`` [W] image rows; None if one is shown once."""
    most = int(np.unique(shown, return_counts=True)[1].min(initial=len(shown)))
    if most < 2:
        return None
    at = first_presentations(shown, most)
    return Presentations(decoded=predicted[at], responses=counts[at])


def first_presentations(shown: np.ndarray, number: int) -> np.ndarray:
    """[I, number]: where each image (by row, sorted) is among ``shown`` [W] for the first so many times."""
    order = np.argsort(shown, kind="stable")
    _, starts = np.unique(shown[order], return_index=True)
    return order[starts[:, None] + np.arange(number)]


class Calibration:
    """Decoded directions -> embeddings of a usable size: shrinkage by component, fitted on the valid split.

    Components share a slope with their neighbours in variance (ranks 0-3, 4-7, 8-15, 16-31, ...): the leading ones are
    decoded well and keep their size, the last ones are noise and go to the mean.
    """

    def __init__(self, decoded: np.ndarray, targets: np.ndarray) -> None:
        """decoded, targets [I, K], components in order of variance."""
        octave = np.log2(np.maximum(np.arange(decoded.shape[1]), 2) // 2 * 2).astype(int)
        power = np.bincount(octave, weights=(decoded**2).sum(0))
        product = np.bincount(octave, weights=(decoded * targets).sum(0))
        self.slope = np.where(power > 0, np.maximum(product, 0) / np.where(power > 0, power, 1), 0)[octave]

    def __call__(self, decoded: np.ndarray, space: EmbeddingSpace) -> np.ndarray:
        """[I, K] -> embeddings [I, width]."""
        return space.inverse(torch.from_numpy((decoded * self.slope).astype(np.float32))).numpy()


def ridge_decoder(
    decoded: Decoded, embeddings: np.ndarray, space: EmbeddingSpace
) -> Callable[[np.ndarray], np.ndarray]:
    """The rival: ridge from the session's training responses to the same target; responses [I, N] -> [I, K].

    It is fitted on the raw embeddings [images, width] (one penalty for all, which suits their basis) and moved into the
    embedding space afterwards, when it is first asked.
    """

    @cache
    def fitted() -> RidgeDecoder:
        return RidgeDecoder().fit(decoded.train_responses, embeddings[decoded.train_images])

    return lambda responses: space(torch.from_numpy(fitted().predict(responses).astype(np.float32))).numpy()


def carried_ridge(session: Session, earlier: Sequence[Session], embeddings: np.ndarray) -> CarriedRidge | None:
    """The rival without a label: ridges of the same subject's ``earlier`` sessions to ``embeddings``, unit by unit.

    None where none of them knows a unit of the session by its name.
    """

    def names(one: Session) -> list[str]:
        return [key.split("/", 3)[3] for key in one.recording.unit_keys]

    maps: list[LinearMap] = []
    theirs = []
    for known in earlier:
        if known.recording.subject != session.recording.subject or not len(known.images_shown("train")):
            continue
        images, x = mean_responses(known, "train")
        decoder = RidgeDecoder().fit(x, embeddings[images])
        assert decoder.map is not None, "it was fitted"
        maps.append(decoder.map)
        theirs.append(names(known))
    if not any(set(names(session)) & set(some) for some in theirs):
        return None
    return carry_ridge(maps, theirs, names(session), mean_responses(session, "train")[1])


def ridge_embeddings(decoded: Decoded, embeddings: np.ndarray) -> np.ndarray:
    """The same rival for a generator [I, width]: ridge to ``embeddings`` [images, width], their spread restored."""
    decoder = RidgeDecoder().fit(decoded.train_responses, embeddings[decoded.train_images])
    return decoder.predict_spread(decoded.test.responses).astype(np.float32)


def linear_encoding(decoded: Decoded, features: np.ndarray) -> LinearEncoding:
    """Closed-form encoding model of the session: image features [images, F] -> responses."""
    return LinearEncoding().fit(features[decoded.train_images], decoded.train_responses)
