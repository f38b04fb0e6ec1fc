"""A model is a run folder: what the command line reads and writes. Functions give a new one and leave the old one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from neurobridge.api.recordings import Recordings, add_pictures, data_folder
from neurobridge.api.scratch import new_folder
from neurobridge.data.datamodule import Batcher
from neurobridge.data.sessions import identity_of
from neurobridge.data.store import Session
from neurobridge.data.stored import StoredRecording, html_table
from neurobridge.errors import UserError
from neurobridge.neuro.model import NeuroBridge, parameter_count
from neurobridge.options import Parser
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.folder import DATA, DONE, RunFolder, as_yaml, write_config
from neurobridge.pipeline.image_data import Bridge
from neurobridge.terminal import progress as shown
from neurobridge.training.settings import RunSettings

STAGES = ("pretrain", "adapt", "align")


class Model:
    """A trained model in its run folder ``path``; ``stage``: pretrain, adapt or align, the last that is done.

    recordings: those whose units it knows. net: the network (spikes -> latents -> rates). bridge: its image side (head,
    embedding space, image maps); None for a model that never saw images.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError if there is no run, or none that has finished a stage."""
        self.path = Path(path)
        self.folder = RunFolder.existing(self.path)
        own = self.path / DATA
        if own.is_dir() and not (self.folder.settings.data / "sessions").is_dir():
            self.folder.settings = replace(self.folder.settings, data=own)  # the folder was moved
        for stage in STAGES:
            if reason := self.folder.spoilt(stage):
                raise UserError(f"{reason}: run 'neurobridge {stage}' with the same options, or fetch the model again")
        done = [stage for stage in STAGES if self.folder.done(stage)]
        if not done:
            raise UserError(f"{path} holds a run that has finished no stage: train it first")
        self.stage = done[-1]

    @property
    def settings(self) -> RunSettings:
        """Every option that it was made with."""
        return self.folder.settings

    @cached_property
    def net(self) -> NeuroBridge:
        return NeuroBridge.load(self.path / self.stage).eval()

    @cached_property
    def bridge(self) -> Bridge | None:
        if not Bridge.there(self.path / self.stage):
            return None
        bridge = Bridge.load(self.path / self.stage)
        bridge.head.eval()
        return bridge

    @property
    def sessions(self) -> list[str]:
        """Names of the sessions whose units it knows: pretrained ones, then adapted ones."""
        stages = STAGES[: STAGES.index(self.stage) + 1]
        names = [name for stage in stages for name in self.folder.facts(stage).get("sessions", [])]
        return list(dict.fromkeys(names))

    @property
    def recordings(self) -> Recordings:
        """The recordings of :attr:`sessions` that are still at hand."""
        paths = [self.settings.data / "sessions" / f"{name}.h5" for name in self.sessions]
        return Recordings([StoredRecording(path) for path in paths if path.is_file()])

    def session(self, recording: StoredRecording, **cut: Any) -> Session:
        """``recording``, cut into windows as the model was trained. UserError if it does not know the units."""
        window = self.settings.window
        found = Session.open(recording.path, window_ms=window.window_ms, offset_ms=window.offset_ms, **cut)
        unknown = [key for key in found.recording.unit_keys if key not in self.net.units.rows]
        if unknown:
            raise UserError(
                f"the model does not know {len(unknown)} of {found.units} units of session {found.name} (first: "
                f"'{unknown[0]}'): model = nb.adapt(model, recording) learns them"
            )
        return found

    def batcher(self, session: Session) -> Batcher:
        """Batches of one session."""
        rows = {session.name: self.net.units.rows_of(session.recording.unit_keys)}
        return Batcher([session], rows_of_units=rows, bin_ms=self.settings.window.bin_ms)

    def __getstate__(self) -> dict[str, bytes]:
        """What it was trained to be, without data and checkpoints: a pickled model goes wherever its bytes go."""
        paths = [self.path / "config.yaml", *(path for stage in STAGES for path in (self.path / stage).glob("*"))]
        return {str(path.relative_to(self.path)): path.read_bytes() for path in paths if path.is_file()}

    def __setstate__(self, files: dict[str, bytes]) -> None:
        path = new_folder("model")
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        self.__init__(path)

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}: {value}" for key, value in self._facts().items())
        return f"<neurobridge.Model {facts}>"

    def _repr_html_(self) -> str:
        return html_table([self._facts()])

    def _facts(self) -> dict[str, object]:
        window = self.settings.window
        return {
            "stage": self.stage,
            "sessions": ", ".join(self.sessions),
            "units": len(self.net.units),
            "weights": parameter_count(self.net),
            "window": f"{window.window_ms} ms from {window.offset_ms} ms, bins of {window.bin_ms} ms",
            "images": "none" if self.bridge is None else self.settings.image.encoder,
            "folder": self.path,
        }


def settings_with(settings: RunSettings, options: Mapping[str, Mapping[str, Any]], **more: Any) -> RunSettings:
    """``settings`` with some options of its groups, and of its own, changed. Raises UserError for a wrong kind."""
    wanted = as_yaml(replace(settings, **more))
    for group, values in options.items():
        wanted[group] |= json.loads(json.dumps(dict(values), default=str))
    parser = Parser(prog="neurobridge run")
    parser.add_class_arguments(RunSettings)
    return RunSettings(**parser.instantiate_classes(parser.parse_object(wanted)))


def grown(
    model: Model,
    recordings: Sequence[StoredRecording],
    out: Path,
    *,
    new: bool = False,
    aligned: Sequence[StoredRecording] = (),
    images: Path | None = None,
    options: Mapping[str, Mapping[str, Any]],
    **more: Any,
) -> RunSettings:
    """Options of a new run in ``out`` that begins with what ``model`` knows: its stage pretrain is the model as it is.

    Its data are the model's recordings and ``recordings``, which are to be adapted to if ``new``, and the pictures of
    the image set ``images`` too; ``aligned``: to be aligned alone (empty: all). The folder is made.
    """
    given = {identity_of(r.path) for r in recordings}
    known = [r for r in model.recordings if identity_of(r.path) not in given]
    data = data_folder([*known, *recordings], out / DATA, alone=images is not None)
    if images is not None:
        add_pictures(images, data)
    sessions = names_in(data, model.recordings)
    changes = {"data": data, "out": out, "sessions": sessions, "picture_sessions": []}
    changes["held_out"] = names_in(data, recordings) if new else []
    align = {**options.get("align", {}), "sessions": names_in(data, aligned)}
    settings = settings_with(model.settings, {**options, "align": align}, **changes | more)
    folder = RunFolder(settings)
    if not folder.done("pretrain"):
        part = out / ".pretrain.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(model.path / "pretrain", part, ignore=shutil.ignore_patterns(DONE))
        for path in weights_in(model.path / model.stage):
            shutil.copy2(path, part / path.name)
        shutil.rmtree(out / "pretrain", ignore_errors=True)
        part.rename(out / "pretrain")
        facts = {k: v for k, v in model.folder.facts("pretrain").items() if k != "files"}
        folder.finish("pretrain", **facts | {"sessions": sessions, "units": len(model.net.units)})
    return settings


def weights_in(folder: Path) -> list[Path]:
    """What a stage left of the model: network and image head."""
    return sorted(path for path in folder.glob("*") if path.name.startswith(("model.", "head.")))


def names_in(data: Path, recordings: Sequence[StoredRecording]) -> list[str]:
    """What ``recordings`` are called in the data folder ``data``."""
    of = {identity_of(path): path.stem for path in (data / "sessions").glob("*.h5")}
    return [of[identity_of(r.path)] for r in recordings]


def holds(data: Path, recording: StoredRecording) -> bool:
    """Whether ``recording`` is one of the data folder ``data``."""
    return identity_of(recording.path) in map(identity_of, (data / "sessions").glob("*.h5"))


def do(settings: RunSettings, stages: Sequence[str], *, progress: bool) -> Model:
    """Do ``stages`` in the run folder, as the command line does, and open what is there then."""
    with shown(progress):
        run_stages(settings, list(stages))
    return Model(settings.out)


def save(model: Model, path: Path | str) -> None:
    """Keep ``model`` in the run folder ``path``, with the recordings that lie in no folder that lasts.

    The command line goes on with it: ``neurobridge evaluate --out PATH ...``. Raises UserError if something is there.
    """
    path = Path(path)
    if path.exists() and any(path.iterdir()):
        raise UserError(f"{path} is not empty: choose another folder for the model, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(model.path, part, ignore=shutil.ignore_patterns("lock", ".*.part"))
    settings = replace(model.settings, out=path)
    if (part / DATA).is_dir():
        settings = replace(settings, data=path / DATA)
    write_config(settings, part)
    if path.exists():
        path.rmdir()
    part.rename(path)


def load(path: Path | str) -> Model:
    """The model of the run folder ``path``, written by :func:`save` or by the command line."""
    return Model(Path(path))
