"""New sessions: what may change and what may not, with gradients, with gradual unfreezing, and without any gradient."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from neurobridge.cli import main
from neurobridge.data.datamodule import Batcher, StepBatches, open_sessions
from neurobridge.data.images import ImageSet
from neurobridge.pipeline.spikes import labelled_windows

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


def test_of_few_labelled_images_every_step_sees_some(tiny_data):
    """Drawn like all others, five images in sixty are a handful of windows a step."""
    [session] = open_sessions(tiny_data, ["monkeyA_1"], window_ms=300)
    session.attach_images(ImageSet.read(tiny_data / "images.h5"))
    known = np.zeros(session.image_row.max() + 1, dtype=bool)
    known[np.unique(session.image_row[session.rows("train")])[:5]] = True
    batcher = Batcher([session], rows_of_units={session.name: list(range(session.units))}, bin_ms=10)
    options = {"split": "train", "windows": 32, "groups": 1, "seed": 0, "first": 0, "last": 6}
    preferred = labelled_windows([session], known)
    with_label, plain = (
        np.mean([known[batch.stimulus.numpy()] for batch in StepBatches(batcher, preferred=some, **options)])
        for some in (preferred, None)
    )
    assert 0.4 < with_label < 0.75
    assert plain < 0.3
    for batch in StepBatches(batcher, preferred=preferred, **options):
        np.testing.assert_array_equal(session.image_row[batch.row.numpy()], batch.stimulus.numpy())
