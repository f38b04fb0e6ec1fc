"""Stage reconstruct with a tiny Stable Diffusion, beside the rival of ridge; their report."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from neurobridge.baselines.ridge import RidgeDecoder
from neurobridge.cli import main
from neurobridge.evaluation.report import Table
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.generators import load_generator, load_images
from neurobridge.pipeline.pictures import decode_sessions, paint, reconstruct
from neurobridge.pipeline.reporting import pictures as pictures_chapter

HERE = Path(__file__).parent
TINY = runpy.run_path(str(HERE / "conftest.py"))["TINY"]
DIFFUSION = runpy.run_path(str(HERE.parent / "tiny_diffusion.py"))
STEPS = 4


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory) -> RunFolder:
    """Done up to the adapter."""
    folder = tmp_path_factory.mktemp("pictures")
    DIFFUSION["pipeline"](width=32).save_pretrained(folder / "sd")
    generator = {"kind": "stable-diffusion", "model": str(folder / "sd"), "oracle_images": 4, "oracle_two_way": 0.0}
    generator |= {"adapter_steps": 2, "batch": 2}
    short = {"steps": 2, "windows": 8, "checkpoint_every": 2}
    stages = {"pretrain": short, "adapt": short, "align": TINY["align"] | {"steps": 2, "joint_steps": 0}}
    pictures = {"images": 6, "samples": 1, "steps": STEPS, "posterior_steps": 0}
    options = {**TINY, **stages, "data": str(tiny_data), "generator": generator, "reconstruct": pictures}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    for stage in ("pretrain", "adapt", "align", "adapter"):
        assert main([stage, "--config", str(folder / "config.yaml"), "--out", str(folder / "run")]) == 0
    return RunFolder.existing(folder / "run")


@pytest.fixture(scope="module")
def drawn(run):
    """What the stage leaves."""
    reconstruct(run)
    return run.load_arrays("reconstruct/pictures.npz")


def test_the_rival_is_ridge_to_the_embedding_through_the_same_adapter_and_generator(run, drawn):
    data, decoded = load_images(run), decode_sessions(run)[0]
    ridge = RidgeDecoder().fit(decoded.train_responses, data.embeddings[decoded.train_images])
    predicted = torch.from_numpy(ridge.predict_spread(decoded.test.responses)).float()
    generator, conditioner = load_generator(run)
    with torch.no_grad():
        condition = conditioner(predicted)
    seeds = [run.settings.seed * 1_000_003 + int(i) for i in decoded.test.images]
    options = {"steps": STEPS, "guidance": run.settings.reconstruct.guidance}
    expected = paint(generator, condition, conditioner.null, seeds=seeds, **options)
    np.testing.assert_allclose(drawn["ridge + generator"], expected, atol=1e-4)


def test_rivals_and_floors_are_not_among_our_rows_in_the_report(run, drawn):
    names = [name for name, array in drawn.items() if name != "target" and array.ndim == 4]
    rows = [{"metric": "PixCorr", "name": name, "value": [0.2, 0.1, 0.3], "items": 6} for name in names]
    table = next(block for block in pictures_chapter(run, rows) if isinstance(block, Table))
    ours = {table.rows[i][0] for i in table.highlight}
    samples = {"first sample", "best of samples", "mean of samples", "posterior sample"}
    assert ours == samples | {"posterior mean", "features inverted"}
    windowed = {"posterior mean", "features inverted", "nearest by decoded features", "posterior sample"}
    rivals = {f"windowed encoding: {name}" for name in windowed} | {"ridge + generator", "library posterior"}
    assert {row[0] for row in table.rows} - ours >= rivals | {"decoy", "oracle", "prior only"}
