"""A tiny simulated data set and the options of a run that takes seconds."""

from pathlib import Path

import pytest
import yaml

from neurobridge.data.simulate import simulate

TINY = {
    "held_out": ["monkeyB_2"],
    "model": {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8},
    "pretrain": {"steps": 40, "windows": 16, "groups": 2, "checkpoint_every": 10},
    "adapt": {"steps": 20, "windows": 16, "checkpoint_every": 10},
    "image": {"layer": "block2", "resolution": 64},
    "align": {
        "steps": 20,
        "joint_steps": 20,
        "windows": 16,
        "queries": 2,
        "hidden": 16,
        "checkpoint_every": 10,
    },
    "generator": {"train_steps": 4, "sketch_steps": 8, "batch": 8},
    "reconstruct": {"samples": 1, "steps": 3, "posterior_steps": 5},
}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "data"
    sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 2, "electrodes": 16}
    return simulate(out, seed=3, **sizes)


@pytest.fixture
def tiny_config(tiny_data, tmp_path):
    """Write a config with the tiny options, changed by dotted keyword; return its path."""

    def write(**changes) -> Path:
        config = {"data": str(tiny_data), **TINY, **changes}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write
