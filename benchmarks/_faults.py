"""What the injected faults share: tiny data, runs through the real command line, and what came of them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import _common  # noqa: F401  (sets up threads and memory before torch is used)
import yaml

from neurobridge.cli import main
from neurobridge.data.simulate import simulate

SIZES = {"images": 40, "test_images": 6, "test_repeats": 4, "valid_images": 8, "sessions": 2, "electrodes": 14}
TINY = {
    "held_out": ["monkeyB_2"],
    "accelerator": "cpu",
    "model": {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8},
    "pretrain": {"steps": 8, "windows": 8, "groups": 2, "checkpoint_every": 4},
    "adapt": {"steps": 4, "windows": 8, "checkpoint_every": 2},
    "image": {"layer": "block2", "resolution": 64},
    "encoding": {"layers": ["block2@4"]},
    "align": {"steps": 4, "joint_steps": 4, "windows": 8, "queries": 2, "hidden": 16, "checkpoint_every": 2},
    "generator": {"adapter_steps": 2, "sketch_steps": 4, "batch": 8},
    "reconstruct": {
        "images": 6,
        "samples": 1,
        "steps": 2,
        "posterior_steps": 2,
        "inversion_steps": 1,
        "feature_layers": ["block2@4"],
    },
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended: exit code, the last line of the error output, all output, whether there was a traceback."""

    code: int
    said: str
    text: str
    traceback: bool

    def refused(self, *words: str) -> bool:
        """One sentence with these words, exit code 2."""
        sentence = all(word in self.said for word in words)
        return self.code == 2 and sentence and not self.traceback

    def told(self, *words: str) -> bool:
        """Exit code 0, and these words were said on the way."""
        return self.code == 0 and all(word in self.text for word in words) and not self.traceback


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What was injected, what came of it, and whether that is right."""

    name: str
    outcome: str
    right: bool
    traceback: bool = False


def fault(name: str, found: Outcome, right: bool, more: str = "") -> Fault:
    """A row of the table from how a command ended."""
    said = "traceback: " + found.said if found.traceback else found.said
    return Fault(name=name, outcome=f"exit {found.code}. {more or said}", right=right, traceback=found.traceback)


def command(*words: object) -> Outcome:
    """A command of the command line in this process."""
    out, code, trace = io.StringIO(), 0, False
    errors = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException as error:
            code, trace = 1, True
            errors.write("\n" + "".join(traceback.format_exception_only(error)).strip().splitlines()[-1])
            if os.environ.get("FAULTS_SHOW"):
                traceback.print_exc(file=sys.__stderr__)
    return outcome(code, out.getvalue(), errors.getvalue(), trace)


def outcome(code: int, out: str, errors: str, trace: bool = False) -> Outcome:
    lines = [line for line in errors.splitlines() if line.strip()] or out.splitlines() or [""]
    told = [line for line in lines if line.startswith(("neurobridge:", "error:"))]
    said = (told or lines)[-1].strip()
    return Outcome(code=code, said=said, text=out + errors, traceback=trace or "Traceback" in errors)


def process(*words: object, before: str = "") -> subprocess.Popen:
    """A command in a process of its own; ``before``: Python that it runs first."""
    start = f"{before}\nimport sys\nfrom neurobridge.cli import main\nsys.exit(main(sys.argv[1:]))"
    program = ["-c", start] if before else ["-m", "neurobridge"]  # a second process is started by what is typed
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    pipe = subprocess.PIPE
    line = [sys.executable, "-u", *program, *[str(word) for word in words]]
    return subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True)


def ended(running: subprocess.Popen, timeout: float = 240) -> Outcome:
    """How a process ended."""
    out, errors = running.communicate(timeout=timeout)
    return outcome(running.returncode, out, errors)


def until(running: subprocess.Popen, holds: Callable[[], object]) -> None:
    """Wait until something holds, or the process has ended."""
    while running.poll() is None and not holds():
        time.sleep(0.005)


class Bench:
    """A scratch folder with data and a finished run; every fault gets copies of its own."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.count = scratch, 0
        self.data = simulate(scratch / "made" / "data", seed=3, **SIZES)
        self._finished: Path | None = None

    def folder(self) -> Path:
        """An empty folder."""
        self.count += 1
        folder = self.scratch / f"{self.count:03d}"
        folder.mkdir()
        return folder

    def copied(self, what: Path, name: str) -> Path:
        return Path(shutil.copytree(what, self.folder() / name))

    def options(self, out: Path, *, data: Path | None = None, **changes) -> list[str]:
        """Options of a tiny run; ``changes`` by keyword, sections merged."""
        config = {"data": str(data or self.data), **TINY}
        for key, value in changes.items():
            config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
        path = out.parent / f"{out.name}-{self.count}.yaml"
        path.write_text(yaml.safe_dump(config))
        return ["--config", str(path), "--out", str(out)]

    @property
    def finished(self) -> Path:
        """A run with all its stages done."""
        if self._finished is None:
            self._finished = self.folder() / "run"
            done = command("run", *self.options(self._finished))
            if done.code:
                raise SystemExit(f"the sound run ended with exit code {done.code}: {done.said}")
        return self._finished

    def stages(self, upto: str) -> Path:
        """A copy of the finished run as it was behind the stage ``upto``; checkpoints stay."""
        out = self.copied(self.finished, "run")
        stages = ("pretrain", "adapt", "align", "adapter", "reconstruct", "evaluate", "report")
        for later in stages[stages.index(upto) + 1 :]:
            shutil.rmtree(out / later)
        return out


def weights(out: Path, stage: str = "pretrain") -> bytes:
    """The model that a stage left."""
    return (out / stage / "model.safetensors").read_bytes()


def sessions(data: Path) -> Iterator[Path]:
    yield from sorted((data / "sessions").glob("*.h5"))
