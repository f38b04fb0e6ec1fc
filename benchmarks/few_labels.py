"""How many labelled images does a new session need? k = 0, 25, 50, 100, 200, 500 and all of its train split.

Route, ours: a pretraining that never saw the session -> its units start from what is known of them -> k labelled images
teach unit vectors alone (body and head frozen; both ways, --steps steps) -> which test image was seen, by decoding
through the latents, by the model's likelihood, or by both weighed together: weight and noise (of single counts, or the
covariance of the labelled images' residuals) are chosen on the valid split; with no label at all, on the valid split of
a session that the pretraining knew. Labelled images are drawn from the train split; the test split is the gallery.

new day     monkeyB_3 of the demo's simulation, pretrained on the five other sessions; units start from the same
            electrode and unit of earlier days, checked without labels. 20 presentations of 100 test images averaged.
new animal  the same session, pretrained on monkeyA alone; units start from the prior over units.
v4          sessions 201025, 190928, 210225, 210224 of macaque V4, each left out in turn of configs/experiments/v4.yaml;
            units start from the prior. Repeat-averaged responses, up to 206 test images.

Rivals at every k, same labelled images, same process: ridge to the same target; ridge weights carried over by electrode
from earlier days (no label); the same model from scratch (simulated alone: two draws, 200 steps, the better of two
rates on valid); a linear encoding with an isotropic prior, identification by likelihood (three layers of the image
encoder, 600 components, penalty by five folds). Control that must fail: a new animal with no label, whose
units are all alike, is at chance. Intervals over images, 95 %, means over --draws draws.

Bars: new day, no label: top-1 >= 0.60, above carried ridge and above ridge with all labels. New animal, 100 labels:
>= 0.30, above ridge and above scratch. V4 at 50 / 100 / 200 labels >= 0.26 / 0.42 / 0.53, paired intervals above 0
against the isotropic encoding.

    python benchmarks/few_labels.py [--data runs/encoder/simulated] [--v4 ../shared/data/macaque_v4] [--draws 5]
                                    [--settings "new day" "new animal" v4] [--steps 100]

About two hours on two cores, most of it once: pretraining 25, from scratch 40. All is kept in runs/encoder and
runs/few_labels; draws runs/few_labels/curve.png, its numbers beside it in curve.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from _adaptation import Base, NewSession
from _common import SHARED, last_line
from _encoder import (
    HERE,
    RUNS,
    V4_SESSIONS,
    Hits,
    as_hits,
    demo_settings,
    interval,
    mean_hits,
    pretrain,
    recorded,
    rounded,
    sessions_named,
    shown,
    simulated,
    v4_settings,
)
from _identifying import components
from _labelled import CARRIED, LINEAR, OURS, RIDGE, SCRATCH, Case

from neurobridge.errors import atomic_path
from neurobridge.training.settings import RunSettings

COUNTS = (0, 25, 50, 100, 200, 500, None)  # None: all
STARTS = {"new day": "carried", "new animal": "prior", "v4": "prior"}
V4_BARS = {50: 0.26, 100: 0.42, 200: 0.53}
SCRATCH_DRAWS = 2


def draws_of(method: str, k: int | None, draws: int) -> range:
    """Labels are drawn where there is something to draw."""
    if k == 0 or (k is None and method != SCRATCH) or method == CARRIED:
        return range(1)
    return range(min(draws, SCRATCH_DRAWS) if method == SCRATCH else draws)


def curve_of(
    cases: Callable[[], list[Case]], methods: dict[str, tuple[int | None, ...]], draws: int
) -> dict[str, dict]:
    """Method -> k -> hits at 1 and at 5 of every session, mean over draws."""
    made, found = cases(), {}
    for method, counts in methods.items():
        for k in counts:
            cells = [[case.cell(method, k, draw) for case in made] for draw in draws_of(method, k, draws)]
            hits = {top: mean_hits([[as_hits(cell, top) for cell in row] for row in cells]) for top in (1, 5)}
            ways = [cell["way"] for row in cells for cell in row if "way" in cell]
            found.setdefault(method, {})[k] = {**hits, "ways": ways}
            print(f"  {method}, {'all' if k is None else k} labels: {shown(interval(hits[1]))}", flush=True)
    return found


def simulated_case(setting: str, data: Path, seed: int, steps: int) -> list[Case]:
    names = sessions_named(data)
    last, subject = names[-1], names[-1].split("_")[0]
    learnt = [n for n in names[:-1] if setting == "new day" or not n.startswith(subject)]
    slug = setting.replace(" ", "-")
    same = {} if setting == "new day" else {"sessions": learnt}
    settings = demo_settings(data, HERE / f"{slug}-{seed}", seed=seed, held_out=[last], **same)
    return [case(settings, last, learnt[-1], setting, steps, seed)]


def v4_cases(data: Path, seed: int, steps: int) -> list[Case]:
    made, features = [], None
    for name in V4_SESSIONS:
        settings = v4_settings(data, HERE / f"v4-without-{name}-{seed}", seed=seed, held_out=[name])
        settings.sessions = [n for n in settings.sessions if n != name]
        known = next(n for n in V4_SESSIONS if n != name)
        made.append(case(settings, name, known, "v4", steps, seed, features=features))
        features = made[-1].features
    return made


def case(
    settings: RunSettings,
    name: str,
    known: str,
    setting: str,
    steps: int,
    seed: int,
    *,
    features: np.ndarray | None = None,
) -> Case:
    new = NewSession(Base.of(pretrain(settings)), settings, name)
    folder = RUNS / "few_labels" / f"{setting.replace(' ', '-')}-{name}-{seed}"
    how = STARTS[setting]
    features = components(new) if features is None else features
    return Case(name=name, new=new, how=how, known=known, features=features, folder=folder, steps=steps, seed=seed)


def judged(setting: str, curve: dict[str, dict]) -> dict:
    """Whether the bar of a setting holds, with what it rests on."""

    def hits(method: str, k: int | None) -> Hits:
        return curve[method][k][1]

    if setting == "new day":
        ours = interval(hits(OURS, 0))
        rivals = {"carried ridge": hits(CARRIED, 0), "ridge, all labels": hits(RIDGE, None)}
        minus = {name: interval(hits(OURS, 0), rival) for name, rival in rivals.items()}
        ok = ours.mean >= 0.60 and all(found.mean > 0 for found in minus.values())
        return {"labels": 0, "top1": rounded(ours), "bar": 0.60, "minus": named(minus), "ok": ok}
    if setting == "new animal":
        ours = interval(hits(OURS, 100))
        minus = {method: interval(hits(OURS, 100), hits(method, 100)) for method in (RIDGE, SCRATCH, LINEAR)}
        ok = ours.mean >= 0.30 and minus[RIDGE].mean > 0 and minus[SCRATCH].mean > 0
        return {"labels": 100, "top1": rounded(ours), "bar": 0.30, "minus": named(minus), "ok": ok}
    ours = {k: interval(hits(OURS, k)) for k in V4_BARS}
    minus = {str(k): interval(hits(OURS, k), hits(LINEAR, k)) for k in V4_BARS}
    ok = all(ours[k].mean >= bar and minus[str(k)].low > 0 for k, bar in V4_BARS.items())
    top1 = {str(k): rounded(found) for k, found in ours.items()}
    return {"top1": top1, "bar": {str(k): bar for k, bar in V4_BARS.items()}, "minus": named(minus), "ok": ok}


def named(found: dict) -> dict[str, list[float]]:
    return {name: rounded(x) for name, x in found.items()}


def table(setting: str, curve: dict[str, dict]) -> dict[str, dict]:
    """Print a setting's curve; return its numbers."""
    any_hits = next(iter(curve[OURS].values()))[1]
    chance = float(np.mean([1 / len(images) for images, _ in any_hits]))
    print(f"\n{setting}: top-1 [95 % over images] / top-5, chance {chance:.4f}")
    counts = [k for k in COUNTS if k in curve[OURS]]
    print(f"{'method':26s} " + " ".join(f"{'all' if k is None else k:>28}" for k in counts))
    numbers: dict[str, dict] = {}
    for method, by_count in curve.items():
        cells = []
        for k in counts:
            if k not in by_count:
                cells.append("")
                continue
            one, five = interval(by_count[k][1]), interval(by_count[k][5])
            numbers.setdefault(method, {})["all" if k is None else str(k)] = {
                "top1": rounded(one),
                "top5": rounded(five),
                "ways": by_count[k]["ways"],
            }
            cells.append(f"{shown(one)} / {five.mean:.2f}")
        print(f"{method:26s} " + " ".join(f"{cell:>28s}" for cell in cells))
    return numbers


def draw(numbers: dict[str, dict[str, dict]], path: Path) -> None:
    """Top-1 against the number of labels, one panel a setting; bands are the intervals over images."""
    colours = dict(zip((OURS, RIDGE, CARRIED, SCRATCH, LINEAR), plt.get_cmap("tab10").colors, strict=False))
    figure, axes = plt.subplots(
        1, len(numbers), figsize=(4.4 * len(numbers), 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (setting, curve) in zip(axes[0], numbers.items(), strict=True):
        ticks = list(curve[OURS])
        for method, by_count in curve.items():
            at = [ticks.index(k) for k in by_count]
            mean, low, high = np.array([by_count[k]["top1"] for k in by_count]).T
            if method == CARRIED:  # it takes no label
                axis.axhline(mean[0], color=colours[method], ls="--", label=method)
                continue
            axis.plot(at, mean, "o-", color=colours[method], label=method)
            axis.fill_between(at, low, high, color=colours[method], alpha=0.15, lw=0)
        axis.set(xticks=range(len(ticks)), xticklabels=ticks, xlabel="labelled images", title=setting, ylim=(0, 1))
    axes[0, 0].set_ylabel("top-1")
    axes[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=HERE / "simulated")
    arguments.add_argument("--v4", type=Path, default=SHARED / "macaque_v4")
    arguments.add_argument("--draws", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--settings", nargs="+", choices=list(STARTS), default=list(STARTS))
    options = arguments.parse_args()
    start, results, numbers = time.monotonic(), {}, {}
    labelled = COUNTS[1:]
    for setting in options.settings:
        methods = {OURS: COUNTS, RIDGE: labelled, SCRATCH: labelled, LINEAR: labelled}
        if setting == "new day":
            methods[CARRIED] = COUNTS[:1]
        if setting == "v4":
            methods[OURS] = labelled
            del methods[SCRATCH]
            data = recorded(options.v4)
        else:
            data = simulated(options.data)
        print(f"{setting}:", flush=True)

        def cases(setting=setting, data=data) -> list[Case]:
            if setting == "v4":
                return v4_cases(data, options.seed, options.steps)
            return simulated_case(setting, data, options.seed, options.steps)

        curve = curve_of(cases, methods, options.draws)
        numbers[setting] = table(setting, curve)
        results[setting] = judged(setting, curve)
        print(f"{setting}: {time.monotonic() - start:.0f} s")
    draw(numbers, RUNS / "few_labels" / "curve.png")
    with atomic_path(RUNS / "few_labels" / "curve.json") as path:
        path.write_text(json.dumps(numbers, indent=1))
    return last_line(
        "few_labels",
        {setting: result["top1"] for setting, result in results.items()},
        {setting: result["bar"] for setting, result in results.items()},
        all(result["ok"] for result in results.values()),
        settings=results,
        draws=options.draws,
        steps=options.steps,
        figure=str(RUNS / "few_labels" / "curve.png"),
        seconds=round(time.monotonic() - start),
    )


if __name__ == "__main__":
    sys.exit(main())
