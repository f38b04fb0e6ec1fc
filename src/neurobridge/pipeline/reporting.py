"""Stage report: one HTML file from what the run folder holds. Nothing is computed here."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np

from neurobridge import __version__
from neurobridge.errors import reading
from neurobridge.evaluation import figures
from neurobridge.evaluation.images import FLOORS
from neurobridge.evaluation.judging import DECOY, UNFIT
from neurobridge.evaluation.report import Block, Figure, Table, write_report
from neurobridge.pipeline.analyses.drawing import DRAWINGS
from neurobridge.pipeline.analyses.drawing import blocks as drawn
from neurobridge.pipeline.folder import DONE, RunFolder, as_yaml
from neurobridge.pipeline.identification import BOTH, DECODING
from neurobridge.pipeline.identification_report import OURS, identification
from neurobridge.pipeline.pictures import WINDOWED
from neurobridge.pipeline.probe_report import cards, probes
from neurobridge.pipeline.sharpening import sharpening_view
from neurobridge.pipeline.spike_report import spikes
from neurobridge.pipeline.unit_views import attention_view, units_view
from neurobridge.pipeline.views import maps_view, spikes_view
from neurobridge.training.trainer import read_metrics

RIVALS = ("ridge + generator", "library posterior", "nearest by decoded features")  # and all that begins with WINDOWED
GALLERY = (
    "target",
    "features inverted",
    "sketch",
    "best of samples",
    "mean of samples",
    "posterior mean",
    DECOY,
    "oracle",
    WINDOWED + "features inverted",
    WINDOWED + "posterior mean",
    "library posterior",
    "nearest by decoded features",
    "nearest training image",
    "prior only",
)
CORTEX = {"Rate (Hz)": (2.0, 10.0), "Fano factor": (1.0, 1.6), "Split-half reliability": (0.3, 0.6)}


def report(run: RunFolder) -> None:
    """Write run/report.html, of whatever stages are done: pretrain at least."""
    run.model()
    results, arrays = {}, {}
    if (run / "evaluate" / DONE).is_file():
        run.need("evaluate")
        results = json.loads((run / "evaluate" / "results.json").read_text())
        arrays = run.load_arrays("evaluate/arrays.npz")
    chapters: dict[str, list[Block]] = {
        "What ran": what_ran(run),
        "Learning": learning(run),
        "Spikes": [*spikes(results.get("spikes", [])), *spikes_view(arrays)],
        "Units": units_view(results.get("units", []), arrays),
        "Identification": [
            *(identification(results) if "retrieval" in results else []),
            *attention_view(arrays),
        ],
        "Pictures": [
            *pictures(run, results.get("pictures", [])),
            *sharpening_view(arrays, seed=run.settings.seed),
            *judges(results.get("judges", [])),
            *picture_sets(results.get("picture_sets", [])),
            *captions(results.get("captions", [])),
        ],
        "Representation": [*representation(arrays), *maps_view(arrays, results.get("areas", []))],
        "Behaviour": probes(run),
        "The recordings": recordings(arrays),
        "Analyses": analyses(run),
        "Options": options(run),
    }
    blocks, sections = [], {}
    for title, chapter in chapters.items():
        if chapter:
            sections[len(blocks)] = title
            blocks += chapter
    write_report(
        run / "report.html",
        title="NeuroBridge report",
        subtitle=f"{run.settings.data} · seed {run.settings.seed} · version {__version__}",
        blocks=blocks,
        sections=sections,
        summary=summary(results) | cards(run),
    )
    run.finish("report", outputs=["report.html"])


def analyses(run: RunFolder) -> list[Block]:
    """What 'neurobridge analyse' left in the run folder, if anything."""
    found: list[Block] = []
    for name in DRAWINGS:
        path = run / "analyses" / f"{name}.json"
        if path.is_file():
            with reading(path, "analysis", f"run 'neurobridge analyse {name} {run.path}' again, or remove it"):
                found += drawn(json.loads(path.read_text()))
    return found


def summary(results: dict) -> dict:
    """The few numbers that matter, of the first session, and of the pictures that take most from what was read."""
    cards: dict = {}
    for row in results.get("retrieval", []):
        if row["method"] in (DECODING, BOTH) and row["session"] == results["retrieval"][0]["session"]:
            name = row["method"].removeprefix(f"{OURS}, ")
            cards[f"{name}: top-1 of {row['gallery']} (chance {row['chance_top1']:.2g})"] = tuple(row["top1"])
    ways = {row["name"] for row in results.get("pictures", [])}
    best = next((name for name in ("features inverted", "best of samples") if name in ways), None)
    for row in results.get("pictures", []):
        counts = row["metric"] == "PixCorr" or row["metric"].startswith("two-way")
        if row["name"] == best and counts and not row.get("unfit"):
            cards[f"pictures, {best}: {row['metric']}"] = tuple(row["value"])
    for row in results.get("spikes", []):
        if row["method"] == OURS and row["task"].startswith("co-smoothing"):
            cards.setdefault(f"{row['task'].replace(', leave one out', '')}, {row['unit']}", tuple(row["interval"]))
    return cards


def what_ran(run: RunFolder) -> list[Block]:
    stages = ("pretrain", "adapt", "align", "adapter", "reconstruct")
    facts = {stage: run.facts(stage) for stage in stages if (run / stage / DONE).is_file()}
    rows: list[list[str]] = []
    if pre := facts.get("pretrain"):
        rows += [
            ["pretrained on", ", ".join(pre["sessions"])],
            ["weights of the body", f"{pre['parameters']:,}"],
            ["units, training windows", f"{pre['units']:,}, {pre['windows']:,}"],
        ]
    if adapted := facts.get("adapt"):
        rows.append(["held out, units adapted", ", ".join(adapted["sessions"]) or "none"])
    if aligned := facts.get("align"):
        rows.append(["aligned to", f"{aligned['encoder']}, {aligned['layer']}"])
    if adapter := facts.get("adapter"):
        rows.append(["generator", adapter["generator"]])
    if drawn := facts.get("reconstruct"):
        rows.append(["pictures of", f"{drawn['session']}, {drawn['images']} held-out images"])
        rows.append(["presentations averaged", f"{drawn['repeats']:.3g}"])
    if pre:
        leaks = f"{pre['leaks']} (pretrain/audit.json has near-duplicates and shared concepts)"
        rows.append(["certain leaks between splits", leaks])
    rows.append(["seed", str(run.settings.seed)])
    return [
        Table(
            "The run",
            ["", ""],
            rows,
            note="Splits are by image content; held-out images and their presentations enter no training.",
        ),
    ]


def options(run: RunFolder) -> list[Block]:
    """Every option as it was used."""
    rows = [[key, str(value)] for key, value in flat(as_yaml(run.settings)).items()]
    return [Table("Options", ["option", "value"], rows, note="The same as config.yaml in the run folder.")]


def flat(tree: dict, prefix: str = "") -> dict[str, object]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def learning(run: RunFolder) -> list[Block]:
    curves: dict[str, dict[str, tuple[list, list]]] = defaultdict(lambda: defaultdict(lambda: ([], [])))
    for row in read_metrics(run / "metrics.csv"):
        name = row["name"].removeprefix("train/").replace("valid/", "valid ")
        if name in ("loss", "valid loss"):
            continue
        steps, values = curves[row["stage"]][name]
        steps.append(int(row["step"]))
        values.append(float(row["value"]))
    chapters = []
    for stages, title in (
        (("pretrain", "adapt"), "Masked prediction"),
        (("align", "align-joint"), "Alignment"),
        (("adapter",), "Adapter"),
    ):
        panels = {stage: dict(curves[stage]) for stage in stages if stage in curves}
        if panels:
            caption = "Loss a masking mode, each a mean over its hidden cells; dashed: valid split with frozen masks."
            chapters.append(Figure(title, figures.loss_curves(panels), caption if "Masked" in title else ""))
    return chapters


def pictures(run: RunFolder, rows: list[dict]) -> list[Block]:
    if not rows:
        return []
    shown = run.load_arrays("reconstruct/pictures.npz")
    some = evenly(len(shown["target"]))
    metrics = list(dict.fromkeys(r["metric"] for r in rows))
    names = list(dict.fromkeys(r["name"] for r in rows))
    value = {(r["name"], r["metric"]): tuple(r["value"]) for r in rows}
    unfit = {r["metric"] for r in rows if r.get("unfit")}
    title = {metric: f"{metric} (unfit judge)" if metric in unfit else metric for metric in metrics}
    roles = {"oracle": "oracle", DECOY: "floor"} | dict.fromkeys(RIVALS, "baseline") | dict.fromkeys(FLOORS, "floor")
    roles |= {name: "baseline" for name in names if name.startswith(WINDOWED)}
    order = [n for n in names if n not in roles] + [n for n in names if n in roles]
    panels = {
        title[metric]: [figures.Bar(n, *value[n, metric], role=roles.get(n, "ours")) for n in order]
        for metric in metrics
    }
    return [
        Figure(
            "Gallery",
            figures.gallery({name: shown[name][some] for name in GALLERY if name in shown}),
            "Held-out images, evenly spaced and not chosen. Features inverted: features of several layers are decoded "
            "from the spikes; the details of the training image that has them best, laid over the posterior mean, and "
            "then changed until the picture has them. Best of samples: the candidate that explains the recorded "
            "spikes best. Posterior mean: the mean of what the spikes allow, with the training images as prior. "
            "Windowed encoding: the same from counts, by the closed-form encoding. Decoy: features inverted, but laid "
            "out as another test image; a judge that calls it right is deceived. Oracle: the true embedding through "
            "the same generator. Library posterior: the mean of the ten training images that explain the spikes best, "
            "without any generator.",
            photographic=True,
        ),
        Figure(
            "Scores beside floors and ceiling",
            figures.bars(panels, chance={t: 0.5 for t in title.values() if "two-way" in t}),
        ),
        Table(
            "Scores of pictures",
            ["pictures", *title.values()],
            [[n, *[value[n, m] for m in metrics]] for n in order],
            note=f"{rows[0]['items']} held-out images, 95 % intervals by bootstrap over images. Two-way: "
            "chance 0.5, ties lose, so grey scores 0. The evaluator network is not the one whose features are decoded. "
            "Ridge + generator: the embedding by ridge, with the spread of true ones, drawn as the decoder's.",
            highlight=frozenset(i for i, n in enumerate(order) if n not in roles),
        ),
    ]


def judges(rows: list[dict]) -> list[Block]:
    """How often each judge calls decoys right; nothing if the run drew none."""
    if not rows:
        return []
    note = (
        "Decoys: the same method, the layout of another photograph, the features of the target. A judge that calls "
        f"more than {UNFIT} of them right (two-way, chance 0.5) is unfit: no headline rests on it."
    )
    table = [[r["judge"], tuple(r["decoys"]), "unfit" if r["unfit"] else "fit"] for r in rows]
    return [Table("Judges", ["judge", "decoys called right", ""], table, note=note)]


def picture_sets(rows: list[dict]) -> list[Block]:
    if not rows:
        return []
    return [
        Table(
            "Pictures as sets",
            ["pictures", "score", "", "images"],
            [[r["name"], r["metric"], tuple(r["value"]), r["items"]] for r in rows],
            note="KID: how far the set is from the held-out images in the evaluator's features, with its spread over "
            "random subsets; 0 for another draw of real images. Diversity: mean correlation distance between the "
            "samples of one image, 0 where all are alike.",
        )
    ]


def captions(rows: list[dict]) -> list[Block]:
    """What the captioner says of the images in the gallery."""
    said = {row["name"]: row["captions"] for row in rows if row["name"] in GALLERY}
    if not said:
        return []
    table = [list(row) for row in zip(*said.values(), strict=True)]
    return [Table("Captions", list(said), [table[i] for i in evenly(len(table))], note="The images of the gallery.")]


def evenly(images: int) -> np.ndarray:
    """Rows of up to twelve images, evenly spaced."""
    return np.linspace(0, images - 1, min(12, images)).astype(int)


def representation(arrays: dict) -> list[Block]:
    """The aligned space: test images by category."""
    blocks: list[Block] = []
    if "image_category" in arrays:
        labels = {"category of the image": arrays["image_category"]}
        caption = "Readouts of valid and test images, repeats averaged; categories were never a target."
        blocks.append(
            Figure("Images in the aligned space", figures.representation_scatter(arrays["image_xy"], labels), caption)
        )
    return blocks


def recordings(arrays: dict) -> list[Block]:
    if "rates" not in arrays:
        return []
    noise = figures.noise_statistics(arrays["rates"], arrays["fano"], arrays["reliability"], cortex=CORTEX)
    psth = figures.raster_and_psth(arrays["raster"], arrays["areas"], bin_s=0.01)
    return [
        Figure(
            "Noise",
            noise,
            "Units of the session whose pictures are drawn; shaded: where medians of cortical units lie.",
        ),
        Figure("Raster and PSTH", psth, "One presentation, and the mean over test presentations."),
    ]
