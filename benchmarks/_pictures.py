"""What benchmarks of pictures share: steps kept on disk, pictures at another size, judges, a table and a gallery."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from neurobridge.errors import atomic_path
from neurobridge.evaluation.controls import bootstrap_interval
from neurobridge.evaluation.images import score_pictures
from neurobridge.evaluation.networks import OFFLINE
from neurobridge.pipeline.judges import load_judges


class Kept:
    """Arrays of finished steps in the cache folder: a step that is there already is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, step: Callable[[], np.ndarray]) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            start = time.monotonic()
            value = step()
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, value)
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        return np.load(path)


def sized(pictures: np.ndarray, side: int) -> np.ndarray:
    """Pictures [I, H, W, 3] at another side, bilinear with antialiasing."""
    images = torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).permute(0, 3, 1, 2)
    if side != images.shape[-1]:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def first(pictures: np.ndarray) -> torch.Tensor:
    """[I, H, W, 3] -> [I, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).permute(0, 3, 1, 2)


def last(images: torch.Tensor) -> np.ndarray:
    """[I, 3, H, W] -> [I, H, W, 3]."""
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def judge(pictures: dict[str, np.ndarray], pixels: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Values [I] by row and metric: PixCorr, SSIM, two-way pixels, of three layers, and the mean of these three."""
    nets = load_judges(OFFLINE)
    layers = {f"two-way {judge.layer}": f"two-way {judge.name}" for judge in OFFLINE}
    names = {name: name for name in ("PixCorr", "SSIM", "two-way pixels")} | layers
    values: dict[str, dict[str, np.ndarray]] = {}
    for row, value in pictures.items():
        scores = score_pictures({row: value}, pixels / np.float32(255), feature_nets=nets, seed=0)
        found = {score.metric: score.values for score in scores}
        values[row] = {name: found[metric] for name, metric in names.items()}
        values[row]["two-way"] = np.mean([values[row][layer] for layer in layers], axis=0)
    return values


def print_table(values: dict[str, dict[str, np.ndarray]], title: str) -> None:
    metrics = list(next(iter(values.values())))
    print(f"\n{title}\n{'':34s}" + "".join(f"{name:>18s}" for name in metrics))
    for row, found in values.items():
        cells = [bootstrap_interval(found[name], seed=0, share=False) for name in metrics]
        print(f"{row:34s}" + "".join(f"{c.mean:7.3f} {c.low:.2f}-{c.high:.2f}" for c in cells))


def gallery(path: Path, target: np.ndarray, pictures: dict[str, np.ndarray], columns: int = 14) -> None:
    """A PNG: one column an image, one row a method, the target on top."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = {"seen": target, **pictures}
    figure, axes = plt.subplots(len(rows), columns, figsize=(columns, len(rows)), squeeze=False)
    for line, (name, value) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, value[:: max(1, len(value) // columns)], strict=False):
            axis.imshow(picture.clip(0, 1))
        for axis in line:
            axis.set_axis_off()
        line[0].set_title(name, fontsize=7, loc="left", pad=2)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.98, wspace=0.03, hspace=0.16)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
