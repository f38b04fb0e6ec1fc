"""A result as a figure and a table: what a command prints, and what the report shows. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neurobridge.evaluation import analysis_figures, figures
from neurobridge.evaluation.report import Block, Figure, Table
from neurobridge.pipeline.analyses.areas import ADDED, ALL, ALONE, ANY, MATCHED, REVERSED, SHUFFLED
from neurobridge.pipeline.analyses.drift import EARLY
from neurobridge.pipeline.analyses.label_number import CARRIED
from neurobridge.pipeline.analyses.label_number import EVERY as EVERY_LABEL
from neurobridge.pipeline.analyses.retention import OWN, TRANSFERRED
from neurobridge.pipeline.analyses.rows import INTERVALS, TITLES, curve, questions, said, titled, wide
from neurobridge.pipeline.analyses.unit_number import EVERY, WHOLE


def blocks(result: dict) -> list[Block]:
    """Figures and tables of one result, first figure first."""
    return DRAWINGS[result["analysis"]](result)


def areas(result: dict) -> list[Block]:
    rows, chance = result["rows"], titled(result["chance"])
    names = {MATCHED: "{} (as many units)", ANY: "any area (as many units)", ALONE: "{}", ADDED: "{}", REVERSED: "{}"}
    names |= {ALL: "all areas", SHUFFLED: "shuffled"}
    roles = dict.fromkeys((MATCHED, ANY, ALL), "ours") | {SHUFFLED: "floor"}
    whole = max(r["areas"].count(" + ") for r in rows)
    drawn = [
        r
        for r in rows
        if r["source"] == "linear" and (r["group"] not in (ADDED, REVERSED) or 0 < r["areas"].count(" + ") < whole)
    ]
    panels = {
        TITLES[score]: [
            figures.Bar(
                names[r["group"]].format(r["areas"]), r["mean"], r["low"], r["high"], roles.get(r["group"], "baseline")
            )
            for r in drawn
            if r["score"] == score
        ]
        for score in questions(rows)
    }
    table = [
        [r["source"], r["group"], r["areas"], *cells, r["units"], r["sessions"]]
        for r, cells in wide(rows, ("source", "group", "areas"))
    ]
    scores = [TITLES[score] for score in questions(rows)]
    draws = result["options"]["draws"]
    gaps = [
        [d["source"], f"{d['areas']} - {d['minus']}", "as many units" if d["group"] == MATCHED else "all units", *cells]
        for d, cells in wide(result["differences"], ("source", "group", "areas", "minus"))
    ]
    return [
        Figure("Areas", figures.bars(panels, chance=chance), f"Closed-form decoders. {INTERVALS} Dashed: chance."),
        Table(
            "Contribution of areas",
            ["source", "group", "areas", *scores, "units", "sessions"],
            table,
            note=f"{said(result)} Matched: as many units as the smallest area has, {draws} draws. Shuffled: fitted on "
            "training images in another order. Model: the aligned model, the other units removed from the data.",
            highlight=frozenset(i for i, cells in enumerate(table) if cells[1] == ALL),
        ),
        Table("Paired differences", ["source", "areas", "units", *scores], gaps, note=INTERVALS),
    ]


def time(result: dict) -> list[Block]:
    panels = {
        TITLES[score]: {
            area: curve([r for r in result["rows"] if (r["score"], r["area"]) == (score, area)], "centre_ms")
            for area in dict.fromkeys(r["area"] for r in result["rows"])
        }
        for score in questions(result["rows"])
    }
    peaks = [
        [p["area"], TITLES[p["score"]], p["peak_ms"], f"{p['low']:.0f} to {p['high']:.0f}"] for p in result["peaks"]
    ]
    options = result["options"]
    caption = f"Windows of {options['width_ms']} ms every {options['step_ms']} ms, decoded from the counts inside; "
    return [
        Figure(
            "Areas and time",
            analysis_figures.time_maps(panels, chance=titled(result["chance"])),
            f"{caption}a dot marks the best window of each area. {INTERVALS}",
        ),
        Table(
            "Best window",
            ["area", "score", "centre (ms)", "95 % interval (ms)"],
            peaks,
            note=f"{said(result)} The interval is that of the best window's centre, by bootstrap over images.",
        ),
    ]


def units(result: dict) -> list[Block]:
    rows = result["rows"]
    lines = {(r["source"], r["area"]): "" for r in rows}
    panels = {}
    for score in questions(rows):
        panels[TITLES[score]] = {
            area if source == "linear" else "all areas, model": curve(found, "units")
            for source, area in lines
            if (found := [r for r in rows if (r["score"], r["source"], r["area"]) == (score, source, area)])
        }
    table = [
        [r["source"], r["area"], "all" if r["size"] == WHOLE else r["size"], *cells, r["units"], r["sessions"]]
        for r, cells in wide(rows, ("source", "area", "size"))
    ]
    return [
        Figure(
            "Number of units",
            analysis_figures.curves(panels, xlabel="units", chance=titled(result["chance"]), log=True),
            f"{result['options']['draws']} draws a size; the last point of a curve is all units there are. {INTERVALS}",
        ),
        Table(
            "Score by number of units",
            ["source", "area", "size", *[TITLES[s] for s in questions(rows)], "units", "sessions"],
            table,
            note=said(result),
            highlight=frozenset(i for i, r in enumerate(table) if r[1] == EVERY and r[2] == "all"),
        ),
    ]


def retention(result: dict) -> list[Block]:
    found: list[Block] = []
    rows = result["rows"]
    if rows:
        names = sorted({r[key] for r in rows for key in ("fitted", "tested")})
        panels = {}
        for source, readout in ((s, r) for s in dict.fromkeys(r["source"] for r in rows) for r in (TRANSFERRED, OWN)):
            table = np.full((len(names), len(names)), np.nan)
            for r in rows:
                if (r["source"], r["readout"], r["score"]) == (source, readout, "identification"):
                    table[names.index(r["fitted"]), names.index(r["tested"])] = r["mean"]
            panels[f"{source},\n{'carried over' if readout == TRANSFERRED else 'own, same units'}"] = table
        found.append(
            Figure(
                "Readouts from session to session",
                analysis_figures.matrices(panels, names, names, level=0.5),
                "Two-way identification; units go by their names, those that both sessions name. Own: the tested "
                "session's readout of the same units. Chance 0.5.",
            )
        )
        cells = wide(rows, ("source", "readout", "fitted", "tested"))
        found.append(
            Table(
                "Readouts from session to session",
                ["source", "readout", "of", "tested on", *[TITLES[s] for s in questions(rows)], "shared units"],
                [[r["source"], r["readout"], r["fitted"], r["tested"], *c, r["units"]] for r, c in cells],
                note=said(result),
            )
        )
    if result["forgetting"]:
        panels: dict[str, dict] = {}
        for r in result["forgetting"]:
            panels.setdefault(r["mode"], {})[r["session"]] = (tuple(r["before"]), tuple(r["after"]))
        unit = result["forgetting"][0]["unit"]
        found.append(
            Figure(
                "Masked prediction before and after alignment",
                analysis_figures.before_after(panels, xlabel=unit),
                "Frozen masks, the same windows before and after; 95 % intervals by bootstrap over windows. The mean "
                "rate scores 0.",
            )
        )
        found.append(
            Table(
                "What alignment made the model forget",
                ["session", "mode", "before", "after", "change", "unit", "windows"],
                [
                    [
                        r["session"],
                        r["mode"],
                        tuple(r["before"]),
                        tuple(r["after"]),
                        tuple(r["change"]),
                        r["unit"],
                        r["windows"],
                    ]
                    for r in result["forgetting"]
                ],
                note="Null: each unit's mean over its scored cells.",
            )
        )
    return found


def drift(result: dict) -> list[Block]:
    found: list[Block] = []
    within = result["within"]
    if within:
        panels = {}
        for score in questions(within):
            lines = {}
            for source, fit in dict.fromkeys((r["source"], r["fit"]) for r in within):
                mine = [r for r in within if (r["source"], r["fit"], r["score"]) == (source, fit, score)]
                if mine:
                    lines[f"{fit}, {source}" if source == "model" else f"fitted on {fit}"] = curve(mine, "minutes")
            panels[TITLES[score]] = lines
        found.append(
            Figure(
                "Drift within a session",
                analysis_figures.curves(panels, xlabel="minutes of recording", chance=titled(result["chance"])),
                f"Single presentations by block of time, mean over sessions. {INTERVALS}",
            )
        )
        changes = [
            [r["source"], r["fit"], TITLES[r["score"]], (r["mean"], r["low"], r["high"])]
            for r in result["last minus first"]
        ]
        found.append(
            Table(
                "Last block minus first",
                ["source", "fitted on", "score", "difference"],
                changes,
                note=f"{said(result)} Over the images shown in both blocks.",
                highlight=frozenset(i for i, cells in enumerate(changes) if cells[1] == EARLY),
            )
        )
    rows = result["number"]
    animals = dict.fromkeys((r["subject"], r["source"]) for r in rows)
    panels = {
        TITLES[score]: {
            f"{subject}, {source}": curve(mine, "number")
            for subject, source in animals
            if (mine := [r for r in rows if (r["subject"], r["source"], r["score"]) == (subject, source, score)])
        }
        for score in questions(rows)
    }
    found.append(
        Figure(
            "From session to session",
            analysis_figures.curves(panels, xlabel="number of the session", chance=titled(result["chance"])),
            "Each session by its own readout, all its units. 95 % intervals by bootstrap over images.",
        )
    )
    table = [
        [r["session"], r["role"], r["source"], *cells, r["units"]] for r, cells in wide(rows, ("session", "source"))
    ]
    header = ["session", "role", "source", *[TITLES[s] for s in questions(rows)], "units"]
    found.append(Table("Score by session", header, table, note=said(result)))
    return found


def labels(result: dict) -> list[Block]:
    rows, options = result["rows"], result["options"]
    numbers = list(dict.fromkeys(r["labels"] for r in rows))
    said_of = {number: "all" if number == EVERY_LABEL else str(number) for number in numbers}
    lines = {}
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [{**r, "at": numbers.index(r["labels"])} for r in rows if r["method"] == method]
        if method == CARRIED:  # it takes no label: a level line
            mine = [{**mine[0], "at": at} for at in range(len(numbers))]
        lines[method] = curve(mine, "at")
    note = (
        f"Sessions {', '.join(options['sessions'])}, which pretraining never saw: unit vectors alone learn, "
        f"{options['steps']} steps, {options['draws']} draws of the labelled images. The labels of the valid "
        "split, which are not counted, give the noise of the likelihood and its weight beside decoding; decoding alone "
        f"and the ridges do without them. Seed {options['seed']}, chance {result['chance']['top1']:.3g}."
    )
    table = [
        [method, *[next((spread(r) for r in rows if (r["method"], r["labels"]) == (method, n)), None) for n in numbers]]
        for method in lines
    ]
    return [
        Figure(
            "Labelled images",
            analysis_figures.curves(
                {"test images named right (top-1)": lines},
                xlabel="labelled images",
                chance={"test images named right (top-1)": result["chance"]["top1"]},
                ticks={float(at): said_of[number] for at, number in enumerate(numbers)},
            ),
            INTERVALS,
        ),
        Table("Top-1 by number of labelled images", ["method", *said_of.values()], table, note=note),
    ]


def spread(r: dict) -> tuple[float, float, float]:
    return r["mean"], r["low"], r["high"]


DRAWINGS: dict[str, Callable[[dict], list[Block]]] = {
    "areas": areas, "time": time, "units": units, "retention": retention, "drift": drift,
    "labels": labels,
}  # fmt: skip
