"""A film: pictures along time as a strip and as a moving picture, and how good they are.

Shapes: ``F`` frames, ``H`` x ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from neurobridge.errors import atomic_path
from neurobridge.evaluation.figures import styled
from neurobridge.evaluation.images import pixcorr
from neurobridge.evaluation.similarity import correlation_matrix, two_way_matrix

MOST, MARGIN, LABEL = 14, 4, 14


@styled
def strip(rows: Mapping[str, ArrayLike], times: Sequence[float]) -> Figure:
    """Name -> frames [F, H, W, 3] in [0, 1]: a row a name, time (s) to the right; at most 14 frames, evenly spaced."""
    some = np.linspace(0, len(times) - 1, min(MOST, len(times))).round().astype(int)
    first = np.asarray(next(iter(rows.values())))
    figure = Figure(figsize=(1.3 + 0.72 * len(some), 0.3 + 0.72 * len(rows) * first.shape[1] / first.shape[2]))
    grid = figure.subplots(len(rows), len(some), squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    for line, (name, frames) in zip(grid, rows.items(), strict=True):
        for axes, frame in zip(line, np.asarray(frames)[some], strict=True):
            axes.imshow(np.clip(frame, 0, 1))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, row in zip(grid[0], some, strict=True):
        axes.set_title(f"{times[row]:.2f} s", fontsize=7, fontweight="normal", loc="center")
    return figure


def moving(path: Path, rows: Mapping[str, ArrayLike], *, frame_ms: int, zoom: int = 2) -> None:
    """Write ``rows`` (name -> [F, H, W, 3] in [0, 1]) side by side as an animated WebP, its names above; it repeats."""
    frames = []
    for pictures in zip(*(np.asarray(x) for x in rows.values()), strict=True):
        high, wide = pictures[0].shape[0] * zoom, pictures[0].shape[1] * zoom
        whole = Image.new("RGB", (len(pictures) * (wide + MARGIN) - MARGIN, high + LABEL), "white")
        words = ImageDraw.Draw(whole)
        for place, (name, picture) in enumerate(zip(rows, pictures, strict=True)):
            small = Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
            whole.paste(small.resize((wide, high), Image.Resampling.BILINEAR), (place * (wide + MARGIN), LABEL))
            words.text((place * (wide + MARGIN), 1), name, fill="black")
        frames.append(whole)
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary, "WEBP", save_all=True, append_images=frames[1:], duration=frame_ms, loop=0, quality=80
        )


def frame_scores(drawn: ArrayLike, shown: ArrayLike, mean: ArrayLike) -> dict[str, np.ndarray]:
    """PixCorr [F], and identification [F]: the share of all other frames that a picture is less like than its own.

    Pictures [F, H, W, 3] in [0, 1], of all clips. What is alike is how they differ from the ``mean`` [H, W, 3] training
    frame; a picture that does not differ from it says nothing, which is chance, 0.5.
    """
    drawn, shown, mean = (np.asarray(x, np.float64) for x in (drawn, shown, mean))
    found = np.diag(two_way_matrix(correlation_matrix(drawn - mean, shown - mean))).copy()
    found[np.abs(drawn - mean).max((1, 2, 3)) < 1e-6] = 0.5
    return {"PixCorr": pixcorr(drawn, shown), "frame identification": found}
