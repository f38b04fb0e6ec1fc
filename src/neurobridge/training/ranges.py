"""Which values an option may have: every number of a run has a range, and some options have to suit each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch

from neurobridge.errors import UserError
from neurobridge.neuro.modes import MODES
from neurobridge.training.settings import RunSettings, WindowSettings


class Range(NamedTuple):
    """Finite numbers from ``least`` to ``most``; ``below``: without ``most`` itself, ``above``: without ``least``."""

    least: float
    most: float = math.inf
    below: bool = False
    above: bool = False

    def __contains__(self, value: object) -> bool:
        assert isinstance(value, (int, float))
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        low = f"{'more than ' if self.above else ''}{self.least:g}"
        return f"{low} to {'below ' if self.below else ''}{self.most:g}" if self.most < math.inf else f"{low} or more"


ANY = Range(-math.inf)
ZERO, ONE, TWO = Range(0), Range(1), Range(2)
POSITIVE = Range(0, above=True)
SHARE, PART = Range(0, 1), Range(0, 1, below=True)
DAY_MS = 86_400_000
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")

RANGES: dict[str, Range] = {
    "window.window_ms": Range(1, DAY_MS),
    "window.offset_ms": Range(-DAY_MS, DAY_MS),
    "window.bin_ms": Range(1, DAY_MS),
    "model.width": TWO,
    "model.depth": ONE,
    "model.heads": ONE,
    "model.latents": ONE,
    "model.unit_width": ONE,
    "model.chunk_ms": ONE,
    "model.decoder_depth": ONE,
    "model.dropout": PART,
    "model.memory_features": ONE,
    "model.causal_ms": ZERO,
    "pretrain.steps": ZERO,
    "pretrain.learning_rate": POSITIVE,
    "pretrain.unit_learning_rate": ZERO,
    "pretrain.weight_decay": ZERO,
    "pretrain.unit_weight_decay": ZERO,
    "pretrain.share": Range(0, 1, above=True),
    "pretrain.masked_weight": ZERO,
    "pretrain.encode_weight": ZERO,
    "pretrain.decode_weight": ZERO,
    "pretrain.windows": ONE,
    "pretrain.groups": ONE,
    "pretrain.unit_dropout": PART,
    "pretrain.jitter_ms": ZERO,
    "pretrain.cells": ONE,
    "pretrain.average": PART,
    "pretrain.checkpoint_every": ONE,
    "mixture.power": ANY,
    "mixture.max_events": ONE,
    "adapt.prior_decay": ZERO,
    "adapt.labels": ZERO,
    "adapt.steps": ZERO,
    "adapt.learning_rate": POSITIVE,
    "adapt.windows": ONE,
    "adapt.unfreeze_every": ZERO,
    "adapt.calibration": ONE,
    "adapt.checkpoint_every": ONE,
    "image.grid": ONE,
    "image.resolution": Range(8),
    "image.dimensions": ONE,
    "image.whitening": SHARE,
    "image.batch": ONE,
    "align.steps": ZERO,
    "align.joint_steps": ZERO,
    "align.joint_blocks": ZERO,
    "encoding.taught": ZERO,
    "encoding.dreamt": PART,
    "align.anti_forgetting": ZERO,
    "align.learning_rate": POSITIVE,
    "align.projector_learning_rate": POSITIVE,
    "align.joint_learning_rate": ZERO,
    "align.joint_unit_learning_rate": ZERO,
    "align.weight_decay": ZERO,
    "align.windows": TWO,
    "align.groups": ONE,
    "align.level": ZERO,
    "align.queries": ONE,
    "align.hidden": ONE,
    "align.dropout": PART,
    "align.unit_dropout": PART,
    "align.checkpoint_every": ONE,
    "generator.oracle_images": TWO,
    "generator.oracle_two_way": SHARE,
    "generator.train_steps": ZERO,
    "generator.adapter_steps": ZERO,
    "generator.sketch_steps": ZERO,
    "generator.adapter_learning_rate": POSITIVE,
    "generator.adapter_noise": ZERO,
    "generator.batch": ONE,
    "reconstruct.images": TWO,
    "reconstruct.samples": ONE,
    "reconstruct.steps": ONE,
    "reconstruct.guidance": ZERO,
    "reconstruct.posterior_steps": ZERO,
    "reconstruct.inversion_steps": ZERO,
    "train.accumulate": ONE,
    "train.clip": ZERO,
    "train.workers": ZERO,
    "seed": Range(0, 2**31, below=True),
    "devices": ONE,
    "nodes": ONE,
}


def numbers(settings: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Dotted name and value of every number among the options, in order; empty ones are left out."""
    for field in fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        if is_dataclass(value):
            yield from numbers(value, f"{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value


def check_ranges(settings: RunSettings) -> None:
    """Raise UserError for the first option whose value no run can use, or that does not suit another one."""
    for name, value in numbers(settings):
        if value not in RANGES[name]:
            raise UserError(f"{name} is {value}: give {RANGES[name]}")
    check_window(settings.window, "window")
    for name, window in settings.mixture.windows.items():
        for key, value in numbers(window, "window."):
            if value not in RANGES[key]:
                raise UserError(f"mixture.windows gives {name} a {key[7:]} of {value}: give {RANGES[key]}")
        check_window(window, f"mixture.windows.{name}")
    if settings.accelerator not in ACCELERATORS:
        raise UserError(f"accelerator is '{settings.accelerator}': give one of {', '.join(ACCELERATORS)}")
    model, align = settings.model, settings.align
    if model.preset == "none" and model.width % (2 * model.heads):
        raise UserError(
            f"model.width is {model.width}, no multiple of twice model.heads ({model.heads}): give one that is"
        )
    if model.cls and model.prompts:
        raise UserError("model.cls and model.prompts both put a token in front: set one of them")
    if model.causal_ms % model.chunk_ms:
        raise UserError(
            f"model.causal_ms is {model.causal_ms}: give a multiple of model.chunk_ms ({model.chunk_ms}), or 0"
        )
    if model.causal_ms and (model.cls or model.prompts):
        raise UserError(
            "model.causal_ms goes with neither model.cls nor model.prompts: their token sees the whole window"
        )
    if align.readout == "cls" and not model.cls:
        raise UserError("align.readout is cls, but the model has no [CLS] token: set model.cls too")
    check_masking(settings)
    check_training(settings)
    for area, (low, high) in align.area_windows.items():
        if not low < high:
            raise UserError(f"align.area_windows gives {area} {low}-{high} ms: give a start and a later end")
    for name, course in settings.mixture.weights.items():
        if not course or any(value not in ZERO for point in course for value in point):
            raise UserError(f"mixture.weights of {name} is {course}: give [step, weight] pairs of 0 or more")


def check_window(window: WindowSettings, name: str) -> None:
    """Raise UserError for a window that is no whole number of bins."""
    if window.window_ms % window.bin_ms:
        raise UserError(
            f"{name}.window_ms ({window.window_ms}) is not a multiple of {name}.bin_ms ({window.bin_ms}): change one"
        )


def check_training(settings: RunSettings) -> None:
    """Raise UserError for devices that cannot train as asked."""
    train = settings.train
    if settings.precision == "16-mixed" and (settings.accelerator == "cpu" or not torch.accelerator.is_available()):
        raise UserError("precision is 16-mixed, and training runs on the CPU, which has no float16: take bf16-mixed")
    if settings.precision == "16-mixed" and train.strategy == "fsdp":
        raise UserError("train.strategy is fsdp, which takes no precision of 16-mixed: take bf16-mixed, or ddp")
    parts = train.accumulate * settings.devices * settings.nodes
    stages = {"pretrain": settings.pretrain, "adapt": settings.adapt, "align": settings.align}
    for name, stage in stages.items():
        if parts > 1 and stage.windows < parts:
            raise UserError(
                f"{name}.windows is {stage.windows}, fewer than the {parts} parts of devices, nodes and "
                "train.accumulate: give more windows, or fewer parts"
            )


def check_masking(settings: RunSettings) -> None:
    """Raise UserError for masking that hides nothing, or more than there is."""
    options = settings.pretrain
    if not options.modes or len(set(options.modes)) < len(options.modes):
        raise UserError(f"pretrain.modes is {options.modes}: name at least one mode, each once ({', '.join(MODES)})")
    for mode, (low, high) in options.ratios.items():
        if mode not in MODES or not (low <= high and low in SHARE and high in SHARE):
            raise UserError(
                f"pretrain.ratios gives '{mode}' {low} to {high}: name one of {', '.join(MODES)}, and two shares"
            )
    low, high = options.span_ms
    if not 1 <= low <= high:
        raise UserError(f"pretrain.span_ms is {low} to {high}: give a shortest and a longest stretch of 1 ms or more")
