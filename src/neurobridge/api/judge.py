"""How good it is: identification, pictures, and one table of scores, each beside chance, floors and rivals."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurobridge.api.keywords import takes
from neurobridge.api.model import Model, holds, names_in, settings_with
from neurobridge.api.train import folder_of
from neurobridge.api.use import one
from neurobridge.data.images import ImageSet
from neurobridge.errors import UserError, needs
from neurobridge.evaluation.images import FLOORS
from neurobridge.evaluation.judging import DECOY
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.encodings import closed_forms
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.generators import load_images
from neurobridge.pipeline.identification import gather_evidence, rows_of
from neurobridge.pipeline.image_data import stack_features
from neurobridge.pipeline.picture_scores import SAMPLES, score_images
from neurobridge.pipeline.pictures import WINDOWED, decode_sessions
from neurobridge.pipeline.reporting import RIVALS
from neurobridge.pipeline.spike_scores import OURS, spike_tasks
from neurobridge.terminal import progress as shown

if TYPE_CHECKING:
    from pandas import DataFrame

CEILINGS = ("oracle",)
SHOWN = ("target", "features inverted", "best of samples", "oracle", "ridge + generator", "nearest training image")
ROWS_SHOWN = 12


@dataclass(kw_only=True)
class Pictures:
    """Pictures of the test images of a session, as an array [I, H, W, 3] in [0, 1] a way of drawing them.

    ``target`` is what was seen; floors, rivals, the oracle and the decoy stand beside ours. images [I]: content ids;
    model: the run folder that drew them.
    """

    arrays: Mapping[str, np.ndarray]
    images: np.ndarray
    session: str
    model: Model

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise UserError(f"there are no pictures '{name}'; there are: {', '.join(self.arrays)}")
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.images)

    def _repr_html_(self) -> str:
        from PIL import Image

        def cell(picture: np.ndarray) -> str:
            file = io.BytesIO()
            Image.fromarray((picture * 255).astype(np.uint8)).save(file, "PNG")
            return f'<img width="64" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'

        lines = []
        for name in (name for name in SHOWN if name in self.arrays):
            cells = "".join(f"<td>{cell(picture)}</td>" for picture in self.arrays[name][:ROWS_SHOWN])
            lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
        return f"<table>{''.join(lines)}</table>"


def identify(model: Model, recording: object, *, images: int = 100, progress: bool = True) -> DataFrame:
    """Which of its test images did the animal see? By decoding, by the likelihood of the response, and by both.

    Args:
        model: An aligned model.
        recording: A recording that shows images, whose units the model knows.
        images: Test images at most, which are the gallery.
        progress: Show what is done; False: silence.

    Returns:
        One row a method: top1 and top5 with intervals over images, chance, gallery, and role (ours or rival).

    Raises:
        UserError: The model is not aligned, or the session shows no images.
    """
    run = asked(model, recording, {"reconstruct": {"images": images}})
    with shown(progress):
        return table(identified(run))


def identified(run: RunFolder) -> list[dict]:
    """Rows of :func:`identify` for the sessions whose pictures the run asks for."""
    features = stack_features(run.settings, load_images(run).images)
    decoded = decode_sessions(run)
    closed = closed_forms(decoded, features)
    found = []
    for evidence in gather_evidence(run, decoded):
        for row in rows_of(evidence, features, closed[evidence.decoded.session], seed=run.settings.seed):
            role = "ours" if row["method"].startswith("NeuroBridge") and " with " not in row["method"] else "rival"
            common = {"session": row["session"], "method": row["method"], "role": role, "n": row["gallery"]}
            for k in (1, 5):
                value, low, high = row[f"top{k}"]
                score = {"task": f"identification, top-{k}", "unit": "share", "value": value, "low": low, "high": high}
                found.append(common | score | {"chance": row[f"chance_top{k}"]})
    return found


@takes(generator=("model",), reconstruct=())
def reconstruct(
    model: Model,
    recording: object,
    *,
    diffusion: str | None = None,
    out: Path | str | None = None,
    progress: bool = True,
    **options: Any,
) -> Pictures:
    """Draw what the animal saw: pictures of a recording's test images, beside floors, rivals, oracle and decoy.

    Args:
        model: An aligned model; it stays as it is.
        recording: A recording that shows images, whose units the model knows.
        diffusion: Stable Diffusion, where ``kind`` asks for it: a local folder or an id on the hub.
        out: Run folder; drawing that was interrupted there goes on. Empty: gone with this process.
        progress: Show what is done; False: silence.

    Raises:
        UserError: The model is not aligned, the session shows no images, or options cannot be used.
    """
    wanted = asked(model, recording, {}).settings
    where = folder_of(out)
    changes = {"out": where, "data": wanted.data, "picture_sessions": wanted.picture_sessions}
    given: dict[str, dict[str, Any]] = options["options"]
    if diffusion is not None:
        given = {**given, "generator": {**given.get("generator", {}), "model": diffusion}}
    settings = settings_with(model.settings, given, **changes)
    folder = RunFolder(settings)
    for stage in ("pretrain", "adapt", "align"):
        if not folder.done(stage):
            shutil.copytree(model.path / stage, where / stage, dirs_exist_ok=True)
    with shown(progress):
        run_stages(settings, ["adapter", "reconstruct"])
    return drawn(Model(where))


def drawn(model: Model) -> Pictures:
    """The pictures that the run folder of ``model`` holds. Raises UserError where none are drawn."""
    folder = model.folder
    folder.need("reconstruct")
    arrays = folder.load_arrays("reconstruct/pictures.npz")
    ids = ImageSet.read(folder.settings.data / "images.h5").ids[arrays.pop("image_rows")]
    target = arrays["target"]
    arrays = {name: array for name, array in arrays.items() if array.shape == target.shape or name == SAMPLES}
    return Pictures(arrays=arrays, images=ids, session=folder.facts("reconstruct")["session"], model=model)


def score(model: Model, recording: object, *, pictures: Pictures | None = None, progress: bool = True) -> DataFrame:
    """Every score that there is for a recording: spikes, and identification and pictures where it shows images.

    Args:
        model: The model.
        recording: A recording whose units the model knows.
        pictures: What :func:`reconstruct` drew of it; empty: pictures are not scored.
        progress: Show what is done; False: silence.

    Returns:
        One row a score: task, method, role (ours, rival, floor, ceiling, decoy), value, low and high of its 95 %
        interval, unit, n, chance.

    Raises:
        UserError: The model does not know the units, or pictures are of another session.
    """
    r = one(recording)
    session = model.session(r)
    rows = []
    with shown(progress):
        for found in spike_tasks(model.net, model.batcher(session), 0, model.settings.pretrain.modes):
            low, high = found.get("interval", [None, None, None])[1:]
            role = "ours" if found["method"] == OURS else "rival"
            one_row = {"session": session.name, "role": role, "low": low, "high": high}
            rows.append({key: found[key] for key in ("task", "method", "value", "unit")} | one_row | {"chance": 0.0})
        if model.stage == "align" and session.recording.has_stimuli and session.name in _aligned(model):
            rows += identified(asked(model, r, {}))
        if pictures is not None:
            if pictures.session != session.name:
                raise UserError(f"the pictures are of session {pictures.session}, not of {session.name}")
            rows += [picture_row(row, session.name) for row in score_images(pictures.model.folder)["pictures"]]
    return table(rows)


def picture_row(row: dict, session: str) -> dict:
    """A row of stage evaluate's pictures as one of :func:`score`."""
    value, low, high = row["value"]
    name = row["name"]
    role = "ours"
    for known, names in {"floor": FLOORS, "ceiling": CEILINGS, "decoy": (DECOY,), "rival": RIVALS}.items():
        role = known if name in names or (known == "rival" and name.startswith(WINDOWED)) else role
    common = {"session": session, "task": f"pictures, {row['metric']}", "method": name, "role": role, "unit": ""}
    chance = 0.5 if row["metric"].startswith("two-way") else np.nan
    return common | {"value": value, "low": low, "high": high, "n": row["items"], "chance": chance}


def asked(model: Model, recording: object, options: Mapping[str, Mapping[str, Any]]) -> RunFolder:
    """The model's run folder as if pictures of ``recording`` were asked for. UserError if that cannot be."""
    r = one(recording)
    model.session(r)
    if model.stage != "align":
        raise UserError("the model is not aligned to images: model = nb.align(model, recordings) first")
    data = model.settings.data
    if not holds(data, r):  # the model was made elsewhere, or its data have moved
        data = r.path.parent.parent
    names = names_in(data, [r])
    if names[0] not in _aligned(model):
        raise UserError(f"session {names[0]} shows no images, or was not aligned: align the model to it too")
    folder = RunFolder.existing(model.path)
    folder.settings = settings_with(model.settings, options, data=data, picture_sessions=names)
    return folder


def _aligned(model: Model) -> list[str]:
    return model.folder.facts("align")["sessions"]


def table(rows: list[dict]) -> DataFrame:
    """Rows as a DataFrame, columns in one order."""
    with needs("data"):
        from pandas import DataFrame
    order = ["session", "task", "method", "role", "value", "low", "high", "unit", "n", "chance"]
    return DataFrame(rows).reindex(columns=order)
