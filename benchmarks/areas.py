"""Do the analyses of areas and of time recover what the simulated brain was built with? Linear decoders, no training.

The simulated ventral stream codes oriented energy and local colour with small receptive fields in V1, curvature,
texture and hue with large ones in V4, category and identity in IT. Two animals with three sessions each; ridge decoders
of single-presentation training counts, scored on 200 test images, up to 6 presentations averaged; an image's score is
its mean over sessions and draws, intervals (95 %) by bootstrap over images. Areas are compared with as many units as
the smallest of a session has (8 draws); "all together" means all units. Seven claims:

1. IT is best for category, above V1 and above V4: the paired differences are above 0 with their whole intervals.
2. V1 is best for pixel-level detail, in the same sense. Detail is the picture at 16 x 16 without its own mean colour: a
   texture or a hue betrays the mean colour without any map of the picture.
3. 4. All areas together (a decoder each beside that of all units, stacked out of fold) are above each area alone, for
   category and for detail, in the same sense.
5. 6. 7. The map of area and time, windows of 20 ms every 10 ms, decoded from the counts inside alone, peaks with its
   window's centre inside the latencies of that area: V1 30-80, V4 60-120, IT 80-200 ms. The map is that of
   identification (two-way, by the image embedding), one score for all areas; the tables show the other two.

    python benchmarks/areas.py [--data DIR] [--seed 0]    # simulates where there is no --data; some two minutes
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from _common import last_line

from neurobridge.data.simulate import simulate
from neurobridge.pipeline.analyses.areas import ALL, MATCHED, SHUFFLED, contributions
from neurobridge.pipeline.analyses.material import Material
from neurobridge.pipeline.analyses.time_course import time_map
from neurobridge.pipeline.folder import RunFolder
from neurobridge.training.settings import RunSettings

LATENCIES = {"V1": (30, 80), "V4": (60, 120), "IT": (80, 200)}
MAP_SCORE = "identification"
SIZES = {"images": 2000, "test_images": 200, "test_repeats": 6, "valid_images": 200, "valid_repeats": 2}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=None, help="a simulated data folder; simulated if absent")
    arguments.add_argument("--split", choices=("valid", "test"), default="test")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or simulate(Path(scratch) / "data", seed=options.seed, **SIZES)
        run = RunFolder(RunSettings(data=data, out=Path(scratch) / "run", seed=options.seed))
        material = Material.of(run, label="category", split=options.split, repeats=6, seed=options.seed)
        areas = contributions(material, draws=8)
        course = time_map(material, width_ms=20, step_ms=10)
    show_areas(areas)
    show_map(course)
    claims = area_claims(areas["differences"]) | peak_claims(course["peaks"])
    print()
    for claim, (holds, evidence) in claims.items():
        print(f"{'holds' if holds else 'FAILS':6s} {claim}: {evidence}")
    held = sum(holds for holds, _ in claims.values())
    minutes = (time.monotonic() - start) / 60
    return last_line("areas", held, len(claims), held == len(claims), minutes=round(minutes, 1))


def area_claims(differences: list[dict]) -> dict[str, tuple[bool, str]]:
    """Claims 1 to 4 with the differences they rest on."""

    def above(group: str, area: str, score: str) -> tuple[bool, str]:
        found = [d for d in differences if (d["group"], d["areas"], d["score"]) == (group, area, score)]
        said = [f"{area} - {d['minus']} {d['mean']:.3f} [{d['low']:.3f}, {d['high']:.3f}]" for d in found]
        return len(found) >= 2 and all(d["low"] > 0 for d in found), ", ".join(said)

    return {
        "IT best for category": above(MATCHED, "IT", "category"),
        "V1 best for detail": above(MATCHED, "V1", "detail"),
        "all together best for category": above(ALL, "all", "category"),
        "all together best for detail": above(ALL, "all", "detail"),
    }


def peak_claims(peaks: list[dict]) -> dict[str, tuple[bool, str]]:
    """Claims 5 to 7 with the peak and the interval of its place."""
    claims = {}
    for area, (first, last) in LATENCIES.items():
        peak = next(p for p in peaks if (p["area"], p["score"]) == (area, MAP_SCORE))
        said = f"{peak['peak_ms']:.0f} ms, interval {peak['low']:.0f} to {peak['high']:.0f}"
        claims[f"{area} peaks within {first}-{last} ms"] = first <= peak["peak_ms"] <= last, said
    return claims


def show_areas(result: dict) -> None:
    scores = list(dict.fromkeys(r["score"] for r in result["rows"]))
    cell = {(r["group"], r["areas"], r["score"]): r for r in result["rows"]}
    print(f"\n{'group':20s} {'areas':14s} {'units':>6s}" + "".join(f"{score:>24s}" for score in scores))
    for group, label in dict.fromkeys(key[:2] for key in cell):
        found = [cell[group, label, score] for score in scores]
        values = "".join(f"{r['mean']:10.3f} [{r['low']:.3f}, {r['high']:.3f}]".rjust(24) for r in found)
        floor = "  (floor)" if group == SHUFFLED else ""
        print(f"{group:20s} {label:14s} {found[0]['units']:6.1f}{values}{floor}")
    chance = "".join(f"{result['chance'][score]:24.3f}" for score in scores)
    print(f"{'chance':42s}{chance}")


def show_map(result: dict) -> None:
    scores = list(dict.fromkeys(r["score"] for r in result["rows"]))
    for score in scores:
        rows = [r for r in result["rows"] if r["score"] == score]
        centres = sorted({r["centre_ms"] for r in rows})
        print(f"\n{score} by centre of a 20 ms window (ms)\n{'':10s}" + "".join(f"{c:6.0f}" for c in centres))
        for area in dict.fromkeys(r["area"] for r in rows):
            value = {r["centre_ms"]: r["mean"] for r in rows if r["area"] == area}
            peak = next(p for p in result["peaks"] if (p["area"], p["score"]) == (area, score))
            line = "".join(f"{value[c]:6.3f}"[1:].rjust(6) for c in centres)
            print(f"{area:10s}{line}  peak {peak['peak_ms']:.0f} [{peak['low']:.0f}, {peak['high']:.0f}]")


if __name__ == "__main__":
    sys.exit(main())
