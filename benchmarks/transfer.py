"""A new session: unit embeddings alone against training from scratch, and an IDEncoder against random embeddings.

Simulated brains: pretraining on two sessions of monkey A; held out are its third session and an animal never seen
(monkeyB_1). For each: random embeddings, 50 to 500 steps of the unit embeddings with the body frozen, an IDEncoder
without any gradient on the new session, 500 steps with gradual unfreezing, and a model trained from scratch on the
held-out session (as many steps as the pretraining, or a third: the better one on the valid split's loss). Scored on
held-out images: leave-one-out co-smoothing, and the category probe on the frozen encoder, beside the same probe on
plain counts. The bar: 500 steps reach 0.90 of from-scratch in both scores on both sessions, and the IDEncoder's
co-smoothing is above that of random embeddings.

    python benchmarks/transfer.py [--out runs/transfer]    # ten minutes; draws runs/transfer/transfer.png
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from _common import last_line, train
from _simulated import RUNS, cached, category_accuracy, category_of_counts, data_folder, pretrained, settings_for

from neurobridge.data.images import ImageSet
from neurobridge.evaluation.spikes import bits_per_spike
from neurobridge.neuro.identity import IDEncoder
from neurobridge.neuro.model import NeuroBridge
from neurobridge.pipeline.adaptation import embed_units, train_identity
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spike_scores import co_smoothing
from neurobridge.pipeline.spikes import (
    add_units,
    make_batcher,
    make_model,
    open_windows,
    spike_task,
)
from neurobridge.training.settings import RunSettings
from neurobridge.training.tasks import masked

PRETRAINED = ["monkeyA_1", "monkeyA_2"]
HELD_OUT = {"monkeyA_3": "new session", "monkeyB_1": "new animal"}
STEPS, CURVE, BAR = 1200, (0, 50, 100, 250, 500), 0.90


def score(model: NeuroBridge, settings: RunSettings, name: str) -> dict[str, float]:
    """Co-smoothing and category probe of one session."""
    [session] = open_windows(settings, [name])
    images = ImageSet.read(settings.data / "images.h5")
    session.attach_images(images)
    batcher = make_batcher(model.eval(), [session], settings)
    ours, truth, units = co_smoothing(model, batcher, 0)
    return {
        "co-smoothing": bits_per_spike(ours, truth[:, units]),
        "category": category_accuracy(model, batcher, 0, session, images),
    }


def fitted(
    model: NeuroBridge, settings: RunSettings, name: str, *, only_units: bool
) -> tuple[NeuroBridge, float, float]:
    """The model after training on one session; seconds; loss on its valid split under frozen masks."""
    sessions = open_windows(settings, [name])
    torch.manual_seed(settings.seed)
    add_units(model, sessions, settings)
    task = spike_task(model, sessions, settings, only_units=only_units)
    start = time.monotonic()
    if task.steps:
        train(task)
    seconds = time.monotonic() - start
    model.eval()
    with torch.no_grad():
        losses = [value for batch, plan in task.validation for value in masked(model, batch, plan).values()]
    return model, seconds, float(torch.stack(losses).mean())


def from_scratch(settings: RunSettings, name: str) -> dict[str, float]:
    """The upper line: all weights on the held-out session; the better of two lengths on the valid split."""
    runs = []
    for steps in (STEPS // 3, STEPS):
        options = replace(settings, pretrain=replace(settings.pretrain, steps=steps, checkpoint_every=steps))
        torch.manual_seed(settings.seed)
        model, seconds, loss = fitted(make_model(options), options, name, only_units=False)
        runs.append((loss, {**score(model, options, name), "seconds": seconds, "steps": steps}))
    return min(runs, key=lambda run: run[0])[1]


def adapted(base: NeuroBridge, settings: RunSettings, name: str, steps: int, unfreeze_every: int) -> dict[str, float]:
    """Unit embeddings learnt for ``steps`` steps."""
    options = replace(
        settings,
        adapt=replace(settings.adapt, steps=steps, checkpoint_every=max(1, steps), unfreeze_every=unfreeze_every),
    )
    model, seconds, _ = fitted(copy.deepcopy(base), options, name, only_units=True)
    return {**score(model, options, name), "seconds": seconds, "steps": steps}


def computed(base: NeuroBridge, encoder: IDEncoder, settings: RunSettings, name: str) -> dict[str, float]:
    """Unit embeddings computed from calibration windows."""
    model, sessions = copy.deepcopy(base), open_windows(settings, [name])
    add_units(model, sessions, settings)
    start = time.monotonic()
    embed_units(model, encoder, sessions, settings)
    return {**score(model, settings, name), "seconds": time.monotonic() - start, "steps": 0}


def draw(results: dict[str, dict], counts: dict[str, float], path: Path) -> None:
    """Both scores against steps and seconds of adaptation; the category probe beside that on plain counts."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for row, task in zip(axes, ("co-smoothing", "category"), strict=True):
        for axis, unit in zip(row, ("steps", "seconds"), strict=True):
            for (name, role), colour in zip(HELD_OUT.items(), ("#2563a8", "#d1603d"), strict=True):
                curve = [results[f"{name} {steps}"] for steps in CURVE]
                axis.plot(
                    [c[unit] for c in curve], [c[task] for c in curve], "o-", color=colour, label=f"{role}: units"
                )
                axis.axhline(
                    results[f"{name} scratch"][task], color=colour, ls="--", lw=1, label=f"{role}: from scratch"
                )
                identity = results[f"{name} identity"]
                axis.plot([identity[unit]], [identity[task]], "*", ms=13, color=colour, label=f"{role}: IDEncoder")
                if task == "category":
                    axis.axhline(counts[name], color=colour, ls=":", lw=1, label=f"{role}: plain counts")
            axis.set(xlabel=f"{unit} of adaptation", ylabel="co-bps" if task == "co-smoothing" else "category accuracy")
    axes[1, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=RUNS / "transfer")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    out, seed = options.out, options.seed
    settings = settings_for(
        data_folder(out / "data"), out / f"pretraining-{seed}", seed=seed, steps=STEPS, sessions=PRETRAINED,
        held_out=list(HELD_OUT), adapt={"steps": 500},
    )  # fmt: skip
    base, _ = pretrained(settings)
    encoder = train_identity(RunFolder(settings), copy.deepcopy(base), open_windows(settings, PRETRAINED))
    results: dict[str, dict] = {}
    for name in HELD_OUT:
        jobs = {f"{name} {steps}": lambda n=name, s=steps: adapted(base, settings, n, s, 0) for steps in CURVE}
        jobs[f"{name} unfreezing"] = lambda n=name: adapted(base, settings, n, 500, 150)
        jobs[f"{name} identity"] = lambda n=name: computed(base, encoder, settings, n)
        jobs[f"{name} scratch"] = lambda n=name: from_scratch(settings, n)
        for key, job in jobs.items():
            results[key] = cached(out / f"seed{seed}" / f"{key.replace(' ', '-')}.json", job)
    counts = cached(out / "counts.json", lambda: category_of_counts(settings, list(HELD_OUT)))
    draw(results, counts, out / "transfer.png")

    print(f"\n{'session':12s} {'embeddings':26s} {'co-bps':>8s} {'category':>9s} {'seconds':>8s} {'steps':>6s}")
    labels = {"0": "random", "identity": "IDEncoder, no gradient", "scratch": "from scratch, all weights"}
    for key, row in results.items():
        name, way = key.split(" ")
        label = labels.get(way, f"{way} steps" if way.isdigit() else "500 steps, unfreezing")
        print(
            f"{name:12s} {label:26s} {row['co-smoothing']:8.4f} {row['category']:9.3f} {row['seconds']:8.1f} "
            f"{row['steps']:6.0f}"
        )
    for name, accuracy in counts.items():
        print(f"{name:12s} {'plain counts, no encoder':26s} {'':8s} {accuracy:9.3f}")
    ratios = {
        f"{HELD_OUT[name]}, {task}": results[f"{name} 500"][task] / results[f"{name} scratch"][task]
        for name in HELD_OUT
        for task in ("co-smoothing", "category")
    }
    identity = all(
        results[f"{name} identity"]["co-smoothing"] > results[f"{name} 0"]["co-smoothing"] for name in HELD_OUT
    )
    for name, ratio in ratios.items():
        print(f"500 steps / from scratch, {name:28s} {ratio:.3f}")
    print(f"IDEncoder above random embeddings: {'yes' if identity else 'no'}")
    worst = min(ratios.values())
    return last_line(
        "transfer",
        round(worst, 4),
        BAR,
        worst >= BAR and identity,
        ratios={name: round(r, 4) for name, r in ratios.items()},
        identity_above_random=identity,
        category_of_counts={name: round(value, 4) for name, value in counts.items()},
        figure=str(out / "transfer.png"),
        seed=seed,
    )


if __name__ == "__main__":
    sys.exit(main())
