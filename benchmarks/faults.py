"""Faults injected for real, through the command line: what came of each, and whether it is right.

Training (NaN, kills, full disks, damaged checkpoints), spoilt files of a run folder, data that change or are odd, bad
values of options, hostile servers, models and names. Right is: one sentence that names the thing, exit code 2 (or
another documented one), or the work done anew to the same bytes; nothing lost; no traceback. Simulated data, tiny
sizes, under ten minutes on one thread; the two kinds that need a small file system of their own are left out, and said
to be, where this user may not mount one.

    python benchmarks/faults.py [--only training files data options foreign]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import _faults_data
import _faults_files
import _faults_foreign
import _faults_options
import _faults_training
from _common import last_line
from _faults import Bench

KINDS = {
    "training": _faults_training.faults,
    "files": _faults_files.faults,
    "data": _faults_data.faults,
    "options": _faults_options.faults,
    "foreign": _faults_foreign.faults,
}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    options = arguments.parse_args()
    start, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        for kind in options.only:
            for row in KINDS[kind](bench):
                found.append(row)
                said = row.outcome.replace(scratch, "")
                print(f"{kind} | {row.name} | {said[:200]} | {'yes' if row.right else 'NO'}", flush=True)
    wrong = [row.name for row in found if not row.right]
    tracebacks = sum(row.traceback for row in found)
    return last_line(
        "faults",
        len(found) - len(wrong),
        f"all of {len(found)}, 0 tracebacks",
        not wrong and not tracebacks,
        faults=len(found),
        tracebacks=tracebacks,
        wrong=wrong,
        minutes=round((time.monotonic() - start) / 60, 1),
        cpu_minutes=round(sum(os.times()[:4]) / 60, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
