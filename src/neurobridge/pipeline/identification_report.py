"""The report's chapter on identification: methods beside chance, both directions, averaged repeats, layers by area."""

from __future__ import annotations

import numpy as np

from neurobridge.evaluation import figures
from neurobridge.evaluation.analysis_figures import Curve, curves
from neurobridge.evaluation.report import Block, Cell, Figure, Table

OURS = "NeuroBridge"


def identification(results: dict[str, list[dict]]) -> list[Block]:
    """Blocks from the rows of stage evaluate; parts that it did not write are left out."""
    return [
        *methods(results["retrieval"]),
        *both_ways(results.get("both_ways", [])),
        *repeats(results.get("repeats", [])),
        *layers(results.get("layers", [])),
    ]


def methods(rows: list[dict]) -> list[Block]:
    table = [
        [r["session"], r["method"], tuple(r["top1"]), tuple(r["top5"]), r["gallery"], r["chance_top1"], r["repeats"]]
        for r in rows
    ]
    first = [r for r in rows if r["session"] == rows[0]["session"]]
    panels, chance = {}, {}
    for k in (1, 5):
        title = f"top-{k} of {first[0]['gallery']}"
        panels[title] = [
            figures.Bar(r["method"], *r[f"top{k}"], role="ours" if OURS in r["method"] else "baseline") for r in first
        ]
        chance[title] = first[0][f"chance_top{k}"]
    blocks: list[Block] = [
        Figure(
            f"Which image was seen? Session {first[0]['session']}",
            figures.bars(panels, chance=chance),
            "95 % intervals by bootstrap over images.",
        ),
        Table(
            "Identification of held-out images",
            ["session", "method", "top-1", "top-5", "gallery", "chance", "presentations"],
            table,
            note="95 % intervals by bootstrap over images. Ridge decodes to the same target; a likelihood is that of "
            "the recorded response under an encoding model: NeuroBridge's of several layers of the image encoder, a "
            "linear one of the target's layer, or linear ones of the same several, stacked; the share of decoding and "
            "likelihood in their combination is chosen on the valid split." + fitted(rows),
            highlight=ours(rows),
        ),
    ]
    means = []
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        means.append(
            [
                method,
                float(np.mean([r["top1"][0] for r in mine])),
                float(np.mean([r["top5"][0] for r in mine])),
                len(mine),
            ]
        )
    if len(first) < len(rows):
        blocks.append(Table("Mean over sessions", ["method", "top-1", "top-5", "sessions"], means))
    return blocks


def both_ways(rows: list[dict]) -> list[Block]:
    if not rows:
        return []

    def cell(value: float | list[float]) -> Cell:
        return (value[0], value[1], value[2]) if isinstance(value, list) else value

    keys = ("top1", "top5", "backward_top1", "backward_top5")
    note = (
        "Forward: is the right image the nearest, by cosine, to what was decoded? Backward: is what was decoded from "
    )
    note += "an image's responses the nearest to that image? Ties lose. "
    if drawn := [r for r in rows if "draws" in r]:
        note += f"Means over {drawn[0]['draws']} random galleries of {drawn[0]['gallery']} out of "
        note += f"{' or '.join(dict.fromkeys(str(r['images']) for r in drawn))} held-out images (MindEye's protocol); "
        note += "the galleries share images, so their spread is no interval. "
    if len(drawn) < len(rows):
        note += "95 % intervals by bootstrap over images, where the gallery is all held-out images."
    return [
        Table(
            "Retrieval in both directions",
            [
                "session",
                "method",
                "forward top-1",
                "forward top-5",
                "backward top-1",
                "backward top-5",
                "gallery",
                "chance top-1",
                "chance top-5",
            ],
            [
                [
                    r["session"],
                    r["method"],
                    *(cell(r[k]) for k in keys),
                    r["gallery"],
                    r["chance_top1"],
                    r["chance_top5"],
                ]
                for r in rows
            ],
            note=note.strip(),
            highlight=ours(rows),
        )
    ]


def repeats(rows: list[dict]) -> list[Block]:
    if not rows:
        return []
    first = [r for r in rows if r["session"] == rows[0]["session"]]
    accuracy: dict[str, Curve] = {}
    for method in dict.fromkeys(r["method"] for r in first):
        mine = [r for r in first if r["method"] == method]
        accuracy[method.removeprefix(f"{OURS}, ")] = Curve(
            [r["repeats"] for r in mine], *zip(*(r["top1"] for r in mine), strict=True)
        )
    one = [r for r in first if r["method"] == first[0]["method"]]
    accuracy["retest"] = flat([r for r in one if r["retest"] is not None], "retest")
    title = f"top-1 of {first[0]['gallery']}"
    figure = curves(
        {title: accuracy, "ceiling of a unit's correlation": {"ceiling": flat(one, "ceiling")}},
        xlabel="presentations averaged",
        chance={title: first[0]["chance_top1"]},
        log=True,
    )
    return [
        Figure(
            f"Averaged presentations, session {first[0]['session']}",
            figure,
            "Left: identification from the mean of so many presentations, 95 % intervals by bootstrap over images. "
            "Retest: the recording against itself, the mean response nearest (by correlation) to that of as many other "
            "presentations, so it ends at half of them. Right: no prediction of a unit's mean response "
            "correlates better with it than this, on average over units.",
        ),
        Table(
            "Identification by averaged presentations",
            [
                "session",
                "method",
                "presentations",
                "top-1",
                "retest top-1",
                "ceiling (correlation)",
                "gallery",
                "chance",
            ],
            [
                [
                    r["session"],
                    r["method"],
                    r["repeats"],
                    tuple(r["top1"]),
                    r["retest"],
                    r["ceiling"],
                    r["gallery"],
                    r["chance_top1"],
                ]
                for r in rows
            ],
            note="Held-out images, mean over 20 random choices of the presentations (one choice of all of them). The "
            "models are the same in every row; the share of decoding and likelihood is that of the table above.",
            highlight=ours(rows),
        ),
    ]


def fitted(rows: list[dict]) -> str:
    """A sentence on sessions whose windowed model saw a part of the training images; nothing where it saw all."""
    told = dict.fromkeys(
        f" In session {r['session']} windowed encoding was fitted to {r['fitted'][0]:,} of {r['fitted'][1]:,} training "
        "images, all others to all."
        for r in rows
        if "fitted" in r
    )
    return "".join(told)


def flat(rows: list[dict], key: str) -> Curve:
    """A curve without an interval."""
    values = [r[key] for r in rows]
    return Curve([r["repeats"] for r in rows], values, values, values)


def layers(rows: list[dict]) -> list[Block]:
    if not rows:
        return []
    names = list(rows[0]["top1"])
    table: list[list[Cell]] = []
    for r in rows:
        most = max(r["top1"].values())
        best = ", ".join(name for name in names if r["top1"][name] == most)
        table.append([r["session"], r["area"], r["units"], *(r["top1"][n] for n in names), best, r["images"]])
    return [
        Table(
            "The layer that suits an area",
            ["session", "area", "units", *names, "best", "gallery"],
            table,
            note="Top-1 of identifying the valid images by the linear encoding likelihood of one layer, from the units "
            "of one area; chance is 1 / gallery, and areas with more units score higher. The best layer is a choice "
            "for what is decoded (image.layer, image.grid); it was made on valid images, so it costs the test nothing.",
        )
    ]


def ours(rows: list[dict]) -> frozenset[int]:
    """The rows to highlight."""
    return frozenset(i for i, r in enumerate(rows) if OURS in r["method"])
