"""New sessions: what may change and what may not, with gradients, with gradual unfreezing, and without any gradient."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from neurobridge.cli import main

MODEL = {"width": 16, "depth": 2, "heads": 2, "latents": 2, "unit_width": 8}


def adapted(config, out, **options) -> tuple[dict, dict]:
    """Weights before and after the adapt stage."""
    path = config(model=MODEL, adapt={"steps": 20, "windows": 16, "checkpoint_every": 10, **options})
    for stage in ("pretrain", "adapt"):
        assert main([stage, "--config", str(path), "--out", str(out)]) == 0
    return load_file(out / "pretrain" / "model.safetensors"), load_file(out / "adapt" / "model.safetensors")


def changed(before: dict, after: dict) -> set[str]:
    """Names of the body's weights that differ."""
    return {name for name in before if not name.startswith("units.") and not np.array_equal(before[name], after[name])}


def test_gradients_touch_the_new_embeddings_alone(tiny_config, tmp_path):
    before, after = adapted(tiny_config, tmp_path / "run")
    known = len(before["units.embedding"])
    assert not changed(before, after)
    assert len(after["units.embedding"]) > known
    np.testing.assert_array_equal(after["units.embedding"][:known], before["units.embedding"])


def test_gradual_unfreezing_starts_at_the_top(tiny_config, tmp_path):
    before, after = adapted(tiny_config, tmp_path / "run", unfreeze_every=12)
    moved = changed(before, after)
    assert moved
    assert all(name.startswith("encoder.blocks.1.") for name in moved), moved


@pytest.mark.parametrize("calibration", [5, 64])
def test_identity_encoder_computes_embeddings_without_a_gradient(tiny_config, tmp_path, calibration):
    before, after = adapted(tiny_config, tmp_path / "run", method="identity", calibration=calibration)
    known = len(before["units.embedding"])
    fresh = after["units.embedding"][known:]
    assert not changed(before, after)
    np.testing.assert_array_equal(after["units.embedding"][:known], before["units.embedding"])
    assert len(np.unique(fresh.round(6), axis=0)) == len(fresh), "units differ"
    assert (tmp_path / "run" / "adapt" / "identity.safetensors").is_file()
