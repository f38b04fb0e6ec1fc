"""Which image was seen? By decoding, by the likelihood of the response, by both; beside ridge and chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from neurobridge.bridge.encoding import LinearEncoding
from neurobridge.evaluation.controls import bootstrap_interval, chance_level
from neurobridge.pipeline.alignment import load_aligned
from neurobridge.pipeline.decoding import Decoded, linear_encoding, ridge_predictions
from neurobridge.pipeline.encodings import ClosedForm, StackFeatures, closed_forms, encode_sessions, stack_features
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.pictures import cosine, load_images

DECODING, ENCODING, BOTH = "NeuroBridge, decoding", "NeuroBridge, likelihood", "NeuroBridge, decoding and likelihood"
RIDGE, LINEAR, STACKED = (
    "ridge decoding, same target",
    "linear encoding likelihood",
    "linear encoding likelihood, stacked",
)


def score_retrieval(run: RunFolder, sessions: Sequence[Decoded]) -> list[dict]:
    """Rows of :func:`identification_rows`, everything made for it; the gallery is the session's test images."""
    images = load_images(run).images
    features = stack_features(run.settings, images)
    return identification_rows(run, sessions, features, closed_forms(sessions, features))


def identification_rows(
    run: RunFolder, sessions: Sequence[Decoded], features: StackFeatures, closed: dict[str, ClosedForm]
) -> list[dict]:
    """One row a (session, method): top-1 and top-5 with intervals over images, gallery size and chance."""
    data = load_images(run)
    encodings = encode_sessions(run, sessions, data.images, features, closed)
    _, _, space = load_aligned(run)
    targets = space(torch.from_numpy(data.embeddings)).numpy()
    rows = []
    for d in sessions:
        valid, test = d.valid, d.test
        encoding, linear, stacked = encodings[d.session], linear_encoding(d, data.embeddings), closed[d.session].stacked
        decoding = cosine(test.decoded, targets[test.images])
        likelihood = encoding.log_likelihood(test.responses, test.images)
        share = best_weight(
            cosine(valid.decoded, targets[valid.images]), encoding.log_likelihood(valid.responses, valid.images)
        )
        methods = {
            DECODING: decoding,
            f"{DECODING} one presentation": cosine(test.single, targets[test.images]),
            BOTH: combine(decoding, likelihood, share),
            ENCODING: likelihood,
            STACKED: stacked.log_likelihood(test.responses, features.of(test.images)),
            LINEAR: linear.log_likelihood(test.responses, data.embeddings[test.images]),
            RIDGE: cosine(ridge_predictions(d, data.embeddings, space), targets[test.images]),
        }
        for method, scores in methods.items():
            one = {"session": d.session, "method": method, "gallery": len(test.images), "repeats": test.repeats}
            if "one presentation" in method:
                one["repeats"] = 1.0
            if method == BOTH:
                one["share"] = share
            ranks = rank(scores)
            for k in (1, 5):
                one[f"top{k}"] = [*bootstrap_interval((ranks < k).astype(float), seed=run.settings.seed)]
                one[f"chance_top{k}"] = chance_level(len(test.images), k)
            rows.append(one)
    return rows


def layer_by_area(
    layers: dict[str, np.ndarray],
    areas: np.ndarray,
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
) -> dict[str, dict[str, float]]:
    """Area -> layer -> top-1 of identifying the validation images by likelihood, from the units of that area alone.

    ``layers``: name -> features [I, D] of all images; ``areas`` [N] of the units; ``train``, ``valid``: image rows
    [P] and responses [P, N]. The best layer of an area is a choice for its decoding target (``image.layer``).
    """
    table: dict[str, dict[str, float]] = {}
    for area in dict.fromkeys(areas.tolist()):
        units = areas == area
        table[area] = {}
        for name, features in layers.items():
            model = LinearEncoding().fit(features[train[0]], train[1][:, units])
            scores = model.log_likelihood(valid[1][:, units], features[valid[0]])
            table[area][name] = float((rank(scores) < 1).mean())
    return table


def best_weight(decoding: np.ndarray, likelihood: np.ndarray) -> float:
    """Share of the likelihood beside the decoder that ranks the right image of the valid split best."""
    shares = np.linspace(0, 1, 11)
    return float(min(shares, key=lambda share: np.log1p(rank(combine(decoding, likelihood, share))).mean()))


def combine(decoding: np.ndarray, likelihood: np.ndarray, share: float) -> np.ndarray:
    """Both kinds of evidence [I, G], each standardised over the gallery (averaging repeats then changes no scale)."""
    a, b = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (decoding, likelihood))
    return (1 - share) * a + share * b


def rank(scores: np.ndarray) -> np.ndarray:
    """[I]: how many wrong gallery entries score at least as high as the right one, which is on the diagonal."""
    right = np.diagonal(scores)[:, None]
    return (scores >= right).sum(1) - 1
