"""The digital twin: does the model know what a unit answers to images that it was never shown?

Route: spikes of five sessions -> `nb.pretrain` with images, taught by lessons (the demo's options) -> `nb.adapt` to the
sixth -> the model's expected responses to images (all spikes hidden). Two questions, on the simulated brain:

1. Correlation of expected with recorded mean responses over 100 test images, divided by its noise ceiling (units whose
   ceiling is above 0.3), against the stacked linear encoding of the same session, tuned by cross-validation on its own
   training images. Bar: above it, paired interval over units above 0. Control: the same with the images exchanged.
   The same on macaque V4, without a ceiling (responses are averages), where a run of configs/experiments/v4.yaml is
   found (--v4; its stages pretrain and align, some 25 minutes).
2. Most exciting pictures of V1 and V4 units (the simulated IT reads labels, not pixels) by gradient, against the best
   of LIBRARY scenes that it was not trained on, chosen by the same model: under the ground-truth neurons, with their
   tuning at mid-session. Bar: higher for 80 % of the units. Control: the scene that another unit likes best.

    python benchmarks/twin.py [--library 7000] [--units 40]    # ten minutes on two cores; training is kept in runs/twin
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from _common import ROOT, last_line, settings_of
from rich.console import Console
from rich.table import Table

import neurobridge as nb
from neurobridge.api.model import Model
from neurobridge.api.twin import AT_ONCE, Twin, correlations, tensors
from neurobridge.baselines.linear_encoding import LinearEncoding
from neurobridge.data.images import ImageSet
from neurobridge.data.simulate import render_scenes, simulate
from neurobridge.data.simulate.brain import build_array, record_from
from neurobridge.data.simulate.simulation import ANIMALS
from neurobridge.data.stored import StoredRecording
from neurobridge.evaluation.controls import Interval, bootstrap_interval
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.image_data import stack_features
from neurobridge.pipeline.joint_encoding import expected_responses, mean_responses
from neurobridge.pipeline.pictures import Chosen, load_images

SEED, ELECTRODES, SELECTIVITY = 0, 130, 0.36  # the defaults of the simulation
DEMO = settings_of(ROOT / "configs" / "experiments" / "demo.yaml")
OURS, LINEAR, TURNED = "NeuroBridge", "linear encoding, stacked", "control: images exchanged"
CEILING, BEATEN = 0.3, 0.8


def trained(folder: Path) -> tuple[Model, StoredRecording]:
    """The model adapted to the last session, and that recording; kept in ``folder``."""
    recordings = nb.open(simulate(folder / "data", seed=SEED))
    pretrained = nb.pretrain(
        recordings[:-1],
        model={"memory_features": DEMO.model.memory_features},
        taught=DEMO.encoding.taught,
        dreamt=DEMO.encoding.dreamt,
        unit_learning_rate=DEMO.pretrain.unit_learning_rate,
        seed=SEED,
        out=folder / "pretrained",
    )
    return nb.adapt(pretrained, recordings[-1:], out=folder / "adapted"), recordings[-1]


def first_question(twin: Twin) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Correlation over ceiling [units above CEILING] of each method; which units these are."""
    session, images = twin.session, twin.images
    assert images is not None, "the simulation has images"
    features = stack_features(twin.model.settings, images)
    maps = twin.model.bridge.maps.table(features.layers)
    shown, mean = mean_responses(session, "test")
    seen, trained_on = mean_responses(session, "train")
    ours = expected_responses(twin.model.net, twin.batcher, 0, maps, shown)
    linear = LinearEncoding().fit(features.of(seen), trained_on).predict(features.of(shown))
    _, ceiling = twin.trust
    good = ceiling > CEILING
    turned = np.roll(ours, 1, axis=0)
    found = {OURS: ours, LINEAR: linear, TURNED: turned}
    scores = {name: np.nan_to_num(correlations(x, mean)[good]) / ceiling[good] for name, x in found.items()}
    return scores, good  # an expectation that never varies tells nothing: 0


def on_v4(run: RunFolder) -> dict[str, np.ndarray]:
    """Correlation [units of all picture sessions] of expected with recorded responses to the test images, a method.

    The recordings are averages over repeats: their ceiling is not known, so correlations are as they are.
    """
    features, chosen = stack_features(run.settings, load_images(run).images), Chosen.of(run)
    found: dict[str, list[np.ndarray]] = {}
    for index in chosen.wanted:
        decoded = chosen.decode(index)
        assert decoded.encoding is not None, "the model reads images"
        shown, seen = decoded.test.images, decoded.train_images
        linear = LinearEncoding().fit(features.of(seen), decoded.train_responses).predict(features.of(shown))
        ours = decoded.encoding.expected[shown]
        for name, x in {OURS: ours, LINEAR: linear, TURNED: np.roll(ours, 1, axis=0)}.items():
            found.setdefault(name, []).append(np.nan_to_num(correlations(x, decoded.test.responses)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def told(title: str, scores: dict[str, np.ndarray]) -> tuple[Table, Interval]:
    """A table of methods, and by how much ours are above the linear encoding, paired over units."""
    table, above = Table(title, "mean over units [95 %]", "NeuroBridge minus this"), None
    for name, values in scores.items():
        mean, minus = (bootstrap_interval(x, seed=SEED, share=False) for x in (values, scores[OURS] - values))
        cells = [f"{x:.3f} [{low:.3f}, {high:.3f}]" for x, low, high in (mean, minus)]
        table.add_row(name, cells[0], "" if name == OURS else cells[1])
        above = minus if name == LINEAR else above
    assert above is not None, "the rival is one of the methods"
    return table, above


def truth(pixels: np.ndarray, images: ImageSet, session: str, units: list[str]) -> np.ndarray:
    """[I, U] Hz: what the simulated neurons answer to new ``pixels`` [I, H, W, 3], at mid-session."""
    subject, number = session.rsplit("_", 1)
    animal = ANIMALS.index(subject)
    count, new = len(images), len(pixels)
    labels = {name: np.concatenate([column, column[np.arange(new) % count]]) for name, column in images.labels.items()}
    every = ImageSet(
        ids=np.concatenate([images.ids, [f"new{i}" for i in range(new)]]),
        pixels=np.concatenate([images.pixels, pixels]),
        labels=labels,
    )
    array = build_array(every, electrodes=ELECTRODES, seed=SEED, animal=animal, selectivity=SELECTIVITY)
    population = record_from(array, rng=np.random.default_rng([SEED, 102, animal, int(number)]))
    second = np.concatenate([[False], np.diff(population.electrode) == 0]).astype(int)
    ids = [f"e{e:03d}u{k}" for e, k in zip(population.electrode.tolist(), second.tolist(), strict=True)]
    rates = population.spontaneous + population.evoked(slice(None))
    return rates[count:][:, [ids.index(unit) for unit in units]]


def second_question(twin: Twin, library: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Ground-truth rates [U] of the drawn picture, of the best of the library, and of another unit's best."""
    recording = twin.recording
    _, ceiling = twin.trust
    pixel = np.isin(recording.regions, ["V1", "V4"]) & (ceiling > CEILING)
    columns = np.flatnonzero(pixel)[:most]
    units = recording.unit_ids[columns].tolist()
    drawn = nb.exciting(twin.model, recording, units, seed=SEED).sel(picture="drawn").values
    maps = torch.cat([twin.maps_of(part) for part in tensors(library).split(AT_ONCE)])
    expected = expected_responses(twin.model.net, twin.batcher, 0, maps, np.arange(len(maps)))[:, columns]
    best = library[expected.argmax(0)]
    pixels = np.concatenate([(drawn * 255).round().astype(np.uint8), best])
    rates = truth(pixels, twin.images, recording.session, units)
    count = np.arange(len(units))
    return {
        "drawn": rates[count, count],
        "library": rates[len(units) + count, count],
        "another's": rates[len(units) + np.roll(count, 1), count],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "twin")
    parser.add_argument("--library", type=int, default=7000)
    parser.add_argument("--v4", type=Path, default=ROOT / "runs" / "v4")
    parser.add_argument("--units", type=int, default=40)
    options = parser.parse_args()
    model, recording = trained(options.out)
    twin = Twin(model, recording)
    scores, good = first_question(twin)
    table, above = told("correlation over its ceiling", scores)
    ours, console = scores[OURS], Console(width=120)
    console.print(table)
    real = None
    if (options.v4 / "align" / "done.json").is_file():
        table, real = told("macaque V4: correlation", on_v4(RunFolder.existing(options.v4)))
        console.print(table)
    else:
        console.print(f"macaque V4: no run of configs/experiments/v4.yaml at {options.v4}, left out")
    rates = second_question(twin, render_scenes(options.library, seed=5_000_000).pixels, options.units)
    wins = {name: float((rates["drawn"] > rates[name]).mean()) for name in ("library", "another's")}
    table = Table("ground-truth rate, Hz", "mean over units", "drawn is higher in")
    for name, values in rates.items():
        table.add_row(name, f"{values.mean():.2f}", f"{wins[name]:.0%}" if name in wins else "")
    console.print(table)
    better = above.low > 0 and (real is None or real.low > 0)
    ok = better and wins["library"] >= BEATEN and scores[TURNED].mean() < 0.2
    return last_line(
        "twin",
        float(ours.mean()),
        {"minus_linear": 0.0, "beats_library": BEATEN},
        ok,
        minus_linear=list(above),
        minus_linear_v4=None if real is None else list(real),
        beats_library=wins["library"],
        control=float(scores[TURNED].mean()),
        units=[int(good.sum()), len(rates["drawn"])],
    )


if __name__ == "__main__":
    raise SystemExit(main())
