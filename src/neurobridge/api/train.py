"""Training: pretrain, adapt, align. Options are those of the command line, each a keyword with a default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from neurobridge.api.keywords import takes
from neurobridge.api.model import Model, do, grown, names_in, settings_with, weights_in
from neurobridge.api.recordings import IMAGES, data_folder, open_recordings
from neurobridge.api.scratch import new_folder, place
from neurobridge.data.images import ImageSet
from neurobridge.errors import UserError
from neurobridge.pipeline.folder import DATA
from neurobridge.training.settings import RunSettings

Options = Mapping[str, Mapping[str, Any]]


@takes(window=(), pretrain=(), image=("device", "batch"), encoding=())
def pretrain(
    recordings: object,
    *,
    model: str | Mapping[str, Any] = "none",
    window: Literal["auto"] | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    out: Path | str | None = None,
    progress: bool = True,
    **options: Any,
) -> Model:
    """Train a model on ``recordings``: hidden spikes from seen ones, and both ways between spikes and images.

    Args:
        recordings: What :func:`open` returns or takes.
        model: Size: tiny, small, base, plan, large (1 to 100 million weights), none (0.8 million), or a mapping of
            sizes (width, depth, heads, latents, unit_width, ...).
        window: auto chooses window, bin, chunk, windows a batch and steps by rates and durations, where not given.
        seed: Seed of everything that is drawn.
        accelerator: Where to train: auto, cpu, gpu.
        precision: Numerical precision of training.
        out: Run folder; a training that was interrupted there goes on. Empty: the model is gone with this process,
            unless it is saved.
        progress: Show what is done; False: silence.

    Raises:
        UserError: Recordings or options cannot be used; the sentence says why.
    """
    given: dict[str, Any] = options["options"]
    found = open_recordings(recordings)
    if not found:
        raise UserError("there is no recording to pretrain on: give at least one")
    folder = folder_of(out)
    data = data_folder(found, folder / DATA)
    sizes = {"preset": model} if isinstance(model, str) else dict(model)
    settings = settings_with(
        RunSettings(),
        {**given, "model": sizes},
        data=data,
        out=folder,
        sessions=names_in(data, found),
        seed=seed,
        accelerator=accelerator,
        precision=precision,
        advise=window == "auto",
    )
    return do(settings, ["pretrain"], progress=progress)


@takes(adapt=())
def adapt(
    model: Model, recordings: object, *, out: Path | str | None = None, progress: bool = True, **options: Any
) -> Model:
    """Learn the units of new ``recordings``; body and head stay as they are.

    Units of a subject that the model knows from an earlier session start as they were, if a test without labels does
    not say otherwise; all others at what the model learnt of units. Images that a session shows count as labels.

    Args:
        model: The model; it stays as it is.
        recordings: What :func:`open` returns or takes: sessions that the model does not know yet.
        out: Run folder of the new model; empty: gone with this process, unless it is saved.
        progress: Show what is done; False: silence.

    Raises:
        UserError: A session is known already, or recordings or options cannot be used.
    """
    given: dict[str, Any] = options["options"]
    found = open_recordings(recordings)
    known = [r.path.stem for r in found if set(r.unit_keys) <= set(model.net.units.rows)]
    if known:
        raise UserError(f"the model knows the units of session {known[0]}: adapt it to sessions that it does not know")
    align = {"align": {"steps": 0, "joint_steps": 0}} if model.stage == "align" else {}
    settings = grown(model, found, folder_of(out), new=True, options={**given, **align})
    adapted = do(settings, ["adapt"], progress=progress)
    if not align:
        return adapted
    if (settings.data / IMAGES).is_file():
        return do(settings, ["align"], progress=progress)
    folder = adapted.folder  # no image is at hand: the head is kept as it is
    (folder / "align").mkdir(exist_ok=True)
    for path in weights_in(folder / "adapt"):
        place(path, folder / "align" / path.name)
    folder.finish("align", sessions=[], encoder=settings.image.encoder)
    return Model(settings.out)


@takes(align=("sessions",))
def align(
    model: Model,
    recordings: object = None,
    images: Path | str | None = None,
    *,
    out: Path | str | None = None,
    progress: bool = True,
    **options: Any,
) -> Model:
    """Align the model's latents to image embeddings: the head alone, then the last blocks and the units too.

    Args:
        model: The model; it stays as it is.
        recordings: Sessions to align, which the model knows; empty: all that it knows.
        images: The image set (images.h5) that the sessions show, where it does not lie in their data folder.
        out: Run folder of the new model; empty: gone with this process, unless it is saved.
        progress: Show what is done; False: silence.

    Raises:
        UserError: No session shows images, one is not known, or options cannot be used.
    """
    given: dict[str, Any] = options["options"]
    found = model.recordings if recordings is None else open_recordings(recordings)
    for r in found:
        model.session(r)
    if images is not None:
        images = Path(images)
        shown = {i for r in found if r.stimuli is not None for i in r.stimuli.image_id.tolist()}
        if not shown & set(ImageSet.read(images).ids.tolist()):
            raise UserError(f"{images} holds none of the images that the recordings show")
    aligned = () if recordings is None else found
    settings = grown(model, found, folder_of(out), aligned=aligned, images=images, options=given)
    return do(settings, ["adapt", "align"], progress=progress)


def folder_of(out: Path | str | None) -> Path:
    """The run folder that is asked for, or a new one that is gone with this process."""
    return Path(out) if out is not None else new_folder("model")
