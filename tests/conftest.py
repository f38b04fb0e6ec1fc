"""Before anything of ours is imported: shapes and types of the model code are checked at every call of every test."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["neurobridge.neuro", "neurobridge.bridge"], "beartype.beartype")
torch.set_num_threads(2)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real recordings beside the checkout; a test that asks for it is skipped where it is absent."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip("no real recordings beside the checkout (../shared/data)")
    return path
