"""Stage align on a tiny data set: what each of its stages may change, every option, sentences for options at odds."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from neurobridge.cli import main
from neurobridge.pipeline.alignment import load_aligned, predict_windows, sessions_with_images
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spikes import make_batcher

MODEL = {"width": 16, "depth": 2, "heads": 2, "latents": 2, "unit_width": 8, "cls": True}
ALIGN = {"steps": 12, "windows": 16, "queries": 2, "hidden": 16, "checkpoint_every": 6}


def aligned(config, out, model=MODEL, **options):
    """Weights before and after stage align; None where a stage refuses its options."""
    short = {"steps": 2, "windows": 8, "checkpoint_every": 2}
    path = config(model=model, pretrain=short, adapt=short, align={**ALIGN, **options}, window={"window_ms": 200})
    if any(main([stage, "--config", str(path), "--out", str(out)]) for stage in ("pretrain", "adapt", "align")):
        return None
    return load_file(out / "adapt" / "model.safetensors"), load_file(out / "align" / "model.safetensors")


def test_stage_one_leaves_the_encoder_as_it_is_bit_for_bit(tiny_config, tmp_path):
    before, after = aligned(tiny_config, tmp_path / "run", joint_steps=0)
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_stage_two_touches_the_last_blocks_the_norm_and_the_unit_embeddings_only(tiny_config, tmp_path):
    before, after = aligned(tiny_config, tmp_path / "run", joint_steps=6, joint_blocks=1)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "units.embedding" in changed
    assert any(name.startswith("encoder.blocks.1.") for name in changed)
    allowed = ("encoder.blocks.1.", "encoder.norm.", "units.embedding", "units.bias")
    assert all(name.startswith(allowed) for name in changed), changed


def test_every_option_at_once_and_areas_in_their_windows(tiny_config, tmp_path):
    windows = {"V1": [30, 80], "V4": [60, 120], "IT": [80, 200]}
    options = {"readout": "cls", "level": 1, "area_windows": windows, "joint_steps": 2}
    assert aligned(tiny_config, tmp_path / "run", **options)
    run = RunFolder.existing(tmp_path / "run")
    model, bridge = load_aligned(run)
    sessions = sessions_with_images(run)
    assert len({s.recording.subject for s in sessions}) == 2, "both animals are aligned at once"
    batcher = make_batcher(model, sessions, run.settings, by_area=True)
    rows = sessions[0].rows("test")
    batch = batcher.batch([(0, rows)])
    names = sessions[0].recording.regions[batch.event_unit.numpy()]
    for area, (low, high) in windows.items():
        tick = batch.event_tick.numpy()[names == area]
        assert len(tick)
        assert low <= tick.min()
        assert tick.max() < high
    assert predict_windows(model, bridge.head, batcher, 0, rows).shape == (len(rows), bridge.space.components.shape[1])


def test_without_images_in_pretraining_alignment_begins_with_a_new_head(tiny_config, tmp_path):
    short = {"steps": 2, "windows": 8, "checkpoint_every": 2}
    path = tiny_config(
        model=MODEL, pretrain={**short, "images": False}, adapt=short, align=ALIGN, window={"window_ms": 200}
    )
    for stage in ("pretrain", "adapt", "align"):
        assert main([stage, "--config", str(path), "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "pretrain" / "head.safetensors").exists()
    model, bridge = load_aligned(RunFolder.existing(tmp_path / "run"))
    assert model.memory is None
    assert float(bridge.head.linear.weight.abs().sum()) > 0


def test_an_encoder_that_was_not_pretrained_can_be_aligned(tiny_config, tmp_path):
    short = {"steps": 2, "windows": 8, "checkpoint_every": 2}
    path = tiny_config(model=MODEL, pretrain={**short, "steps": 0}, adapt=short, window={"window_ms": 200}, align=ALIGN)
    for stage in ("pretrain", "adapt", "align"):
        assert main([stage, "--config", str(path), "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "checkpoints" / "pretrain").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"readout": "cls"}, "model.cls"),
        ({"level": 3}, "the model has 2 blocks"),
        ({"area_windows": {"V1": [400, 500]}}, "outside of the windows"),
        ({"area_windows": {"MT": [30, 80]}}, "no session has units there"),
    ],
)
def test_options_at_odds_are_told_in_a_sentence(tiny_config, tmp_path, capsys, options, sentence):
    assert aligned(tiny_config, tmp_path / "run", model=MODEL | {"cls": False}, **options) is None
    errors = capsys.readouterr().err
    assert sentence in errors
    assert "Traceback" not in errors
