"""Which image was seen? By decoding, by the likelihood of the response, by both; beside closed forms and chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from neurobridge.baselines.linear_encoding import stacking_weights
from neurobridge.baselines.noise import GaussianNoise
from neurobridge.baselines.ridge import LinearMap
from neurobridge.bridge.alignment import EmbeddingSpace
from neurobridge.bridge.response_noise import ResponseNoise
from neurobridge.errors import UserError
from neurobridge.evaluation.controls import bootstrap_interval, chance_level
from neurobridge.evaluation.images import retrieval, retrieval_in_draws
from neurobridge.evaluation.inputs import divide
from neurobridge.pipeline.alignment import load_aligned
from neurobridge.pipeline.decoding import Decoded, linear_encoding, ridge_decoder
from neurobridge.pipeline.encodings import ClosedForm
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.image_data import StackFeatures
from neurobridge.pipeline.joint_encoding import SessionEncoding
from neurobridge.pipeline.pictures import cosine, load_images

DECODING, ENCODING, BOTH = "NeuroBridge, decoding", "NeuroBridge, likelihood", "NeuroBridge, decoding and likelihood"
HELPED = "NeuroBridge with windowed encoding, decoding and likelihood"
RIDGE, LINEAR, STACKED, WINDOWED = (
    "ridge decoding, same target",
    "linear encoding likelihood",
    "linear encoding likelihood, stacked",
    "windowed encoding likelihood",
)
DRAW = 300  # the gallery of MindEye's protocol: larger ones are drawn from at random


@dataclass(kw_only=True)
class Evidence:
    """What a session says of its test images [I], which are the gallery [G].

    targets [images, K]: embeddings of all images of the data folder; embeddings [images, width]: before the embedding
    space; encoding: images to responses, through the model; share: weight of the likelihood beside the decoder, chosen
    on the valid split; ridge: the rival, responses [I, N] -> predictions [I, K].
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

    def by_likelihood(self, responses: np.ndarray, repeats: float) -> np.ndarray:
        """[I, G]: responses [I, N], means over ``repeats`` presentations, under the gallery, in nats."""
        return self.encoding.log_likelihood(responses, self.decoded.test.images, repeats=repeats)

    def by_both(self, predicted: np.ndarray, responses: np.ndarray, repeats: float) -> np.ndarray:
        """[I, G]: the two combined."""
        return combine(self.by_decoding(predicted), self.by_likelihood(responses, repeats), self.share)

    def with_encoding(self, encoding: SessionEncoding) -> Evidence:
        """The same with another encoding, its share chosen anew on the valid split."""
        valid = self.decoded.valid
        likelihood = encoding.log_likelihood(valid.responses, valid.images, repeats=valid.repeats)
        share = best_weight(cosine(valid.decoded, self.targets[valid.images]), likelihood)
        return replace(self, encoding=encoding, share=share)


def gather_evidence(run: RunFolder, sessions: Sequence[Decoded]) -> list[Evidence]:
    """The evidence of every session. Raises UserError for a model that reads no images."""
    data = load_images(run)
    _, bridge = load_aligned(run)
    targets = bridge.space(torch.from_numpy(data.embeddings)).numpy()
    return [evidence_of(run, d, data.embeddings, bridge.space, targets) for d in sessions]


def evidence_of(
    run: RunFolder, decoded: Decoded, embeddings: np.ndarray, space: EmbeddingSpace, targets: np.ndarray
) -> Evidence:
    """The evidence of one session, the share of the likelihood chosen; embeddings [images, width], in ``space`` targets
    [images, K]."""
    if decoded.encoding is None:
        raise UserError(
            f"the model of {run.path} reads no images, or session {decoded.session} has no valid split: there is no "
            "likelihood to identify images by; pretrain with --pretrain.images true on data with a valid split"
        )
    encoding, ridge = decoded.encoding, ridge_decoder(decoded, embeddings, space)
    one = Evidence(decoded=decoded, targets=targets, embeddings=embeddings, encoding=encoding, share=0.0, ridge=ridge)
    return one.with_encoding(encoding)


def closed_encoding(decoded: Decoded, expected: np.ndarray) -> SessionEncoding:
    """A rival's expectations [images, N], training images out of fold, with the noise of its training residuals."""
    residual = decoded.train_responses - expected[decoded.train_images]
    variance = decoded.train_responses.var(axis=0)
    r2 = 1 - (residual**2).mean(axis=0) / np.where(variance > 0, variance, 1.0)
    return SessionEncoding(
        expected=expected, noise=ResponseNoise.of(residual, repeats=1.0, differences=None), r2=r2, offset=0.0 * r2
    )


def stacked_encoding(decoded: Decoded, parts: Sequence[SessionEncoding]) -> SessionEncoding:
    """Several encodings, weighed unit by unit by non-negative least squares on the valid split (Breiman 1996)."""
    valid = decoded.valid
    means = [part.expected.mean(axis=0) for part in parts]
    centred = np.stack([part.expected - mean for part, mean in zip(parts, means, strict=True)])
    middle = valid.responses.mean(axis=0, dtype=np.float64)
    weights = stacking_weights(centred[:, valid.images], valid.responses - middle)
    expected = np.einsum("kin,kn->in", centred, weights) + middle
    return SessionEncoding.of(
        expected, images=valid.images, responses=valid.responses, repeats=valid.repeats, differences=None
    )


def rows_of(evidence: Evidence, features: StackFeatures, closed: ClosedForm, *, seed: int) -> list[dict]:
    """One row a method: top-1 and top-5 with intervals over images, gallery size and chance."""
    d, test = evidence.decoded, evidence.decoded.test
    windowed = closed_encoding(d, closed.windowed)
    helped = evidence.with_encoding(stacked_encoding(d, [evidence.encoding, windowed]))
    linear = linear_encoding(d, evidence.embeddings)
    methods = {
        DECODING: evidence.by_decoding(test.decoded),
        f"{DECODING} one presentation": evidence.by_decoding(test.single),
        BOTH: evidence.by_both(test.decoded, test.responses, test.repeats),
        ENCODING: evidence.by_likelihood(test.responses, test.repeats),
        HELPED: helped.by_both(test.decoded, test.responses, test.repeats),
        WINDOWED: windowed.log_likelihood(test.responses, test.images, repeats=1.0),
        STACKED: closed.stacked.log_likelihood(test.responses, features.of(test.images)),
        LINEAR: linear.log_likelihood(test.responses, evidence.embeddings[test.images]),
        RIDGE: evidence.by_decoding(evidence.ridge(test.responses)),
    }
    rows = []
    for method, scores in methods.items():
        one = {"session": d.session, "method": method, "gallery": len(test.images), "repeats": test.repeats}
        if "one presentation" in method:
            one["repeats"] = 1.0
        if method in (BOTH, HELPED):
            one["share"] = (evidence if method == BOTH else helped).share
        if method in (HELPED, WINDOWED) and closed.fitted < len(d.train_images):
            one["fitted"] = [closed.fitted, len(d.train_images)]  # training images that the windowed model saw, of all
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
    table: dict[str, dict[str, float]] = {area: {} for area in dict.fromkeys(areas.tolist())}
    for layer, fitted in maps.items():
        expected = fitted.predict(valid_features[layer])
        for area, row in table.items():
            units = areas == area
            noise = GaussianNoise((train_responses - fitted.out_of_fold)[:, units])
            scores = noise.log_likelihood(valid_responses[:, units], expected[:, units])
            row[layer] = float((rank(scores) < 1).mean())
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
