"""How the stages on the spike side open sessions, make models and tasks, and train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import torch

from neurobridge.bridge.image_maps import ImageMaps
from neurobridge.data.datamodule import Batcher, Share, StepBatches, open_sessions, refuse_twins
from neurobridge.data.mixture import MixtureBatches
from neurobridge.data.store import Session
from neurobridge.errors import UserError
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.masking import Masker, MaskPlan
from neurobridge.neuro.model import PRESETS, NeuroBridge
from neurobridge.neuro.prior import NewUnits
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.image_data import (
    Bridge,
    ImageData,
    StackFeatures,
    embedded_images,
    show_images,
    stack_features,
)
from neurobridge.pipeline.inputs import pretrained_elsewhere
from neurobridge.pipeline.teaching import lessons_of
from neurobridge.training.joint_task import JointTask, Seen
from neurobridge.training.settings import AdaptSettings, MixtureSettings, PretrainSettings, RunSettings
from neurobridge.training.task import Task
from neurobridge.training.tasks import MaskedTask
from neurobridge.training.trainer import fit

VALIDATION_WINDOWS, VALIDATION_PART = 64, 8
UNITS_FASTER = 20  # learning rate of unit embeddings in pretraining, over that of the body


def pretraining_sessions(settings: RunSettings) -> list[Session]:
    """The sessions that the settings name, or all that are not held out."""
    names = list(settings.sessions)
    if not names:
        names = [s.stem for s in sorted((settings.data / "sessions").glob("*.h5")) if s.stem not in settings.held_out]
    both = set(names) & set(settings.held_out)
    if both:
        raise UserError(f"session '{sorted(both)[0]}' is both in sessions and in held_out: name it once")
    if not names and pretrained_elsewhere(settings):
        return []
    if not names:
        raise UserError(f"every session of {settings.data} is held out: leave one to pretrain on, or import more")
    return open_windows(settings, names)


def held_out_sessions(settings: RunSettings) -> list[Session]:
    return open_windows(settings, settings.held_out) if settings.held_out else []


def open_windows(settings: RunSettings, names: Sequence[str]) -> list[Session]:
    """Sessions cut as the settings say."""
    window = settings.window
    if window.window_ms % window.bin_ms:
        raise UserError(f"window.window_ms ({window.window_ms}) is not a multiple of window.bin_ms ({window.bin_ms})")
    return open_sessions(settings.data, names, window_ms=window.window_ms, offset_ms=window.offset_ms)


def mixture_sessions(settings: RunSettings) -> list[Session]:
    """The pretraining sessions and those of all folders in settings.mixture.data; every session has its own name."""
    mixture = settings.mixture
    named = [path.name for path in (settings.data, *mixture.data)]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two data folders are named '{twice}': rename one of them, for their names tell them apart")
    foreign = [name for name in mixture.windows if name not in named[1:]]
    if foreign:
        raise UserError(
            f"mixture.windows names '{foreign[0]}', which is not among the folders of mixture.data "
            f"({', '.join(named[1:]) or 'none'}); the run's own folder is cut by 'window'"
        )
    sessions = pretraining_sessions(settings)
    for folder in mixture.data:
        window = mixture.windows.get(folder.name, settings.window)
        sessions += open_windows(replace(settings, data=folder, window=window), ())
    refuse_twins(sessions)
    known: set[str] = set()
    for session in sessions:
        if session.name in known:
            session.name = f"{session.dataset}/{session.name}"
        known.add(session.name)
    return sessions


def bin_of(session: Session, settings: RunSettings) -> int:
    """Bin of a session's rate grid in ms."""
    return settings.mixture.windows.get(session.dataset, settings.window).bin_ms


def make_batcher(
    model: NeuroBridge, sessions: Sequence[Session], settings: RunSettings, *, by_area: bool = False
) -> Batcher:
    """Batches of ``sessions`` where the model is; ``by_area``: each area in its window of align.area_windows."""
    rows = {s.name: model.units.rows_of(s.recording.unit_keys) for s in sessions}
    windows = area_windows(sessions, settings) if by_area else None
    return Batcher(
        sessions,
        rows_of_units=rows,
        bin_ms=[bin_of(s, settings) for s in sessions],
        area_windows=windows,
        device=model.units.bias.device,
    )


def area_windows(sessions: Sequence[Session], settings: RunSettings) -> dict[str, tuple[int, int]]:
    """Region -> ms since the start of the window. Raises UserError for what leaves nothing, or names no area."""
    window, found = settings.window, {}
    areas = {region for s in sessions for region in s.recording.regions.tolist()}
    for area, (low, high) in settings.align.area_windows.items():
        low, high = low - window.offset_ms, high - window.offset_ms
        if area in areas and not (low < min(high, window.window_ms) and high > 0):
            raise UserError(
                f"align.area_windows gives {area} {low + window.offset_ms}-{high + window.offset_ms} ms, outside of "
                f"the windows, which run from {window.offset_ms} to {window.offset_ms + window.window_ms} ms"
            )
        if area in areas:
            found[area] = (low, high)
    if settings.align.area_windows and not found:
        named = ", ".join(settings.align.area_windows)
        raise UserError(f"align.area_windows names {named}, but no session has units there")
    return found


def add_units(model: NeuroBridge, sessions: Sequence[Session], settings: RunSettings) -> None:
    """Grow the vocabulary by the units of ``sessions``, biases at their log mean rates in the train split."""
    for session in sessions:
        start = torch.from_numpy(session.start_bias(bin_of(session, settings)))
        model.units.extend(session.recording.unit_keys, log_rates=start, seed=settings.seed)


def frozen_validation(batcher: Batcher, masker: Masker) -> list[tuple[SpikeBatch, MaskPlan]]:
    """Fixed windows of the valid split with fixed plans, every mode, from up to three sessions (one a data set), in
    parts of some windows in a row.
    """
    plans = []
    first = [batcher.datasets.index(name) for name in dict.fromkeys(batcher.datasets)]
    for index in first if len(first) > 1 else range(min(3, len(batcher.sessions))):
        rows = batcher.sessions[index].rows("valid")[:VALIDATION_WINDOWS]
        for at in range(0, len(rows), VALIDATION_PART):
            batch = batcher.batch([(index, rows[at : at + VALIDATION_PART])])
            for number, mode in enumerate(masker.modes):
                plans.append((batch, masker.draw(batch, np.random.default_rng([index, number, at]), mode)))
    return plans


def make_model(settings: RunSettings, *, maps: ImageMaps | None = None) -> NeuroBridge:
    """A new model of the size that the settings ask for; with ``maps``, fitted or not, its backbone reads images."""
    options = asdict(settings.model)
    preset = options.pop("preset")
    if maps is not None:
        options |= {"memory_width": maps.basis.shape[1], "memory_side": maps.side}
    return NeuroBridge(**options | (PRESETS[preset] if preset != "none" else {}))


def make_masker(settings: RunSettings) -> Masker:
    """The masking of pretraining, adaptation and the joint stage."""
    options = settings.pretrain
    return Masker(
        modes=options.modes,
        ratios=options.ratios,
        span_ms=options.span_ms,
        whole_chunks_ms=settings.model.chunk_ms if settings.model.mask_latents else None,
    )


def spike_task(
    model: NeuroBridge,
    sessions: Sequence[Session],
    settings: RunSettings,
    *,
    only_units: bool,
    bridge: Bridge | None = None,
    seen: Seen | None = None,
    lessons: tuple[ImageData, StackFeatures] | None = None,
    new_units: NewUnits | None = None,
) -> MaskedTask:
    """Pretraining, or adaptation (``only_units``): masked prediction, both ways with ``bridge`` and ``seen`` images.

    lessons: what they are made of, where they are asked for; new_units: vectors that learn in the place of the
    vocabulary's.
    """
    batcher, masker = make_batcher(model, sessions, settings), make_masker(settings)
    options = settings.pretrain
    faster = options.unit_learning_rate
    faster = UNITS_FASTER * options.learning_rate if faster is None else faster
    common = {
        "masker": masker,
        "unit_learning_rate": None if only_units else faster,
        "unit_weight_decay": options.unit_weight_decay,
        "unfreeze_every": settings.adapt.unfreeze_every if only_units else 0,
        "cells": options.cells,
        "augmentation": {"unit_dropout": options.unit_dropout, "jitter_ms": options.jitter_ms},
        "validation": frozen_validation(batcher, masker),
        "new_units": new_units,
        "new_unit_decay": settings.adapt.prior_decay,
    }
    few = settings.adapt.labels if only_units and seen is not None else None
    labelled = None if seen is None else labelled_images(sessions, settings, len(seen.targets))
    preferred = {} if few is None or labelled is None else labelled_windows(sessions, labelled.numpy())
    common |= schedule(
        batcher, settings.adapt if only_units else options, settings, len(sessions) if only_units else None, preferred
    )
    if bridge is None or seen is None:
        return MaskedTask(model, only_units=only_units, **common)
    return JointTask(
        model,
        bridge.head,
        seen=seen,
        learns="units" if only_units else "all",
        labelled=labelled if only_units else None,
        lessons=None if lessons is None else lessons_of(settings, batcher, *lessons),
        **joint_options(settings),
        **common,
    )


def joint_options(settings: RunSettings) -> dict:
    """Options of a :class:`JointTask` that all stages share."""
    return {
        "masked_weight": settings.pretrain.masked_weight,
        "encode_weight": settings.pretrain.encode_weight,
        "decode_weight": settings.pretrain.decode_weight,
        "head_learning_rate": settings.align.learning_rate,
        "projector_learning_rate": settings.align.projector_learning_rate,
        "head_weight_decay": settings.align.weight_decay,
        "unit_dropout": settings.align.unit_dropout,
        "taught_weight": settings.encoding.taught,
        "dreamt": settings.encoding.dreamt,
    }


def labelled_images(sessions: Sequence[Session], settings: RunSettings, images: int) -> torch.Tensor:
    """[images] bool: those that adaptation may know, adapt.labels of each session's train split, drawn by seed."""
    known = torch.zeros(images, dtype=torch.bool)
    for session in sessions:
        shown = session.images_shown("train")
        known[np.random.default_rng(settings.seed).permutation(shown)[: settings.adapt.labels]] = True
    return known


def labelled_share(session: Session, labels: int | None) -> float:
    """Of the images of a session's train split, the share of ``labels`` of them (None: all); 0 where it shows none."""
    shown = len(session.images_shown("train"))
    return min(1.0, (shown if labels is None else labels) / shown) if shown else 0.0


def labelled_windows(sessions: Sequence[Session], labelled: np.ndarray) -> dict[int, np.ndarray]:
    """Index of a session -> rows of its training windows that show one of the ``labelled`` [images] (bool)."""
    rows = [session.shown("train") for session in sessions]
    return {i: rows[i][labelled[session.image_row[rows[i]]]] for i, session in enumerate(sessions)}


def schedule(
    batcher: Batcher,
    stage: PretrainSettings | AdaptSettings,
    settings: RunSettings,
    groups: int | None,
    preferred: Mapping[int, np.ndarray] | None = None,
) -> dict:
    """What every task needs: batches by step, number of steps, rates, seed. preferred: see :class:`StepBatches`."""
    mixture, adapting = settings.mixture, isinstance(stage, AdaptSettings)
    kinds = {batcher.kind(i) for i in range(len(batcher.sessions))}
    mixed = len(kinds) > 1 or (mixture != MixtureSettings() and not adapting)
    groups = groups or settings.pretrain.groups

    def loader(first: int, last: int, share: Share) -> StepBatches | MixtureBatches:
        options = {"split": "train", "windows": stage.windows, "groups": groups, "seed": settings.seed}
        options |= {"first": first, "last": last, "share": share}
        options["continuous"] = not adapting and settings.pretrain.continuous
        if not mixed:
            return StepBatches(batcher, preferred=preferred, **options)
        return MixtureBatches(
            batcher,
            power=mixture.power,
            weights={} if adapting else mixture.weights,
            max_events=mixture.max_events,
            random_starts=mixture.random_starts,
            **options,
        )

    return {
        "loader": loader,
        "steps": stage.steps,
        "checkpoint_every": stage.checkpoint_every,
        "learning_rate": stage.learning_rate,
        "weight_decay": getattr(stage, "weight_decay", 0.0),
        "seed": settings.seed,
    }


def image_side(settings: RunSettings, sessions: Sequence[Session]) -> tuple[ImageData | None, StackFeatures | None]:
    """Images with embeddings, and their features, if pretraining is to see images and ``sessions`` show any."""
    images = show_images(settings, sessions) if settings.pretrain.images else None
    if images is None:
        return None, None
    return embedded_images(settings, images, sessions), stack_features(settings, images)


def fit_here(task: Task, stage: str, run: RunFolder, **more) -> int:
    """Train in the run folder, with the devices and loggers that the settings ask for; the step that was kept.

    ``more``: of :func:`fit`.
    """
    s = run.settings
    where = {name: getattr(s, name) for name in ("accelerator", "devices", "nodes", "precision", "wandb")}
    return fit(task, stage=stage, out=run.path, **asdict(s.train), **where, **more)
