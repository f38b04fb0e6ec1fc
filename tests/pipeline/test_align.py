"""Stage align on a tiny data set: what each of its stages may change, every option, sentences for options at odds."""

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from neurobridge.pipeline.alignment_inputs import averaged
from safetensors.numpy import load_file

from neurobridge.cli import main
from neurobridge.pipeline.alignment import load_aligned, predict_images, predict_windows, sessions_with_images
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spikes import make_batcher
from neurobridge.training.settings import RunSettings

MODEL = {"width": 16, "depth": 2, "heads": 2, "latents": 2, "unit_width": 8, "cls": True}
ALIGN = {"steps": 12, "windows": 16, "queries": 2, "hidden": 16, "checkpoint_every": 6}


def aligned(config, out, model=MODEL, **options):
    """Run up to align; exit code of the last stage, weights before and after it."""
    short = {"steps": 2, "windows": 8, "checkpoint_every": 2}
    path = config(model=model, pretrain=short, adapt=short, align={**ALIGN, **options}, window={"window_ms": 200})
    assert main(["pretrain", "--config", str(path), "--out", str(out)]) == 0
    assert main(["adapt", "--config", str(path), "--out", str(out)]) == 0
    if main(["align", "--config", str(path), "--out", str(out)]):
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
    allowed = ("encoder.blocks.1.", "encoder.norm.", "units.embedding")
    assert all(name.startswith(allowed) for name in changed), changed


def test_every_option_at_once_and_averages_over_repeats(tiny_config, tmp_path):
    options = {"readout": "cls", "time": "areas", "average_repeats": True, "mixco": 0.5, "joint_steps": 2}
    assert aligned(tiny_config, tmp_path / "run", **options)
    names = {line.split(",")[2] for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()}
    assert {"train/mixco", "train/soft_clip"} & names
    run = RunFolder(read_settings(tmp_path / "run"))
    model, head, _ = load_aligned(run)
    window = {tuple(row) for row in head.unit_window.tolist()}
    assert window == {(30, 80), (60, 120), (80, 200)}
    sessions = sessions_with_images(run)
    assert len({s.recording.subject for s in sessions}) == 2, "both animals are aligned at once"
    batcher = make_batcher(model, sessions, run.settings)
    rows = sessions[0].rows("test")
    shown = sessions[0].image_row[rows]
    images, predicted = predict_images(model, head, batcher, 0, rows)
    assert predicted.shape == (len(np.unique(shown)), head.options["dimensions"])
    single = predict_windows(model, head, batcher, 0, rows[shown == images[0]][:1])
    images, once = predict_images(model, head, batcher, 0, rows[shown == images[0]][:1])
    np.testing.assert_allclose(once, single, atol=1e-5)


def read_settings(out) -> RunSettings:
    """Settings of a run, as its folder holds them."""
    parser = ArgumentParser()
    parser.add_class_arguments(RunSettings, "run")
    return parser.instantiate_classes(
        parser.parse_object({"run": yaml.safe_load((out / "config.yaml").read_text())})
    ).run


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"readout": "cls"}, "model.cls"),
        ({"time": "areas", "area_windows": {"V1": [400, 500]}}, "no bin is centred"),
        ({"time": "areas", "area_windows": {"MT": [30, 80]}}, "no session has units in MT"),
    ],
)
def test_options_at_odds_are_told_in_a_sentence(tiny_config, tmp_path, capsys, options, sentence):
    assert aligned(tiny_config, tmp_path / "run", model=MODEL | {"cls": False}, **options) is None
    errors = capsys.readouterr().err
    assert sentence in errors
    assert "Traceback" not in errors


def test_averaging_replaces_the_named_rows_alone():
    table = torch.tensor([[1.0], [3.0], [5.0], [9.0]])
    result = averaged(table, torch.tensor([0, 2, 3]), torch.tensor([7, 7, 8]))
    assert result[:, 0].tolist() == [3.0, 3.0, 3.0, 9.0]
    assert table[:, 0].tolist() == [1.0, 3.0, 5.0, 9.0]
