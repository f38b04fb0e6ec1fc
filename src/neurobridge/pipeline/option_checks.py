"""Options that no run can have are refused before anything is made: numbers out of range, sizes at odds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from neurobridge.errors import UserError
from neurobridge.neuro.model import PRESETS
from neurobridge.training.settings import RunSettings

AT_LEAST_ONE = {
    "batch", "bin_ms", "calibration", "checkpoint_every", "chunk_ms", "decoder_depth", "depth", "dimensions", "grid",
    "groups", "heads", "hidden", "latents", "queries", "samples", "unit_width", "width", "window_ms", "windows",
}  # fmt: skip
BELOW_ZERO = {"offset_ms", "devices"}  # names of numbers that may be negative
SHARES = {"dropout", "unit_dropout", "prior_decay"}  # below 1


def check_numbers(settings: RunSettings) -> None:
    """Raise UserError for the first number that cannot be right, wherever in the options it is."""
    for option, value in numbers(settings, ""):
        name = option.rpartition(".")[2]
        least = 1 if name in AT_LEAST_ONE else -math.inf if name in BELOW_ZERO else 0
        if not least <= value < math.inf:
            raise UserError(f"{option} is {value}: give {'a whole number above 0' if least == 1 else '0 or more'}")
        if name in SHARES and value >= 1:
            raise UserError(f"{option} is {value}, which is a share: give a number below 1")
    heads, width = sizes(settings)
    if width % (2 * heads):
        raise UserError(f"model.width ({width}) is not a multiple of twice model.heads ({heads}): change one of them")
    low, high = settings.pretrain.span_ms
    if not 0 < low <= high:
        raise UserError(f"pretrain.span_ms is [{low}, {high}]: give the shortest and the longest stretch in ms")
    for mode, (low, high) in settings.pretrain.ratios.items():
        if not 0 <= low <= high <= 1:
            raise UserError(f"pretrain.ratios of {mode} is [{low}, {high}]: give the lowest and the highest share")
    if not settings.pretrain.modes:
        raise UserError("pretrain.modes is empty: name one or more masking modes")


def sizes(settings: RunSettings) -> tuple[int, int]:
    """Heads and width of the model that the options ask for."""
    model = settings.model
    preset = PRESETS.get(model.preset, {})
    return preset.get("heads", model.heads), preset.get("width", model.width)


def numbers(options: object, prefix: str) -> Iterator[tuple[str, float]]:
    """Dotted name and value of every option that is one number, those of mixture.windows included."""
    for field in fields(options):  # pyright: ignore
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from numbers(value, f"{prefix}{field.name}.")
        elif isinstance(value, dict):
            for name, inner in value.items():
                if is_dataclass(inner):
                    yield from numbers(inner, f"{prefix}{field.name}.{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + field.name, value
