"""Units of a new session: carried over by name, checked without labels, or begun at the prior."""

import json
import shutil

import numpy as np
import torch
import yaml
from safetensors.numpy import load_file

from neurobridge.cli import main
from neurobridge.neuro.model import NeuroBridge
from neurobridge.neuro.prior import UnitPrior
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.new_units import carried_vectors, starts
from neurobridge.pipeline.spikes import add_units, held_out_sessions, make_batcher, make_masker

MODEL = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}


def pretrained(config, out, **adapt) -> RunFolder:
    path = config(model=MODEL, adapt={"steps": 0, **adapt})
    for stage in ("pretrain", "adapt"):
        assert main([stage, "--config", str(path), "--out", str(out)]) == 0
    return RunFolder.existing(out)


def test_vectors_are_carried_over_by_subject_and_name_alone(tiny_config, tmp_path):
    run = pretrained(tiny_config, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "adapt" / "done.json").read_text())["units"]["monkeyB_2"]
    session = held_out_sessions(run.settings)[0]
    model = NeuroBridge.load(run / "pretrain")
    vectors, found = carried_vectors(model, session)
    assert found.any()
    assert facts["carried"] + facts["others"] == found.sum()
    assert facts["new"] == (~found).sum()
    for n in np.flatnonzero(found)[:3]:
        dataset, subject, _, unit = session.recording.unit_keys[n].split("/")
        rows = [
            r
            for r, k in enumerate(model.units.keys)
            if k.startswith(f"{dataset}/{subject}/") and k.endswith(f"/{unit}")
        ]
        torch.testing.assert_close(vectors[n], model.units(torch.tensor(rows)).mean(0))
    after = load_file(run / "adapt" / "model.safetensors")["units.embedding"][len(model.units) :]
    prior = UnitPrior.load(run / "pretrain").means(session.recording.regions.tolist()).numpy()
    dataset = model.units.dataset.detach().numpy()[0]
    carried = np.abs(after + dataset - prior).max(1) > 1e-5
    assert carried.sum() == facts["carried"]


def test_a_unit_that_fires_otherwise_is_not_carried_over(tiny_config, tmp_path):
    """Vectors that foretell the opposite of what a unit does lose against the prior; its own do not."""
    run = pretrained(tiny_config, tmp_path / "run")
    session = held_out_sessions(run.settings)[0]
    model, prior = NeuroBridge.load(run / "pretrain").eval(), UnitPrior.load(run / "pretrain")
    add_units(model, [session], run.settings)
    with torch.no_grad():
        model.decoder.unit_vector.weight[:] = 0
        model.decoder.unit_vector.bias[:] = 0
        model.decoder.unit_vector.weight[0, 0] = 1  # the first number of a vector says how it follows the state
    batcher, masker = make_batcher(model, [session], run.settings), make_masker(run.settings)
    prior.areas, prior.mean = {}, torch.zeros_like(prior.mean)
    wild = torch.zeros(session.units, 8)
    wild[:, 0] = 300.0 * (torch.arange(session.units) % 2)  # every second unit is said to do what nobody does
    every = np.ones(session.units, dtype=bool)
    base, carried, facts = starts(model, prior, batcher, 0, masker, carried=(wild, every), how="carried", seed=0)
    kept = base[:, 0] != 0
    assert not kept.any()
    assert facts["others"] >= session.units // 2 - 1
    again, none, told = starts(model, prior, batcher, 0, masker, carried=(wild, every), how="prior", seed=0)
    assert told == {"carried": 0, "others": 0, "new": session.units}
    assert (again == 0).all()
    assert not carried[1::2].any(), "those that were given up"
    assert not none.any()


def test_few_labels_move_a_carried_unit_less_than_many_and_none_not_at_all(tiny_config, tmp_path):
    run = pretrained(tiny_config, tmp_path / "run")
    start = NeuroBridge.load(run / "adapt").units
    session = held_out_sessions(run.settings)[0]
    rows = start.rows_of(session.recording.unit_keys)
    prior = UnitPrior.load(run / "pretrain").means(session.recording.regions.tolist())
    begun = start(torch.tensor(rows)).detach()
    carried = (begun - prior).abs().amax(1) > 1e-5
    assert carried.any()
    assert not carried.all()
    moved = {}
    for labels in (0, 10, None):
        out = tmp_path / f"labels{labels}"
        options = ["--labels", str(labels)] if labels is not None else []
        command = ["adapt", str(run.path), "--out", str(out), "--sessions", "[monkeyB_2]", "--steps", "4", *options]
        assert main(command) == 0
        units = NeuroBridge.load(out / "adapt").units
        moved[labels] = (units(torch.tensor(units.rows_of(session.recording.unit_keys))).detach() - begun).norm(dim=1)
    assert float(moved[0][carried].max()) == 0
    assert float(moved[0][~carried].min()) > 0
    assert 0 < float(moved[10][carried].mean()) < 0.7 * float(moved[None][carried].mean())


def test_a_session_that_came_after_the_run(tiny_config, tmp_path, capsys):
    """Taken away before the run is made, adapted by 'adapt RUN' afterwards; the run stays as it is."""
    path = tiny_config(model=MODEL)
    config = yaml.safe_load(path.read_text())
    data, later = tmp_path / "data", tmp_path / "later"
    shutil.copytree(config["data"], data)
    (later / "sessions").mkdir(parents=True)
    (data / "sessions" / "monkeyB_2.h5").rename(later / "sessions" / "monkeyB_2.h5")
    shutil.copy(data / "images.h5", later / "images.h5")
    path.write_text(yaml.safe_dump(config | {"data": str(data), "held_out": []}))
    run = tmp_path / "run"
    assert main(["pretrain", "--config", str(path), "--out", str(run)]) == 0
    before = (run / "pretrain" / "model.safetensors").read_bytes()
    command = ["adapt", str(run), "--data", str(later), "--labels", "5", "--steps", "4", "--sessions"]
    assert main([*command, "[monkeyB_9]"]) == 2
    assert "session 'monkeyB_9' is not in" in capsys.readouterr().err
    assert main(["adapt", str(run), "--data", str(later), "--steps", "-4", "--sessions", "[monkeyB_2]"]) == 2
    assert "adapt.steps is -4: give 0 or more" in capsys.readouterr().err
    assert not (run / "later").exists()
    assert main([*command, "[monkeyB_2]"]) == 0
    assert "units carried over" in capsys.readouterr().out
    assert (run / "pretrain" / "model.safetensors").read_bytes() == before
    adapted = NeuroBridge.load(run / "later" / "monkeyB_2" / "adapt")
    known = NeuroBridge.load(run / "pretrain")
    assert set(adapted.units.keys) - set(known.units.keys)
    assert main([*command, "[monkeyB_2]"]) == 0
    assert "done before" in capsys.readouterr().out
