"""What a user's bad or unusual input ends in: the right value, or one clear sentence; never silence or a traceback.

Eight kinds of situations, taken from public bug reports of the field's tools: observed time (and clocks), identity,
pictures, readers (doors to them, files of public data sets), parallel writers, metrics, messages that fit their cause,
what is told of what was done.
Each makes small real files and goes through the real command line or the functions themselves. Bar: none is silent,
none ends in a traceback, no sentence misses its cause, and there are at least sixty. Two minutes on one core.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import _bad_field as field
import _bad_field_files as files
from _bad_files import outcome
from _bad_readers import DOORS, MESSAGES, METRICS, READERS
from _bad_recordings import IDENTITY, OBSERVED, PICTURES, SAID, WRITERS
from _bad_sources import SOURCES
from _common import last_line
from rich.console import Console
from rich.progress import track
from rich.table import Table

KINDS = {
    "observed time": OBSERVED,
    "clocks": field.CLOCKS,
    "identity": IDENTITY | field.IDENTITY,
    "pictures": PICTURES | files.PICTURES,
    "readers": READERS | files.READERS,
    "doors": DOORS,
    "public data sets": SOURCES,
    "writers": WRITERS | files.WRITERS,
    "metrics": METRICS,
    "messages": MESSAGES,
    "what is said": SAID,
}
FEWEST = 60
GOOD = ("right value", "one sentence")


def main() -> int:
    begun = time.monotonic()
    found: list[tuple[str, str, str, str]] = []
    situations = [(kind, name, call) for kind, calls in KINDS.items() for name, call in calls.items()]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, name, call) in enumerate(track(situations, "situations", transient=True)):
            found.append((kind, name, *outcome(call, Path(folder) / f"{number:03d}")))
    table = Table("kind", "situation", "outcome", "seen")
    for kind, name, told, seen in found:
        table.add_row(kind, name, told, seen, style=None if told in GOOD else "red")
    Console(highlight=False, markup=False, width=160).print(table)
    counts = Counter(told for *_, told, _ in found)
    totals = Table("kind", *GOOD, "other")
    for kind in KINDS:
        mine = Counter(told for of, _, told, _ in found if of == kind)
        totals.add_row(kind, *(str(mine[told]) for told in GOOD), str(sum(mine.values()) - sum(mine[t] for t in GOOD)))
    Console(highlight=False).print(totals)
    value = {
        "situations": len(found),
        "silent": counts["SILENT"],
        "tracebacks": counts["TRACEBACK"],
        "wrong_sentences": counts["WRONG SENTENCE"],
    }
    bar = {"situations": FEWEST, "silent": 0, "tracebacks": 0, "wrong_sentences": 0}
    ok = len(found) >= FEWEST and not value["silent"] and not value["tracebacks"] and not value["wrong_sentences"]
    return last_line("bad_input", value, bar, ok, seconds=round(time.monotonic() - begun))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
