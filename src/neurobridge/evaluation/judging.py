"""Is a judge of pictures to be believed? Decoys tell; and a judge that needs no network, by gradients.

A decoy is a picture by the same method with the layout of *another* photograph and the features of the target: it looks
like the other photograph. A judge that calls it right knows the features that were drawn, not the picture.
Shapes: ``I`` pictures, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from skimage.color import rgb2gray
from skimage.feature import hog

from neurobridge.evaluation.controls import Interval, bootstrap_interval
from neurobridge.evaluation.images import TARGET, Evaluator, resize

DECOY = "decoy"  # the name of the row in a table of pictures
UNFIT = 0.6  # two-way rate of decoys above which a judge is unfit; a judge that is not fooled is near 0.5 or below
HOG_SIZE, HOG_CELL = 112, 14


@dataclass(frozen=True, kw_only=True)
class Fitness:
    """``rate``: how often the judge calls decoys right (two-way, chance 0.5), with its interval over images."""

    rate: Interval

    @property
    def unfit(self) -> bool:
        """True if nothing may rest on this judge."""
        return self.rate.mean > UNFIT


def fitness(decoys: Mapping[str, ArrayLike], *, seed: int) -> dict[str, Fitness]:
    """Judge -> its fitness, from judge -> two-way values [I] of decoys, compared with the targets they are not of."""
    return {judge: Fitness(rate=bootstrap_interval(values, seed=seed, share=False)) for judge, values in decoys.items()}


def judge_of(metric: str) -> str:
    """The judge of a row of ``images.score_pictures``: "HOG" of "two-way HOG"; "" for PixCorr and SSIM."""
    kind, _, judge = metric.removesuffix(TARGET).partition(" ")
    return judge if kind in ("two-way", "distance", "cosine") else ""


def hog_features(pictures: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients [I, D] (Dalal & Triggs 2005) of pictures [I, H, W, 3]: 8 x 8 cells, 8 angles.

    Of grey pictures at 112 pixels, every cell normalised by itself: edges and their layout, no colour.
    """
    cells = {"orientations": 8, "pixels_per_cell": (HOG_CELL, HOG_CELL), "cells_per_block": (1, 1)}
    return np.stack([hog(rgb2gray(resize(picture[None], HOG_SIZE)[0]), **cells) for picture in pictures])


HOG = Evaluator(features=hog_features, network="")
