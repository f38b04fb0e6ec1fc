"""The plan's experiments: every cell is a run that could be started, one of each is, and rows become a table."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import yaml

from neurobridge.api.experiment_figures import law_along
from neurobridge.api.experiments import cells_of, merged, read
from neurobridge.api.model import settings_with
from neurobridge.cli import main
from neurobridge.data.simulate import simulate
from neurobridge.training.ranges import check_ranges
from neurobridge.training.settings import RunSettings

NAMES = sorted(
    path.name.removesuffix(".yaml")
    for path in files("neurobridge").joinpath("experiments").iterdir()
    if path.name.endswith(".yaml")
)
SIMULATED = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 2, "electrodes": 16}
TINY = {
    "model": {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8},
    "pretrain": {"steps": 4, "windows": 16, "groups": 2},
    "adapt": {"steps": 2, "windows": 16},
    "align": {"steps": 2, "joint_steps": 1, "windows": 16, "hidden": 16, "queries": 2},
    "image": {"resolution": 64},
    "generator": {"train_steps": 2, "sketch_steps": 4, "batch": 8},
    "reconstruct": {"samples": 1, "steps": 2, "posterior_steps": 4, "inversion_steps": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("experiments") / "data", seed=0, **SIMULATED)


def test_the_seven_experiments_of_the_plan_are_there():
    assert len(NAMES) == 7


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_both_scales_is_a_run_that_may_begin(name, tmp_path):
    question = read(name)
    for scale in ("laptop", "paper"):
        cells = cells_of(question, scale, tmp_path, None, None)
        assert len({cell.folder for cell in cells}) == len(cells)
        for cell in (cell for cell in cells if cell.seed == 0):
            options = {key: value for key, value in cell.options.items() if key not in ("sessions", "held_out")}
            check_ranges(settings_with(RunSettings(), options, seed=cell.seed))


@pytest.mark.parametrize("name", NAMES)
def test_one_cell_of_each_runs_and_goes_on(name, data, tmp_path, capsys):
    question = read(name)
    scale = question["scales"]["laptop"]
    scale["seeds"] = [0]
    scale["options"] = merged(scale["options"], TINY)
    cell = list(question["cells"])[1]
    question["cells"] = {cell: question["cells"][cell]}
    if name == "reconstruction":
        scale["options"]["generator"] = TINY["generator"]
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(question))
    argv = ["experiment", str(tmp_path / f"{name}.yaml"), "--out", str(tmp_path / "out"), "--data", str(data)]
    assert main(argv) == 0
    table = pd.read_parquet(tmp_path / "out" / name / "laptop" / "results.parquet")
    assert set(table.cell) == {cell}
    assert (tmp_path / "out" / name / "laptop" / "results.png").stat().st_size > 1000
    text = (tmp_path / "out" / name / "laptop" / "results.md").read_text()
    assert question["question"] in text
    assert "The plan expects" in text
    capsys.readouterr()
    assert main(argv) == 0
    assert "done before" in capsys.readouterr().out


def test_a_slurm_array_has_a_task_a_cell_and_comes_back_after_preemption(tmp_path):
    assert main(["experiment", "masking", "--executor", "slurm", "--out", str(tmp_path), "--data", str(tmp_path)]) == 0
    script = (tmp_path / "masking" / "laptop.sbatch").read_text()
    assert "--array=0-27" in script
    assert "--requeue" in script
    assert script.count("neurobridge experiment masking") == 28


def test_what_is_not_there_is_a_sentence(tmp_path, capsys):
    for argv, sentence in (
        (["experiment", "masks"], "there is no experiment 'masks': choose ablation"),
        (["experiment", "masking", "--cells", "[five]", "--out", str(tmp_path)], "there is no cell 'five'"),
    ):
        assert main(argv) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_what_lies_along_an_axis_is_a_cell(scale):
    question = read("scaling")
    asked = question["scales"][scale]
    cells, axes = ({**question, **asked}[key] for key in ("cells", "axes"))
    assert {cell for along in axes.values() for cell in along} == set(cells)


def test_a_law_is_found_and_its_last_point_foretold():
    noise = 1e-3 * np.random.default_rng(0).standard_normal((3, 5))
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    several, flat, straight = (np.tile(x, 3), noise.ravel(), (0.1 + 0.2 * np.log10(x) + noise).ravel())
    law = law_along(several, straight)
    assert law.low < 0.2 < law.high
    assert abs(law.foretold - law.found) < law.error
    bent = law_along(several, (0.5 - 0.3 * x**-0.7 + noise).ravel())
    assert bent.between[0] < 0.7 < bent.between[1]
    none = law_along(several, flat)
    assert none.low < 0 < none.high
    assert none.exponent is None, "there is no power law where there is no trend"
    assert law_along(x[:2], x[:2]) is None
    assert np.isnan(law_along(x, x).error), "one seed tells of no spread"
