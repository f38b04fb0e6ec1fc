"""What is checked before the first stage, so that a run of hours does not end at its fifth stage over an option."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from neurobridge.data.images import is_content_id, read_ids
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.pipeline.folder import begun
from neurobridge.pipeline.inputs import check_names, compare_inputs, read_inputs, refuse_gone
from neurobridge.training.ranges import check_ranges
from neurobridge.training.settings import RunSettings


def check_run(settings: RunSettings, stages: Sequence[str]) -> None:
    """Raise UserError for options that no run can use, names that are not there, and data that a stage cannot use.

    Nothing is made. What takes long (every file is hashed, sessions and networks are opened) is looked at once, before
    a stage has begun.
    """
    check_ranges(settings)
    check_devices(settings)
    known = read_inputs(settings.out) if begun(settings.out) else {}
    refuse_gone(settings, known)
    check_names(settings)
    if begun(settings.out):
        return
    compare_inputs(settings, {})
    check_sessions(settings, stages)


def check_devices(settings: RunSettings) -> None:
    """Raise UserError for an accelerator that torch does not find here, or for more devices than there are."""
    import torch

    if settings.accelerator in ("auto", "cpu"):
        return
    mps = settings.accelerator == "mps" or not torch.cuda.is_available()
    there = int(torch.backends.mps.is_available()) if mps else torch.cuda.device_count()
    if settings.devices > there:
        raise UserError(
            f"accelerator {settings.accelerator} with {settings.devices} devices is asked for, and torch finds {there} "
            "here: give --accelerator cpu, or fewer --devices"
        )


def check_sessions(settings: RunSettings, stages: Sequence[str]) -> None:
    """Open what the run opens. Raises UserError for what it would find there at some stage."""
    from neurobridge.pipeline.spikes import area_windows, held_out_sessions, mixture_sessions

    held_out = held_out_sessions(settings)
    sessions = [*mixture_sessions(settings), *held_out]
    area_windows(sessions, settings)
    shown = [s for s in sessions if s.recording.has_stimuli and s.dataset == settings.data.name]
    there = read_ids(settings.data / "images.h5")
    if not there or not shown:
        return
    for session in shown:
        check_images(session, there, settings.data / "images.h5")
    check_encoders(settings)
    if "reconstruct" in stages or "evaluate" in stages:
        wanted = settings.picture_sessions or settings.held_out
        for session in [s for s in shown if s.name in wanted or not wanted]:
            check_pictures(session)


def check_images(session: Session, there: set[str], path: Path) -> None:
    """Raise UserError for a session that shows pictures, by their content, that are not in the image set ``there``."""
    stimuli = session.recording.stimuli
    shown = [] if stimuli is None else sorted(set(stimuli.image_id[session.stimulus_row].tolist()))
    missing = [key for key in shown if is_content_id(key) and key not in there]
    if missing:
        raise UserError(
            f"session {session.name} shows {len(missing)} images that are not in {path} (first: '{missing[0]}'): "
            "import the images together with the sessions"
        )


def check_encoders(settings: RunSettings) -> None:
    """Make the small image encoders that stages make. Raises UserError for a layer or a network that is not there."""
    from neurobridge.neuro.model import PRESETS
    from neurobridge.pipeline.generators import shipped_weights, tiny_autoencoder
    from neurobridge.pipeline.image_data import feature_stack, image_encoder
    from neurobridge.vision.efficientnet import EfficientNetTrunk

    encoder = image_encoder(settings)
    if isinstance(encoder.trunk, EfficientNetTrunk):  # others are loaded anew for each of their layers
        feature_stack(settings, settings.encoding.layers)
        feature_stack(settings, settings.reconstruct.feature_layers, option="reconstruct.feature_layers")
    model, level = settings.model, settings.align.level
    depth = model.depth if model.preset == "none" else PRESETS[model.preset]["depth"]
    if level is not None and level > depth:
        raise UserError(f"align.level is {level}, but the model has {depth} blocks: give 0 to {depth}, or null")
    options = settings.generator
    tiny_autoencoder(options.tiny_autoencoder)
    if options.kind != "small":
        return
    weights = options.weights or shipped_weights()
    described = weights / "generator.json"
    if not options.train_steps and not described.is_file():
        raise UserError(f"no generator at {weights} (generator.json): give generator.weights a folder that holds one")
    grid = 4 if options.train_steps else json.loads(described.read_text())["generator"]["grid"]
    if not encoder.pooled and encoder.grid != grid:
        raise UserError(
            f"image.grid is {encoder.grid}, but the small generator draws on {grid} x {grid}: give image.grid {grid}, "
            "or an image.layer without a map"
        )


def check_pictures(session: Session) -> None:
    """Raise UserError for a session whose pictures are asked for and whose splits do not allow it."""
    stimuli = session.recording.stimuli
    assert stimuli is not None
    ids = stimuli.image_id[session.stimulus_row]
    for split in ("valid", "test"):
        found = len({name for name in ids[session.rows(split)].tolist() if name})
        if found < 2:
            raise UserError(
                f"session {session.name} shows {found} images of the {split} split, and pictures need two at least: "
                "name other picture_sessions, or split the data anew"
            )
