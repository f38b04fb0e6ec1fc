"""Which image was seen? By decoding, by the likelihood of the response, by both; beside ridge and chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neurobridge.baselines.ridge import LinearMap
from neurobridge.evaluation.controls import bootstrap_interval, chance_level
from neurobridge.evaluation.images import retrieval, retrieval_in_draws
from neurobridge.evaluation.inputs import divide
from neurobridge.pipeline.alignment import load_aligned
from neurobridge.pipeline.decoding import Decoded, linear_encoding, ridge_decoder
from neurobridge.pipeline.encodings import ClosedForm, SessionEncoding, StackFeatures, encode_sessions
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.pictures import cosine, load_images

DECODING, ENCODING, BOTH = "NeuroBridge, decoding", "NeuroBridge, likelihood", "NeuroBridge, decoding and likelihood"
RIDGE, LINEAR, STACKED = (
    "ridge decoding, same target",
    "linear encoding likelihood",
    "linear encoding likelihood, stacked",
)
DRAW = 300  # the gallery of MindEye's protocol: larger ones are drawn from at random


@dataclass(kw_only=True)
class Evidence:
    """What a session says of its test images [I], which are the gallery [G].

    targets [images, K]: embeddings of all images of the data folder; embeddings [images, width]: before the embedding
    space; encoding: images to responses; share: weight of the likelihood beside the decoder, chosen on the valid split;
    ridge: the rival, responses [I, N] -> predictions [I, K].
    """

    decoded: Decoded
    targets: np.ndarray
    embeddings: np.ndarray
    encoding: SessionEncoding
    share: float
    ridge: Callable[[np.ndarray], np.ndarray]

    def by_decoding(self, predicted: np.ndarray) -> np.ndarray:
        """[I, G]: predictions [I, K] against the gallery."""
        return cosine(predicted, self.targets[self.decoded.test.images])

    def by_likelihood(self, responses: np.ndarray) -> np.ndarray:
        """[I, G]: responses [I, N] under the gallery, in nats."""
        return self.encoding.log_likelihood(responses, self.decoded.test.images)

    def by_both(self, predicted: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """[I, G]: the two combined."""
        return combine(self.by_decoding(predicted), self.by_likelihood(responses), self.share)


def gather_evidence(
    run: RunFolder, sessions: Sequence[Decoded], features: StackFeatures, closed: dict[str, ClosedForm]
) -> list[Evidence]:
    """The evidence of every session; fits the encodings, all sessions together."""
    data = load_images(run)
    encodings = encode_sessions(run, sessions, data.images, features, closed)
    _, _, space = load_aligned(run)
    targets = space(torch.from_numpy(data.embeddings)).numpy()
    found = []
    for d in sessions:
        encoding, valid = encodings[d.session], d.valid
        share = best_weight(
            cosine(valid.decoded, targets[valid.images]), encoding.log_likelihood(valid.responses, valid.images)
        )
        ridge = ridge_decoder(d, data.embeddings, space)
        found.append(
            Evidence(
                decoded=d, targets=targets, embeddings=data.embeddings, encoding=encoding, share=share, ridge=ridge
            )
        )
    return found


def identification_rows(
    run: RunFolder, sessions: Sequence[Decoded], features: StackFeatures, closed: dict[str, ClosedForm]
) -> list[dict]:
    """One row a (session, method): top-1 and top-5 with intervals over images, gallery size and chance."""
    evidence = gather_evidence(run, sessions, features, closed)
    return [row for one in evidence for row in rows_of(one, features, closed, seed=run.settings.seed)]


def rows_of(evidence: Evidence, features: StackFeatures, closed: dict[str, ClosedForm], *, seed: int) -> list[dict]:
    """The rows of one session."""
    d, test = evidence.decoded, evidence.decoded.test
    linear, stacked = linear_encoding(d, evidence.embeddings), closed[d.session].stacked
    methods = {
        DECODING: evidence.by_decoding(test.decoded),
        f"{DECODING} one presentation": evidence.by_decoding(test.single),
        BOTH: evidence.by_both(test.decoded, test.responses),
        ENCODING: evidence.by_likelihood(test.responses),
        STACKED: stacked.log_likelihood(test.responses, features.of(test.images)),
        LINEAR: linear.log_likelihood(test.responses, evidence.embeddings[test.images]),
        RIDGE: evidence.by_decoding(evidence.ridge(test.responses)),
    }
    rows = []
    for method, scores in methods.items():
        one = {"session": d.session, "method": method, "gallery": len(test.images), "repeats": test.repeats}
        if "one presentation" in method:
            one["repeats"] = 1.0
        if method == BOTH:
            one["share"] = evidence.share
        ranks = rank(scores)
        for k in (1, 5):
            one[f"top{k}"] = [*bootstrap_interval((ranks < k).astype(float), seed=seed)]
            one[f"chance_top{k}"] = chance_level(len(test.images), k)
        rows.append(one)
    return rows


def both_ways(evidence: Evidence, *, seed: int) -> list[dict]:
    """Retrieval of images by predictions and of predictions by images (``backward_``), one row a decoder.

    Among up to DRAW images the gallery is all of them, and scores have intervals over images; beyond that it is
    MindEye's protocol, and scores are means over random galleries of DRAW (``draws``), which share images.
    """
    test = evidence.decoded.test
    decoders = {
        DECODING: test.decoded,
        f"{DECODING} one presentation": test.single,
        RIDGE: evidence.ridge(test.responses),
    }
    true, rows = evidence.targets[test.images], []
    for method, predicted in decoders.items():
        one = {"session": evidence.decoded.session, "method": method, "images": len(true)}
        if len(true) > DRAW:
            found = retrieval_in_draws(predicted, true, seed=seed, gallery=DRAW)
            one["draws"] = len(np.atleast_1d(found["top1"]))
        else:
            found = retrieval(predicted, true, np.arange(len(true)))
        for key in ("top1", "top5", "backward_top1", "backward_top5"):
            one[key] = float(np.mean(found[key])) if "draws" in one else [*bootstrap_interval(found[key], seed=seed)]
        rows.append(one | {key: found[key] for key in ("gallery", "chance_top1", "chance_top5")})
    return rows


def layer_rows(decoded: Decoded, layers: Sequence[str], features: StackFeatures, closed: ClosedForm) -> list[dict]:
    """One row an area: top-1 of every layer of ``encoding.layers`` on the valid split (:func:`layer_by_area`)."""
    valid = decoded.valid
    table = layer_by_area(
        dict(zip(layers, closed.stacked.layers, strict=True)),
        dict(zip(layers, features.of(valid.images), strict=True)),
        decoded.areas,
        decoded.train_responses,
        valid.responses,
    )
    common = {"session": decoded.session, "images": len(valid.images)}
    return [
        common | {"area": area, "units": int((decoded.areas == area).sum()), "top1": top1}
        for area, top1 in table.items()
    ]


def layer_by_area(
    maps: Mapping[str, LinearMap],
    valid_features: Mapping[str, np.ndarray],
    areas: np.ndarray,
    train_responses: np.ndarray,
    valid_responses: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Area -> layer -> top-1 of identifying the validation images by likelihood, from the units of that area alone.

    ``maps``: layer -> ridge from it to the responses, fitted on the training images, a penalty a unit (so that the
    units of an area are fitted as if there were no others); ``valid_features``: layer -> [V, D]; ``areas`` [N];
    ``train_responses`` [P, N], ``valid_responses`` [V, N]. The best layer of an area is a choice for its decoding
    target (``image.layer``).
    """
    train = np.arange(len(train_responses))
    valid = len(train) + np.arange(len(valid_responses))
    table: dict[str, dict[str, float]] = {area: {} for area in dict.fromkeys(areas.tolist())}
    for layer, fitted in maps.items():
        expected = np.concatenate([fitted.out_of_fold, fitted.predict(valid_features[layer])])
        for area, row in table.items():
            units = areas == area
            encoding = SessionEncoding.of([expected[:, units]], train, train_responses[:, units])
            row[layer] = float((rank(encoding.log_likelihood(valid_responses[:, units], valid)) < 1).mean())
    return table


def best_weight(decoding: np.ndarray, likelihood: np.ndarray) -> float:
    """Share of the likelihood beside the decoder that ranks the right image of the valid split best."""
    shares = np.linspace(0, 1, 11)
    return float(min(shares, key=lambda share: np.log1p(rank(combine(decoding, likelihood, share))).mean()))


def combine(decoding: np.ndarray, likelihood: np.ndarray, share: float) -> np.ndarray:
    """Both kinds of evidence [I, G], each standardised over the gallery (averaging repeats then changes no scale).

    Evidence that is the same for the whole gallery says nothing.
    """
    a, b = (divide(x - x.mean(1, keepdims=True), x.std(1, keepdims=True), empty=0.0) for x in (decoding, likelihood))
    return (1 - share) * a + share * b


def rank(scores: np.ndarray) -> np.ndarray:
    """[I]: how many wrong gallery entries score at least as high as the right one, which is on the diagonal.

    Raises ValueError for NaN, with which no comparison is true.
    """
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {scores.size} scores are NaN: nothing can be identified by them")
    right = np.diagonal(scores)[:, None]
    return (scores >= right).sum(1) - 1
