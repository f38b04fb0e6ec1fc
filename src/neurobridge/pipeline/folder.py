"""The run folder: what was asked (config.yaml), which stages are done, and arrays handed from stage to stage."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from jsonargparse import ArgumentParser

from neurobridge.errors import UserError, atomic_path, helping
from neurobridge.pipeline.inputs import INPUTS, compare_inputs, digest_of, read_inputs
from neurobridge.pipeline.kept import checksum, hidden, keep_copy, read_twice, sealed_json, unsealed_json, write_twice
from neurobridge.pipeline.lock import NAME as LOCK
from neurobridge.pipeline.lock import lock
from neurobridge.sealed import checkpoints, step_of
from neurobridge.training.settings import RunSettings

CONFIG, DONE, METRICS = "config.yaml", "done.json", "metrics.csv"
STAGES = ("pretrain", "adapt", "align", "adapter", "reconstruct", "evaluate", "report")
TELLING = ("evaluate", "report")  # stages that tell of whatever others have left
DATA = "data"  # a run's own data folder, where its recordings came from memory or from several folders
GROWS = "pretrain.steps"  # the option that may be raised in a folder

VOLATILE = (
    *("out", "resume", "wandb", "accelerator", "devices", "nodes", "image.batch", "image.device"),
    *("train.strategy", "train.workers", "train.activation_checkpointing", "train.compile"),
)  # options that leave the numbers as they are
STARTED_BY = {
    "adapt": "adapt",
    "align.steps": "align",
    "align.joint_steps": "align",
    "align.joint_blocks": "align",
    "align.joint_learning_rate": "align",
    "align.joint_unit_learning_rate": "align",
    "align.anti_forgetting": "align",
    "align.windows": "align",
    "align.groups": "align",
    "align.checkpoint_every": "align",
    "generator": "adapter",
    "reconstruct.steps": "adapter",
    "reconstruct.guidance": "adapter",
    "picture_sessions": "reconstruct",
    "reconstruct": "reconstruct",
    "evaluate": "evaluate",
}  # option, or group of options -> the first stage that reads it; all others: pretrain
REFUSED = "adapter/refused.json"  # what an adapter reached that was not enough


class RunFolder:
    """Opens settings.out for a run with these settings, or refuses in a sentence; no other process has it meanwhile.

    A folder that holds another run is never touched: UserError names the first option that differs. Options may be
    changed until the first stage that reads them has left something (a checkpoint, or all it makes). An option that its
    config does not name, for an earlier version wrote it, counts as the default. The data may lie in another place, if
    they are the same. pretrain.steps may be changed later on too, to no fewer than were trained: pretraining goes on,
    and ``reopened`` names the finished stages that are then done again.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.settings, self.path = settings, settings.out
        self.reopened: list[str] = []
        if helping():
            return
        config = self.path / CONFIG
        wanted = as_yaml(settings)
        others = [path for path in self.path.glob("*") if path.name not in (LOCK, DATA)]
        holds_run = config.is_file() or hidden(config).is_file()
        if others and not holds_run:
            raise UserError(f"{self.path} is not empty and holds no run: choose another --out")
        lock(self.path)
        for part in self.path.rglob(".*.part"):
            shutil.rmtree(part) if part.is_dir() else part.unlink()  # of a process that was killed while it wrote
        if holds_run:
            if settings.resume == "never":
                raise UserError(f"{self.path} already holds a run: choose another --out, or go on with --resume auto")
            if not begun(self.path):  # a start that came to nothing: the data may be others
                for place in (self / INPUTS, hidden(self / INPUTS)):
                    place.unlink(missing_ok=True)
            found = as_yaml(self.existing(self.path).settings)
            self._refuse_other(found, wanted)
            if found["pretrain"]["steps"] != settings.pretrain.steps:
                self._reopen()
        write_config(settings, self.path)

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """The run that lies at ``path``, with the options it was started with. UserError if there is none."""
        settings = read_twice(path / CONFIG, settings_of)
        if settings is None:
            raise UserError(f"{path} holds no run (no {CONFIG}): give the folder of a run")
        folder = cls.__new__(cls)
        folder.settings, folder.path, folder.reopened = replace(settings, out=path), path, []
        return folder

    def _refuse_other(self, found: dict, wanted: dict) -> None:
        differing = differences(found, wanted)
        differing = [key for key in differing if key not in VOLATILE and key.split(".")[0] not in VOLATILE]
        if "data" in differing and (self / INPUTS).is_file():
            compare_inputs(self.settings, read_inputs(self.path))
            differing.remove("data")
        if GROWS in differing:
            differing.remove(GROWS)
            trained = found["pretrain"]["steps"] if self.done("pretrain") else newest_step(self.path, "pretrain")
            if self.settings.pretrain.steps < trained:
                raise UserError(
                    f"{self.path} has trained {trained} steps and '{GROWS}' is {self.settings.pretrain.steps}: "
                    f"give {trained} or more, or choose another --out"
                )
        for key in differing:
            stage = STARTED_BY.get(key) or STARTED_BY.get(key.split(".")[0], "pretrain")
            if self.done(stage):
                raise UserError(
                    f"{self.path} holds a run with another '{key}': choose another --out, or use the options in its "
                    "config.yaml"
                )
            begins = [path.parent for path in self.path.glob(f"checkpoints/{stage}*/step=*.ckpt")]
            if begins:
                raise UserError(
                    f"{self.path} holds a run that has begun stage {stage} with another '{key}': choose another --out, "
                    f"use the options in its config.yaml, or remove {begins[0]} to begin that stage anew"
                )

    def _reopen(self) -> None:
        """Pretraining goes on: no stage is done any more, and what trained on its body begins anew."""
        for done in sorted(self.path.glob(f"*/{DONE}")):
            self.reopened.append(done.parent.name)
            done.unlink()
        for folder in self.path.glob("checkpoints/*"):
            if folder.name != "pretrain":
                shutil.rmtree(folder)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def done(self, stage: str) -> bool:
        """Whether ``stage`` is finished and what it left is there, unaltered."""
        return (self.path / stage / DONE).is_file() and not self.spoilt(stage)

    def outdated(self, stage: str) -> bool:
        """Whether a finished ``stage`` tells of others, and some of these were not done when it was."""
        facts = self._facts(stage)
        before = {name for name in STAGES[: STAGES.index(stage)] if (self.path / name / DONE).is_file()}
        return stage in TELLING and facts is not None and set(facts.get("after", before)) != before

    def spoilt(self, stage: str) -> str:
        """What is wrong with what a finished stage left, as a half sentence; empty if nothing is."""
        facts = self._facts(stage)
        if facts is None:
            return f"{self.path / stage / DONE} is spoilt" if (self.path / stage / DONE).is_file() else ""
        for name, digest in facts.get("files", {}).items():
            path = self.path / name
            if not path.is_file():
                return f"{path}, which stage {stage} left, is gone"
            if unaltered(path, path.stat().st_size, path.stat().st_mtime_ns) != digest:
                return f"{path} is not what stage {stage} left"
        for before, left in facts.get("after", {}).items():
            if self._left(before) not in (None, left):
                return f"stage {before}, which {stage} goes on from, has left something else since"
        return ""

    def _facts(self, stage: str) -> dict | None:
        """What :meth:`finish` kept; None if that is gone or spoilt."""
        try:
            return unsealed_json((self.path / stage / DONE).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _left(self, stage: str) -> str | None:
        """A digest of all that ``stage`` left."""
        facts = self._facts(stage)
        return None if facts is None else checksum(facts.get("files", {}))

    def wait(self, stage: str) -> None:
        """Wait until the first process has finished ``stage``; leave if it is no more."""
        parent = os.getppid()
        while not self.done(stage):
            if os.getppid() != parent:
                sys.exit(1)
            time.sleep(0.1)

    def finish(self, stage: str, *, outputs: Sequence[str] = (), **facts: object) -> None:
        """Mark ``stage`` as done, with facts worth keeping and digests of the files that it left (written last).

        outputs: those files of the run folder that do not lie in the stage's own.
        """
        own = [path for path in sorted((self.path / stage).rglob("*")) if path.is_file() and path.name != DONE]
        names = [str(path.relative_to(self.path)) for path in own if not path.name.startswith(".")]
        facts["files"] = {name: digest_of(self.path / name) for name in (*names, *outputs)}
        before = STAGES[: STAGES.index(stage)]
        facts["after"] = {name: left for name in before if (left := self._left(name)) is not None}
        keep_copy(self.path / METRICS)
        with atomic_path(self.path / stage / DONE) as temporary:
            temporary.write_text(sealed_json(facts))

    def model(self) -> Path:
        """Folder of the newest model on the spike side: the adapted one, or that of pretraining if there is no other.

        Raises UserError if neither stage is done, or what it left was altered.
        """
        if (self.path / "adapt" / DONE).is_file():
            self.need("adapt")
            return self / "adapt"
        self.need("pretrain")
        return self / "pretrain"

    def facts(self, stage: str) -> dict:
        """What :meth:`finish` kept. Raises UserError if the stage has not run."""
        self.need(stage)
        return unsealed_json((self.path / stage / DONE).read_text())

    def need(self, stage: str) -> None:
        """Raise UserError unless ``stage`` is done, and what it left is unaltered."""
        mend = f"run 'neurobridge {stage}' with the same options"
        if reason := self.spoilt(stage):
            raise UserError(f"{reason}: {mend} to do it again")
        if not self.done(stage):
            raise UserError(f"the {stage} stage has not finished in {self.path}: {mend}")

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        with atomic_path(self.path / name) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.path / name) as arrays:
            return dict(arrays)


def begun(path: Path) -> bool:
    """Whether a stage of the run at ``path`` has left something: a checkpoint, or all that it makes."""
    return any(path.glob(f"*/{DONE}")) or any(path.glob("checkpoints/*/step=*.ckpt"))


def newest_step(path: Path, stage: str) -> int:
    """Steps behind the newest checkpoint of a stage; 0 without one."""
    return max(map(step_of, checkpoints(path / "checkpoints" / stage)), default=0)


@lru_cache(maxsize=1024)
def unaltered(path: Path, size: int, changed: int) -> str:
    """Digest of a file, computed once as long as its size and its time of change stay."""
    return digest_of(path)


def write_config(settings: RunSettings, folder: Path) -> None:
    """Keep ``settings`` as those of the run in ``folder``."""
    write_twice(folder / CONFIG, yaml.safe_dump(as_yaml(settings), sort_keys=False))


def settings_of(text: str) -> RunSettings:
    """The options that a config.yaml names, all others at their defaults. Raises ValueError for no such options."""
    try:
        options = yaml.safe_load(text)
        if not isinstance(options, dict):
            raise ValueError("it holds no options")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(RunSettings, "run")
        return parser.instantiate_classes(parser.parse_object({"run": options})).run
    except (ArgumentError, yaml.YAMLError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def as_yaml(settings: RunSettings) -> dict:
    """Plain values, as a config file holds them."""
    return json.loads(json.dumps(asdict(settings), default=str))


def differences(a: dict, b: dict, prefix: str = "") -> list[str]:
    """Dotted names of the options in which two configs differ."""
    names: list[str] = []
    for key in {**a, **b}:
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            names += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            names.append(prefix + key)
    return names
