"""Full-size data on a small machine: time and peak memory of every step, from import to pictures.

Stand-ins of the size of three public sets, in their sources' formats, are made once under runs/full_size: TVSD (22,248
images x 1,024 channels, 100 test images 30 times), IBL (459 sessions of a few thousand spikes) and Allen (one session
of 2,000 units and 10^8 spikes). Each step is one command of the command line in a process of its own: import, list,
validate, audit, 50 steps of pretraining, 50 of alignment, pictures of 10 test images, and evaluate (identification;
for IBL, which shows no pictures, the spikes' scores). Pictures are 64 pixels wide and go through the shipped image
encoder at 64 pixels, three of its layers on 4 x 4: the real encoder, at a size that two cores can pay for.

Bars: every step below 8 GB (the process's own peak), none above its stated time, in seconds of one thread's processor
time, which is how long it takes where nothing else runs; the seconds that passed stand beside it. --scale 0.02 tries
all of it in minutes; data of each scale are kept apart.

    python benchmarks/full_size.py [--parts tvsd ibl allen] [--steps import list ...] [--scale 0.02]    # an hour
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

BAR_GB, STEPS, MADE = 8.0, 50, "made"
ROOT = Path(__file__).resolve().parents[1]
STATED = {
    "tvsd": {"make": 300, "import": 300, "list": 20, "validate": 60, "audit": 120, "pretrain": 900, "adapt": 60,
             "align": 600, "adapter": 900, "reconstruct": 1200, "evaluate": 1800},
    "ibl": {"make": 120, "import": 600, "list": 60, "validate": 120, "audit": 60, "pretrain": 300, "adapt": 120,
            "evaluate": 900},
    "allen": {"make": 600, "import": 600, "list": 20, "validate": 300, "audit": 30, "pretrain": 600, "adapt": 60,
              "align": 600, "adapter": 300, "reconstruct": 600, "evaluate": 900},
}  # fmt: skip
WINDOWS = {
    "tvsd": {"window_ms": 200, "offset_ms": 0, "bin_ms": 200},
    "ibl": {"window_ms": 1000, "offset_ms": 0, "bin_ms": 20},
    "allen": {"window_ms": 300, "offset_ms": 0, "bin_ms": 10},
}
LAYERS = ["block2@4", "block4@4", "block7@4"]


def options_of(part: str, data: Path) -> dict:
    """The run's options; what is not named is as it always is."""
    return {
        "data": str(data),
        "accelerator": "cpu",
        "window": WINDOWS[part],
        "pretrain": {"steps": STEPS, "windows": 64, "checkpoint_every": STEPS},
        "image": {"resolution": 64},
        "encoding": {"layers": LAYERS},
        "align": {"steps": STEPS // 2, "joint_steps": STEPS // 2, "windows": 64},
        "generator": {"adapter_steps": 20, "sketch_steps": 50},
        "reconstruct": {"images": 10, "samples": 1, "steps": 5, "inversion_steps": 5, "feature_layers": LAYERS},
    }


def commands(part: str, folder: Path, scale: float) -> dict[str, list[str]]:
    """Step -> what Python is given."""
    raw, data, config, out = (str(folder / name) for name in ("raw", "data", "run.yaml", "run"))
    pictures = {"tvsd": ["--image_root", f"{raw}/pictures", "--side", "64"], "allen": ["--images", f"{raw}/pictures"]}
    typed = {"import": ["data", "import", part, raw, "--out", data, *pictures.get(part, [])]}
    typed |= {name: ["data", name, data] for name in ("list", "validate", "audit")}
    stages = [step for step in STATED[part] if step not in ("make", *typed)]
    typed |= {stage: [stage, "--config", config, "--out", out] for stage in stages}
    found = {step: ["-m", "neurobridge", *words] for step, words in typed.items()}
    return {"make": [str(Path(__file__).with_name("_full_size_sets.py")), part, raw, str(scale)], **found}


def clear(step: str, folder: Path) -> None:
    """Take away what the step made before."""
    run = folder / "run"
    made = {"make": [folder / "raw"], "import": [folder / "data"], "pretrain": [run]}
    for path in made.get(step, [run / step, *run.glob(f"checkpoints/{step}*")]):
        shutil.rmtree(path, ignore_errors=True)


def measured(line: list[str], log: Path) -> tuple[int, dict[str, float]]:
    """Exit code of a process, its seconds of the processor and passed ones, GB at the peak; what it says -> ``log``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    start = time.monotonic()
    with log.open("wb") as said:
        process = subprocess.Popen([sys.executable, *line], env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = {"s": round(used.ru_utime + used.ru_stime), "passed_s": round(time.monotonic() - start)}
    return process.returncode, seconds | {"gb": round(used.ru_maxrss * 1024 / 1e9, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=STATED, default=list(STATED))
    parser.add_argument("--steps", nargs="+", default=[], help="steps to do, of those of each part; all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the stand-ins")
    options = parser.parse_args()
    rows = []
    for part in options.parts:
        folder = ROOT / "runs" / "full_size" / f"{part}-{options.scale:g}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.yaml").write_text(yaml.safe_dump(options_of(part, folder / "data")))
        for step, line in commands(part, folder, options.scale).items():
            if options.steps and step not in options.steps:
                continue
            if step == "make" and not options.steps and (folder / MADE).is_file():
                continue
            clear(step, folder)
            code, used = measured(line, folder / f"{step}.txt")
            if step == "make" and code == 0:
                (folder / MADE).touch()
            stated = STATED[part][step]
            holds = code == 0 and used["s"] <= stated and used["gb"] < BAR_GB
            rows.append({"set": part, "step": step, "stated_s": stated, **used, "ok": holds})
            told = f"{used['s']} s of {stated} | {used['passed_s']} s passed | {used['gb']} GB"
            print(f"{part} | {step} | {told} | {'yes' if holds else 'NO'}", flush=True)
            if code:
                print((folder / f"{step}.txt").read_text()[-1500:], file=sys.stderr)
                break
    worst = max((row["gb"] for row in rows), default=0.0)
    ok = bool(rows) and all(row["ok"] for row in rows)
    bar = {"gb": BAR_GB, "s": "as stated"}
    from _common import last_line  # only now, for it loads torch, and a process is charged with its starter's memory

    return last_line("full_size", worst, bar, ok, scale=options.scale, steps=rows)


if __name__ == "__main__":
    sys.exit(main())
