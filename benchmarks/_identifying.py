"""Which image did a new session see? By the model's latents and likelihood; by a linear encoding with a plain prior.

Letters: I images, G gallery, N units, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from _adaptation import NewSession
from _encoder import sessions_named

from neurobridge.bridge.alignment import ImageHead
from neurobridge.bridge.response_noise import ResponseNoise
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.alignment import predict_windows
from neurobridge.pipeline.identification import combine, rank
from neurobridge.pipeline.image_data import embedded_images, show_images, stack_features
from neurobridge.pipeline.joint_encoding import average_by_image, expected_responses, mean_responses, responses
from neurobridge.pipeline.pictures import cosine
from neurobridge.pipeline.spikes import open_windows

FEW, MOST = 50, 300  # labelled images that a covariance of residuals is taken from
LAYERS = {"block4@8": 8, "block7@8": 4, "block10@8": 4}  # and the grid that they are averaged to
COMPONENTS, PENALTIES, FOLDS = 600, (30, 100, 300, 1000, 3000, 10000), 5


class Identifier:
    """Evidence of a model on one session's images, each split its own gallery; ``labelled`` [k] images gave labels.

    A way is (noise, share): the noise of the likelihood, "single" (Poisson counts; for values each unit's variance,
    which takes no label) or "residuals" (their covariance over the labelled images), and the share of the likelihood
    beside decoding.
    """

    def __init__(self, new: NewSession, model: NeuroBridge, head: ImageHead, labelled: np.ndarray) -> None:
        self.new, self.model, self.head = new, model, head
        self.noise = None
        if len(labelled) >= FEW:
            images, x = mean_responses(new.session, "train", labelled)
            some = slice(None, None, -(-len(images) // MOST))
            residual = x[some] - self.expected(images[some])
            self.noise = ResponseNoise.of(residual, repeats=1.0, differences=None)
        self._evidence: dict[str, tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = {}

    def expected(self, images: np.ndarray) -> np.ndarray:
        """[I, N]: mean responses that the model expects."""
        maps = self.new.seen.maps
        assert maps is not None, "models of these benchmarks read images"
        return expected_responses(self.model, self.new.batcher, 0, maps, images)

    def evidence(self, split: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Images [I]; decoding [I, G]; likelihood [I, G] by noise."""
        if split not in self._evidence:
            session = self.new.session
            rows = session.shown(split)
            predicted = predict_windows(self.model, self.head, self.new.batcher, 0, rows)
            images, mean = average_by_image(predicted, session.image_row[rows])
            _, x = mean_responses(session, split)
            expected, repeats = self.expected(images), len(rows) / len(images)
            if session.valued:
                deviation = responses(session, session.rows("train")).std(0) + 1e-6
                alone = -0.5 * ((((x[:, None] - expected) / deviation) ** 2).sum(-1))
            else:
                alone = repeats * (x @ np.log(expected.clip(min=1e-6)).T - expected.sum(1))
            likelihood = {"single": alone}
            if self.noise is not None:
                likelihood["residuals"] = self.noise.log_likelihood(x, expected, repeats=1.0)
            self._evidence[split] = images, cosine(mean, self.new.targets[images]), likelihood
        return self._evidence[split]

    def ways(self) -> Iterator[tuple[str, float]]:
        for noise in ("single", "residuals")[: 1 if self.noise is None else 2]:
            for share in np.linspace(0, 1, 6):
                yield noise, float(share)

    def ranks(self, split: str, way: tuple[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Images [I] and how many of the gallery score at least as high as the right one [I]."""
        images, decoding, likelihood = self.evidence(split)
        return images, rank(combine(decoding, likelihood[way[0]], way[1]))

    def loss(self, way: tuple[str, float]) -> float:
        """How badly a way ranks the right image of the valid split."""
        return float(np.log1p(self.ranks("valid", way)[1]).mean())


def best_way(identifier: Identifier) -> tuple[str, float]:
    """The best one on the valid split."""
    return min(identifier.ways(), key=identifier.loss)


def components(new: NewSession) -> np.ndarray:
    """[images, F]: principal components of three layers of the image encoder, each of the same power.

    Fitted on the images of the train splits of all sessions of the data folder; no response is looked at. (By random
    projections and four power iterations, Halko et al. 2011.)
    """
    settings = new.settings
    sessions = open_windows(settings, sessions_named(settings.data))
    images = show_images(settings, sessions)
    assert images is not None, "sessions of these benchmarks show images"
    train = embedded_images(settings, images, sessions).train
    features = stack_features(settings, images)
    parts = []
    for layer, side in LAYERS.items():
        at = settings.encoding.layers.index(layer)
        x = torch.from_numpy(features.layers[at]).float().unflatten(1, (-1, features.grids[at], features.grids[at]))
        x = torch.nn.functional.adaptive_avg_pool2d(x, side).flatten(1)
        x = x - x[train].mean(0)
        parts.append(x / x[train].square().sum(1).mean().sqrt())
    x = torch.cat(parts, dim=1)
    kept = min(COMPONENTS, int(train.sum()) - 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, _, basis = torch.svd_lowrank(x[train], q=kept, niter=4)
    projected = (x @ basis).double().numpy()
    return projected / np.sqrt((projected[train] ** 2).mean())


@dataclass(kw_only=True)
class Isotropic:
    """Standardised responses [I, N] from features [I, F]; all weights have one prior variance, units one noise."""

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, x: np.ndarray) -> Isotropic:
        """One penalty for all, by cross-validation over images (rows are sorted by image: every fifth is a fold)."""
        deviation = x.std(0)
        deviation = np.where(deviation > 0, deviation, np.inf)
        z = (x - x.mean(0)) / deviation

        def solve(keep: np.ndarray, penalty: float) -> np.ndarray:
            f = features[keep]
            return f.T @ np.linalg.solve(f @ f.T + penalty * np.eye(len(f)), z[keep])

        fold = np.arange(len(z)) % FOLDS

        def error(penalty: float) -> float:
            held_out = [z[fold == k] - features[fold == k] @ solve(fold != k, penalty) for k in range(FOLDS)]
            return float(np.mean([(e**2).mean() for e in held_out]))

        weights = solve(np.ones(len(z), dtype=bool), min(PENALTIES, key=error))
        return cls(mean=x.mean(0), deviation=deviation, weights=weights)

    def ranks(self, x: np.ndarray, features: np.ndarray) -> np.ndarray:
        """[I]: responses [I, N] under the gallery's features [I, F], by likelihood."""
        z, expected = (x - self.mean) / self.deviation, features @ self.weights
        return rank(-((z[:, None] - expected) ** 2).sum(-1))
