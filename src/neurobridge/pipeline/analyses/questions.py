"""Three questions that a closed-form decoder is asked of responses: which image, which category, what detail.

Letters: I images of the set, R training rows, W responses, G gallery, N units, K target components, P pixels x 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from neurobridge.baselines.linear_encoding import stacking_weights
from neurobridge.baselines.ridge import ridge
from neurobridge.data.images import ImageSet
from neurobridge.evaluation.controls import majority_level
from neurobridge.evaluation.similarity import TIE

COMPONENTS = 100
DETAIL_GRID = 16
FEWEST_IMAGES = 20


class Questions:
    """What is decoded, and how an answer is scored; every statistic comes from training images.

    identification: ridge to the principal components of the image embedding; two-way identification by cosine among
    the gallery (chance 0.5, ties lose).
    category: ridge to the indicator of each class, the largest wins; 1 or 0, NaN for a class without training images.
    detail: ridge to the principal components of the picture at 16 x 16 without its own mean colour, which is no detail
    (and which a texture or an object betrays without any map of the picture); Pearson over the pixels, both pictures
    taken as deviations from the mean training picture, so that the mean picture scores 0.
    Every component has its own penalty, chosen by cross-validation on the training images.
    """

    def __init__(self, images: ImageSet, embeddings: np.ndarray, train: np.ndarray, *, label: str) -> None:
        """embeddings [I, width]; train [I] bool, shown in a train split; label: the column of images.h5 to classify."""
        self.identity, _ = principal(embeddings, train, COMPONENTS)
        self.detail = detail_of(images.pixels)
        self.detail -= self.detail[train].mean(0)
        self.picture, self.basis = principal(self.detail, train, COMPONENTS)
        self.labels, self.classes = np.zeros(len(images), dtype=str), np.array([], dtype=str)
        if label in images.labels and images.labels[label].ndim == 1:
            self.labels = images.labels[label].astype(str)
            self.classes = np.unique(self.labels[train])
        self.targets = np.concatenate([self.identity, self.picture], 1)
        if len(self.classes) > 1:
            self.targets = np.concatenate([self.targets, self.labels[:, None] == self.classes], 1)

    @property
    def names(self) -> list[str]:
        return ["identification", "category", "detail"] if len(self.classes) > 1 else ["identification", "detail"]

    def chance(self, gallery: np.ndarray) -> dict[str, float]:
        """What knowing nothing scores, for the image rows ``gallery`` [G]."""
        levels = {"identification": 0.5, "category": majority_level(self.labels[gallery]), "detail": 0.0}
        return {name: levels[name] for name in self.names}

    def ask(
        self,
        train_x: np.ndarray,
        train_images: np.ndarray,
        x: np.ndarray,
        images: np.ndarray,
        gallery: np.ndarray,
        *,
        bands: Sequence[np.ndarray] = (),
    ) -> dict[str, np.ndarray]:
        """Fit on responses train_x [R, N] to image rows train_images [R]; name -> scores [W] of x [W, N], rows images.

        gallery [G]: image rows among which an image is identified, sorted, those of ``images`` among them.
        bands: the columns of each area, where there are several. Each then has a decoder of its own beside that of all
        columns, and every component takes the non-negative combination that predicts training rows best out of fold
        (stacked regressions, Breiman 1996): units of an area that knows nothing of a component do not spoil it.
        """
        answer = self._answer(train_x, self.targets[train_images], x, bands if len(bands) > 1 else ())
        ends = np.cumsum([self.identity.shape[1], self.picture.shape[1]])
        identity, picture, category = np.split(answer, ends, axis=1)
        scores = {
            "identification": two_way(identity, self.identity[gallery], np.searchsorted(gallery, images)),
            "detail": correlation(picture @ self.basis.T, self.detail[images]),
        }
        if len(self.classes) > 1:
            hit = self.classes[category.argmax(1)] == self.labels[images]
            scores["category"] = np.where(np.isin(self.labels[images], self.classes), hit, np.nan)
        return {name: scores[name] for name in self.names}

    @staticmethod
    def _answer(train_x: np.ndarray, target: np.ndarray, x: np.ndarray, bands: Sequence[np.ndarray]) -> np.ndarray:
        """Targets [W, K] of responses x [W, N]."""
        columns = [np.arange(train_x.shape[1]), *bands]
        fits = [ridge(train_x[:, some], target, per_target=True) for some in columns]
        answers = [fit.predict(x[:, some]) for fit, some in zip(fits, columns, strict=True)]
        if not bands:
            return answers[0]
        mean = target.mean(0)
        weights = stacking_weights(np.stack([fit.out_of_fold for fit in fits]) - mean, target - mean)
        return np.einsum("bwk,bk->wk", np.stack(answers) - mean, weights) + mean


def principal(values: np.ndarray, train: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading principal components [I, K] of values [I, D], and basis [D, K]; both from the rows ``train``."""
    centred = values - values[train].mean(0)
    some = centred[train]
    if some.shape[0] < some.shape[1]:
        squared, left = np.linalg.eigh((some @ some.T).astype(np.float64))
        basis = some.T @ left / np.sqrt(np.maximum(squared, 1e-12))
    else:
        squared, basis = np.linalg.eigh((some.T @ some).astype(np.float64))
    kept = np.argsort(squared)[::-1][: min(components, len(some) - 1)]
    kept = kept[squared[kept] > 1e-9 * squared.max()]
    return centred @ basis[:, kept], basis[:, kept]


def detail_of(pixels: np.ndarray) -> np.ndarray:
    """Pictures uint8 [I, H, W, 3] at 16 x 16, each without its own mean colour: float32 [I, P]."""
    parts = (torch.from_numpy(pixels[at : at + 512]).permute(0, 3, 1, 2) for at in range(0, len(pixels), 512))
    small = torch.cat([F.adaptive_avg_pool2d(part.float() / 255, DETAIL_GRID) for part in parts])
    return (small - small.mean((2, 3), keepdim=True)).flatten(1).numpy()


def two_way(predicted: np.ndarray, gallery: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[W]: share of wrong gallery entries [G, K] with a smaller cosine to the prediction [W, K] than the right one."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (predicted, gallery))
    similarity = a @ b.T
    return (similarity < similarity[np.arange(len(a)), right][:, None] - TIE).sum(1) / (len(gallery) - 1)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson over the columns of each pair of rows [W, P]; 0 where one does not vary."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), size, out=np.zeros(len(a)), where=size > 1e-12)
