"""An exported model: what goes along, what does not, and that it works where the run is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import neurobridge as nb
from neurobridge.cli import main
from neurobridge.data.simulate import simulate
from neurobridge.errors import UserError

TINY = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SHORT = {"model": TINY, "windows": 16, "groups": 2, "layer": "block2", "resolution": 64, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 2, "electrodes": 16}
    return simulate(tmp_path_factory.mktemp("share") / "data", seed=3, **sizes)


@pytest.fixture(scope="module")
def aligned(data):
    model = nb.pretrain(nb.open(data)[:-1], steps=4, **SHORT)
    return nb.align(model, steps=2, joint_steps=1, windows=16, queries=2, hidden=16, progress=False)


def test_an_exported_model_works_and_tells_what_it_is(data, aligned, tmp_path, capsys):
    assert main(["export", str(aligned.path), "--out", str(tmp_path / "shared"), "--name", "lab/spikes"]) == 0
    files = {str(path.relative_to(tmp_path / "shared")) for path in (tmp_path / "shared").rglob("*") if path.is_file()}
    assert {"README.md", "config.yaml", "align/model.safetensors", "pretrain/prior.safetensors"} <= files
    assert not [name for name in files if name.endswith((".ckpt", ".npz", ".h5", ".pt"))]
    assert "pretrain/model.safetensors" not in files
    card = (tmp_path / "shared" / "README.md").read_text()
    for words in ("monkeyA_1", "simulated/monkeyA", "SHA-256", "Not evaluated", "not for diagnosis", "lab/spikes"):
        assert words in card
    text = "".join(
        (tmp_path / "shared" / name).read_text() for name in files if name.endswith((".yaml", ".json", ".md"))
    )
    assert str(aligned.path.parent) not in text
    assert str(data.parent) not in text

    model = nb.from_pretrained(tmp_path / "shared")
    first, last = nb.open(data)[0], nb.open(data)[-1]
    for into in ("latents", "image"):
        ours, theirs = (nb.embed(m, first, into=into, split="test") for m in (aligned, model))
        np.testing.assert_array_equal(ours, theirs)
    later = nb.adapt(model, last, steps=2, windows=16, progress=False)
    assert nb.embed(later, last, into="image", split="test").sizes["window"] == 32


def test_what_cannot_be_shared_or_opened_is_a_sentence(data, aligned, tmp_path):
    out = tmp_path / "shared"
    assert main(["export", str(aligned.path), "--out", str(out)]) == 0
    weights = bytearray((out / "align" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (out / "align" / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="is not what stage align left"):
        nb.from_pretrained(out)
    with pytest.raises(UserError, match="no model at"):
        nb.from_pretrained(tmp_path / "nothing")
    assert main(["export", str(aligned.path), "--out", str(out)]) == 2
    with pytest.raises(UserError, match="is no exported model"):
        nb.push_to_hub(aligned.path, "lab/spikes")


def test_an_exported_model_identifies_images_that_lie_elsewhere(data, aligned, tmp_path):
    nb.export(aligned.path, out=tmp_path / "shared")
    model, recording = nb.from_pretrained(tmp_path / "shared"), nb.open(data)[0]
    ours, theirs = (nb.identify(m, recording, progress=False) for m in (model, aligned))
    pd.testing.assert_frame_equal(ours, theirs)


def test_the_model_of_the_package_reads_new_spikes_without_a_network():
    model = nb.from_pretrained("neurobridge/demo")
    rng = np.random.default_rng(0)
    r = nb.recording(rng.uniform(0, 30, 2000), rng.integers(0, 10, 2000), session="mine")
    later = nb.adapt(model, r, steps=0, progress=False)
    assert nb.embed(later, r).dims == ("window", "time", "latent", "feature")
    assert nb.embed(later, r, into="image").sizes["window"] == 99
