"""How pictures sharpen with presentations: the mean of the likeliest library images, from ever more of them.

Letters: I images, R presentations of each, K numbers of presentations, L library images.
"""

from __future__ import annotations

import numpy as np

from neurobridge.baselines.linear_encoding import library_posterior_mean
from neurobridge.evaluation import figures
from neurobridge.evaluation.analysis_figures import Curve, curves
from neurobridge.evaluation.controls import bootstrap_interval
from neurobridge.evaluation.images import pixcorr
from neurobridge.evaluation.report import Block, Figure
from neurobridge.pipeline.identification import Evidence
from neurobridge.pipeline.image_data import ImageData

NUMBERS = (1, 2, 5, 10, 20, 50)
SHOWN, LIBRARY = 6, 2000


def sharpening(evidence: Evidence, data: ImageData, *, seed: int) -> dict[str, np.ndarray]:
    """Pictures [K, shown, H, W, 3] uint8 and their PixCorr [K, I] by presentations [K]; the floor is the mean image.

    The ten training images under which the mean of the first so many responses is likeliest, by what the model expects,
    averaged: no generator, so that what grows is what the spikes tell. Nothing unless test images were repeated.
    """
    test = evidence.decoded.test
    if test.presentations is None:
        return {}
    rows = data.library(LIBRARY, np.random.default_rng(seed))
    library = data.images.pixels[rows]
    target = data.images.pixels[test.images] / 255
    most = test.presentations.responses.shape[1]
    numbers = [n for n in NUMBERS if n < most] + [most]
    some = np.linspace(0, len(target) - 1, min(SHOWN, len(target))).astype(int)
    pictures, scores = [], []
    for number in numbers:
        mean = test.presentations.responses[:, :number].mean(1)
        likelihood = evidence.encoding.log_likelihood(mean, rows, repeats=float(number))
        drawn = library_posterior_mean(likelihood, library, top=min(10, len(rows)))
        pictures.append((drawn[some] * 255).round().astype(np.uint8))
        scores.append(pixcorr(drawn, target))
    floor = pixcorr(np.broadcast_to(library.mean(0) / 255, target.shape), target)
    return {
        "sharpening": np.stack(pictures),
        "sharpening_target": data.images.pixels[test.images[some]],
        "sharpening_numbers": np.array(numbers),
        "sharpening_pixcorr": np.stack(scores),
        "sharpening_floor": floor,
    }


def sharpening_view(arrays: dict[str, np.ndarray], *, seed: int) -> list[Block]:
    """The strip of pictures, and the curve."""
    if "sharpening" not in arrays:
        return []
    numbers = arrays["sharpening_numbers"].tolist()
    columns = {"target": arrays["sharpening_target"] / 255}
    columns |= {str(n): pictures / 255 for n, pictures in zip(numbers, arrays["sharpening"], strict=True)}
    points = [bootstrap_interval(score, seed=seed, share=False) for score in arrays["sharpening_pixcorr"]]
    mean, low, high = zip(*points, strict=True)
    floor = float(arrays["sharpening_floor"].mean())
    lines = {"likeliest library images": Curve(numbers, mean, low, high)}
    lines["mean training image"] = Curve(numbers, *[[floor] * len(numbers)] * 3)
    caption = (
        "The mean of the ten training images that explain the first 1, 2, ... presentations best, without a generator. "
        "Evenly spaced test images, not chosen."
    )
    return [
        Figure("Pictures sharpen with presentations", figures.gallery(columns), caption, photographic=True),
        Figure(
            "PixCorr by presentations",
            curves({"PixCorr": lines}, xlabel="presentations averaged", log=True),
            f"{arrays['sharpening_pixcorr'].shape[1]} test images, 95 % intervals by bootstrap over images.",
        ),
    ]
