"""The run folder: what was asked (config.yaml), which stages are done, and arrays handed from stage to stage."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentError
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import yaml
from jsonargparse import auto_cli

from neurobridge.errors import UserError, atomic_path, first_process
from neurobridge.training.settings import RunSettings

VOLATILE = ("out", "resume", "wandb", "accelerator", "devices", "image.batch", "image.device")
REFUSED = "adapter/refused.json"  # while it is there, the generator's options may be mended


class RunFolder:
    """Opens settings.out for a run with these settings, or refuses in a sentence.

    A folder that holds another run is never touched: UserError names the first option that differs. An option that its
    config does not name, for an earlier version wrote it, counts as the default.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.settings, self.path = settings, settings.out
        if not first_process():
            return
        config = self.path / "config.yaml"
        wanted = as_yaml(settings)
        if config.is_file():
            if settings.resume == "never":
                raise UserError(f"{self.path} already holds a run: choose another --out, or go on with --resume auto")
            self._refuse_other(as_yaml(self.existing(self.path).settings), wanted)
        elif self.path.exists() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and holds no run: choose another --out")
        with atomic_path(config) as temporary:
            temporary.write_text(yaml.safe_dump(wanted, sort_keys=False))

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """The run that lies at ``path``, with the options it was started with. UserError if there is none."""
        config = path / "config.yaml"
        if not config.is_file():
            raise UserError(f"{path} holds no run (no config.yaml): give the folder of a run")
        try:
            settings = auto_cli(RunSettings, args=["--config", str(config)], exit_on_error=False)
        except (ArgumentError, yaml.YAMLError) as error:
            raise UserError(f"{config} is not the configuration of a run ({error}): mend it or run again") from error
        folder = cls.__new__(cls)
        folder.settings, folder.path = replace(settings, out=path), path
        return folder

    def _refuse_other(self, found: dict, wanted: dict) -> None:
        differing = differences(found, wanted)
        differing = [key for key in differing if key not in VOLATILE and key.split(".")[0] not in VOLATILE]
        if (self / REFUSED).is_file():
            differing = [key for key in differing if not key.startswith("generator.")]
        if not self.done("evaluate"):
            differing = [key for key in differing if key.split(".")[0] != "evaluate"]
        if differing:
            raise UserError(
                f"{self.path} holds a run with another '{differing[0]}': choose another --out, or use the options in "
                "its config.yaml"
            )

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def done(self, stage: str) -> bool:
        return (self.path / stage / "done.json").is_file()

    def wait(self, stage: str) -> None:
        """Wait until the first process has finished ``stage``; leave if it is no more."""
        parent = os.getppid()
        while not self.done(stage):
            if os.getppid() != parent:
                sys.exit(1)
            time.sleep(0.1)

    def finish(self, stage: str, **facts: object) -> None:
        """Mark ``stage`` as done, with facts worth keeping (written last)."""
        with atomic_path(self.path / stage / "done.json") as temporary:
            temporary.write_text(json.dumps(facts))

    def facts(self, stage: str) -> dict:
        """What :meth:`finish` kept. Raises UserError if the stage has not run."""
        self.need(stage)
        return json.loads((self.path / stage / "done.json").read_text())

    def need(self, stage: str) -> None:
        """Raise UserError unless ``stage`` is done."""
        if not self.done(stage):
            raise UserError(
                f"the {stage} stage has not finished in {self.path}: run 'neurobridge {stage}' with the same options"
            )

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        with atomic_path(self.path / name) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.path / name) as arrays:
            return dict(arrays)


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
