"""Where a run computes what is not training: latents, expectations, features of images, pictures."""

from __future__ import annotations

import torch

from neurobridge.training.settings import RunSettings


def device(settings: RunSettings) -> torch.device:
    """The accelerator, where there is one and the run does not ask for the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if found is None or settings.accelerator == "cpu" else found


def image_device(settings: RunSettings) -> torch.device | str:
    """Where images are embedded and pictures are judged: as image.device says, or where all else is computed."""
    return device(settings) if settings.image.device == "auto" else settings.image.device
