"""The adapter stage with Stable Diffusion and with an IP-Adapter, tiny: gate, resumption, facts, and drawing."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from neurobridge.data.images import ImageSet
from neurobridge.errors import UserError
from neurobridge.pipeline.folder import REFUSED, RunFolder
from neurobridge.pipeline.generators import adapter, load_generator
from neurobridge.training.settings import GeneratorSettings, ReconstructSettings, RunSettings

TINY = runpy.run_path(str(Path(__file__).parents[1] / "tiny_diffusion.py"))
DOCS = Path(__file__).parents[2] / "docs" / "generators.md"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "words").mkdir()
    pipeline = TINY["pipeline"](width=32, words=folder / "words")
    pipeline.save_pretrained(folder / "sd")
    TINY["ip_adapter"](folder / "ip.safetensors", pipeline.unet, embedding=32)
    return folder


@pytest.fixture
def aligned(models, tmp_path):
    """Opens a run whose align stage is done, with these options of the generator."""
    rng = np.random.default_rng(0)
    images = ImageSet.from_pixels(rng.integers(0, 256, (24, 20, 20, 3), dtype=np.uint8))
    images.write(tmp_path / "data" / "images.h5")

    def open_run(width=32, **options) -> RunFolder:
        options = {"model": str(models / "sd"), "ip_adapter": str(models / "ip.safetensors"), **options}
        options = {"oracle_images": 6, "adapter_steps": 2, "batch": 2, **options}
        settings = RunSettings(
            data=tmp_path / "data",
            out=tmp_path / "run",
            generator=GeneratorSettings(**options),
            reconstruct=ReconstructSettings(steps=2),
        )
        run = RunFolder(settings)
        if not run.done("align"):
            embeddings = rng.standard_normal((24, width)).astype(np.float32)
            train = np.arange(24) < 20
            run.save_arrays("align/embeddings.npz", ids=images.ids, embeddings=embeddings, train=train)
            run.finish("align")
        return run

    return open_run


def draw(run):
    """Two pictures, as the next stage draws them."""
    generator, conditioner = load_generator(run)
    with torch.no_grad():
        condition = conditioner(torch.from_numpy(run.load_arrays("align/embeddings.npz")["embeddings"][:2]))
    return generator.sample(condition, conditioner.null.detach(), seeds=[0, 1], steps=2, guidance=2.0)


def test_the_gate_refuses_an_adapter_that_has_learnt_nothing_and_may_be_tried_again(aligned, capsys):
    with pytest.raises(UserError, match=r"of 6 training images .* chance 0\.50.*oracle_two_way = 0\.7.*adapter_steps"):
        adapter(aligned(kind="stable-diffusion"))
    run = aligned(kind="stable-diffusion", oracle_two_way=0.0)
    assert not run.done("adapter")
    assert json.loads((run / REFUSED).read_text())["images"] == 6

    checkpoint = next((run / "checkpoints" / "adapter").iterdir())
    before = (run / "adapter" / "adapter.safetensors").read_bytes()
    torch.manual_seed(123)
    adapter(run)
    assert (run / "adapter" / "adapter.safetensors").read_bytes() == before, "trained once"
    assert not checkpoint.exists()
    assert not (run / REFUSED).exists()
    facts = run.facts("adapter")
    assert "safety checker" in facts["licence"]
    assert facts["licence"] in capsys.readouterr().out
    assert facts["images"] == 14, "six of twenty are kept from it"
    assert set(facts["oracle"]) == {"two_way", "diversity", "images", "judge", "threshold"}
    assert facts["oracle"]["diversity"] > 0
    assert draw(run).shape == (2, 3, 16, 16)
    with pytest.raises(UserError, match=r"another 'generator\.adapter_steps'"):
        aligned(kind="stable-diffusion", oracle_two_way=0.0, adapter_steps=3)


def test_an_ip_adapter_is_measured_and_used_as_it_is(aligned):
    run = aligned(kind="ip-adapter", oracle_two_way=0.0)
    adapter(run)
    facts = run.facts("adapter")
    assert facts["images"] == 0
    assert facts["oracle"]["images"] == 6
    assert draw(run).shape == (2, 3, 16, 16)
    assert not (run / "checkpoints").exists()


def test_an_ip_adapter_needs_its_own_image_encoder(aligned):
    with pytest.raises(UserError, match=r"takes image embeddings of 32 numbers and image\.encoder gives 48"):
        adapter(aligned(kind="ip-adapter", width=48))


def test_the_gate_needs_two_images(aligned):
    with pytest.raises(UserError, match=r"oracle_images is 1"):
        adapter(aligned(kind="ip-adapter", oracle_images=1))


def test_the_examples_of_the_documentation_are_options():
    blocks = DOCS.read_text().split("```yaml\n")[1:]
    kinds = set()
    for block in blocks:
        options = yaml.safe_load(block.split("```")[0])
        kinds.add(GeneratorSettings(**options["generator"]).kind)
        ReconstructSettings(**options["reconstruct"])
        assert set(options) <= {"image", "generator", "reconstruct", "precision"}
    assert kinds == {"stable-diffusion", "ip-adapter"}
