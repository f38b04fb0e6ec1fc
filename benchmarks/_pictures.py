"""What benchmarks of pictures share: steps kept on disk, pictures at another size, judges, a table and a gallery."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from neurobridge.errors import atomic_path
from neurobridge.evaluation.alexnet import weight_file
from neurobridge.evaluation.controls import bootstrap_interval
from neurobridge.evaluation.images import score_pictures
from neurobridge.evaluation.judging import DECOY, HOG, UNFIT, Fitness, fitness
from neurobridge.evaluation.networks import ALEXNET, OFFLINE
from neurobridge.pipeline.judges import load_judges
from neurobridge.pipeline.picture_scores import remembering


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


MEANS = {"two-way": [j.name for j in OFFLINE], "two-way AlexNet": [j.name for j in ALEXNET]}


def judge(pictures: dict[str, np.ndarray], pixels: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Values [I] by row and metric: PixCorr, SSIM, two-way by pixels, HOG and every layer of the networks that judge.

    "two-way" is the mean of EfficientNet-Lite1's three layers, "two-way AlexNet" that of AlexNet's two, which is there
    where stlpips-pytorch is installed: pip install 'neurobridge[bench]'.
    """
    declared = [*OFFLINE, *(ALEXNET if weight_file() else ())]
    nets = {"HOG": HOG, **load_judges(declared)}
    nets = {name: replace(net, features=remembering(net.features)) for name, net in nets.items()}
    layers = {f"two-way {judge.name}": f"two-way {judge.layer}" for judge in OFFLINE}  # as RESULTS.md calls them
    values: dict[str, dict[str, np.ndarray]] = {}
    for row, value in pictures.items():
        scores = score_pictures({row: value}, pixels / np.float32(255), feature_nets=nets, seed=0)
        found = {score.metric: score.values for score in scores}
        values[row] = {layers.get(metric, metric): array for metric, array in found.items() if "distance" not in metric}
        for name, judges in MEANS.items():
            if all(judge in nets for judge in judges):
                values[row][name] = np.mean([found[f"two-way {judge}"] for judge in judges], axis=0)
    return values


def judge_fitness(values: dict[str, dict[str, np.ndarray]]) -> dict[str, Fitness]:
    """Two-way metric -> how often its judge calls the row "decoy" right; nothing may rest on one that is unfit."""
    return fitness({name: array for name, array in values[DECOY].items() if name.startswith("two-way")}, seed=0)


def print_table(values: dict[str, dict[str, np.ndarray]], title: str) -> None:
    """One row a method, one column a metric; a cross marks the judges that decoys fool."""
    metrics = list(next(iter(values.values())))
    unfit = [name for name, found in judge_fitness(values).items() if found.unfit] if DECOY in values else []
    titles = [name + " (x)" * (name in unfit) for name in metrics]
    print(f"\n{title}\n{'':34s}" + "".join(f"{name:>26s}" for name in titles))
    for row, found in values.items():
        cells = [bootstrap_interval(found[name], seed=0, share=False) for name in metrics]
        print(f"{row:34s}" + "".join(f"{c.mean:14.3f} {c.low:.2f}-{c.high:.2f}".rjust(26) for c in cells))
    if unfit:
        print(f"(x) unfit: calls more than {UNFIT} of the decoys right")


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
