"""Analyses of a run folder: on a small simulated brain, through the command line; each number against a plain way."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from neurobridge.baselines.ridge import RidgeDecoder
from neurobridge.cli import main
from neurobridge.data.images import ImageSet
from neurobridge.data.simulate import simulate
from neurobridge.errors import UserError
from neurobridge.evaluation.report import write_report
from neurobridge.evaluation.spikes import bits_per_spike
from neurobridge.pipeline.alignment import predict_windows
from neurobridge.pipeline.analyses import areas, drift, label_number, retention, time_course, unit_number
from neurobridge.pipeline.analyses.material import Material, mean_by_image
from neurobridge.pipeline.analyses.model import PartBatcher
from neurobridge.pipeline.analyses.questions import Questions, two_way
from neurobridge.pipeline.folder import RunFolder, write_config
from neurobridge.pipeline.identification import BOTH, DECODING, RIDGE
from neurobridge.pipeline.joint_encoding import average_by_image, responses
from neurobridge.pipeline.reporting import analyses
from neurobridge.pipeline.spike_scores import masked_scores
from neurobridge.pipeline.spikes import make_batcher

CONFIG = {
    "held_out": ["monkeyB_2"],
    "model": {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8},
    "pretrain": {"steps": 4, "windows": 16, "groups": 2, "checkpoint_every": 4},
    "adapt": {"steps": 2, "windows": 16, "checkpoint_every": 2},
    "image": {"layer": "block2", "resolution": 64, "dimensions": 20},
    "align": {
        "steps": 4, "joint_steps": 2, "windows": 16, "queries": 2, "hidden": 16, "checkpoint_every": 4
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def aligned(tmp_path_factory) -> Path:
    """A run folder up to the align stage; two animals with two sessions each, some 30 units in three areas."""
    scratch = tmp_path_factory.mktemp("analyses")
    sizes = {"images": 70, "test_images": 8, "test_repeats": 4, "valid_images": 6, "sessions": 2, "electrodes": 40}
    data = simulate(scratch / "data", seed=3, **sizes)
    config = scratch / "config.yaml"
    config.write_text(yaml.safe_dump({"data": str(data), **CONFIG}))
    for stage in ("pretrain", "adapt", "align"):
        assert main([stage, "--config", str(config), "--out", str(scratch / "run")]) == 0
    return scratch / "run"


@pytest.fixture(scope="module")
def material(aligned) -> Material:
    return Material.of(RunFolder.existing(aligned), label="category", split="test", repeats=2, seed=0)


def asked(run: Path, name: str, *options: str) -> dict:
    """The result of a command; its figure is there."""
    assert main(["analyse", name, str(run), *options]) == 0
    assert (run / "analyses" / f"{name}.png").stat().st_size > 10_000
    result = json.loads((run / "analyses" / f"{name}.json").read_text())
    for row in result.get("rows", []):
        assert row["low"] <= row["mean"] <= row["high"]
    return result


def test_areas_are_matched_and_added_and_asked_of_the_model_too(aligned):
    result = asked(aligned, "areas", "--draws", "2", "--repeats", "2")
    rows = {(r["source"], r["group"], r["areas"], r["score"]): r for r in result["rows"]}
    matched = [r["units"] for key, r in rows.items() if key[1] in (areas.MATCHED, areas.ANY)]
    smallest = np.mean([min(units.values()) for units in result["units"].values()])
    assert set(matched) == {smallest}
    assert ("model", areas.MATCHED, "IT", "identification") in rows
    assert ("model", areas.MATCHED, "IT", "category") not in rows
    for source, score in (("linear", "category"), ("linear", "detail"), ("model", "identification")):
        chain = [rows[source, group, label, score]["mean"] for group, label in (
            (areas.ADDED, "V1 + V4 + IT"), (areas.REVERSED, "IT + V4 + V1"), (areas.ALL, "all"))]  # fmt: skip
        assert chain[0] == chain[1] == chain[2]
        assert rows[source, areas.ADDED, "V1", score]["mean"] == rows[source, areas.ALONE, "V1", score]["mean"]
    gaps = {(d["source"], d["areas"], d["minus"], d["score"]): d for d in result["differences"]}
    plain = (
        rows["linear", areas.MATCHED, "IT", "detail"]["mean"] - rows["linear", areas.MATCHED, "V1", "detail"]["mean"]
    )
    assert gaps["linear", "IT", "V1", "detail"]["mean"] == pytest.approx(plain, abs=1e-6)
    assert rows["linear", areas.SHUFFLED, "all", "identification"]["sessions"] == 4


def test_an_interrupted_analysis_goes_on_with_the_parts_it_has(aligned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(aligned, run)
    first = asked(run, "areas", "--draws", "1")
    parts = sorted((run / "analyses" / "areas").glob("*.json"))
    parts[0].unlink()
    marked = json.loads(parts[1].read_text())
    marked["rows"] = [
        {**row, "scores": {q: [1.0] * len(v) for q, v in row["scores"].items()}} for row in marked["rows"]
    ]
    parts[1].write_text(json.dumps(marked))
    second = asked(run, "areas", "--draws", "1")
    assert parts[0].is_file()
    assert second["rows"] != first["rows"], "the part that was there is used as it is"
    parts[1].unlink()
    assert asked(run, "areas", "--draws", "1") == first
    assert asked(run, "areas", "--draws", "2")["options"]["draws"] == 2
    assert not list(run.rglob("*.part"))


def test_a_window_holds_its_own_counts_and_nothing_else(material):
    counts = np.random.default_rng(0).poisson(1.0, (3, 2, 7))
    plain = np.stack([counts[:, :, at : at + 3].sum(-1) for at in range(5)], -1)
    np.testing.assert_array_equal(time_course.sliding(counts, 3), plain)
    session = material.sessions[0]
    seen = material.seen(session)
    binned = mean_by_image(session, seen.rows, lambda rows: session.binned(rows, 10))
    images, whole = average_by_image(responses(session, seen.rows), session.image_row[seen.rows])
    np.testing.assert_allclose(binned[:, :, 3:28].sum(-1), whole, rtol=1e-5)
    np.testing.assert_array_equal(images, seen.images)
    assert len(seen.rows) == 2 * len(images)


def test_time_map_has_every_area_and_window(aligned):
    result = asked(aligned, "time", "--width_ms", "100", "--step_ms", "50")
    centres = {row["centre_ms"] for row in result["rows"]}
    assert centres == {50, 100, 150, 200, 250}
    assert {row["area"] for row in result["rows"]} == {"V1", "V4", "IT", "all areas"}
    assert all(peak["low"] <= peak["high"] and peak["peak_ms"] in centres for peak in result["peaks"])


def test_the_best_window_is_found():
    rng = np.random.default_rng(0)
    part = [
        {
            "area": "V1",
            "centre_ms": c,
            "images": list(range(9)),
            "scores": {"q": (rng.random(9) * 0.1 + (c == 75)).tolist()},
        }
        for c in (65.0, 75.0, 85.0)
    ]
    assert time_course.peaks({"s": part}, 0) == [
        {"area": "V1", "score": "q", "peak_ms": 75.0, "low": 75.0, "high": 75.0}
    ]


def test_unit_curves_end_with_all_units(aligned, material):
    assert unit_number.sizes(40, 5) == [5, 10, 20]
    assert unit_number.sizes(4, 5) == []
    result = asked(aligned, "units", "--draws", "1")
    whole = {(r["source"], r["area"]): r for r in result["rows"] if r["size"] == unit_number.WHOLE}
    assert set(whole) == {("linear", a) for a in ("V1", "V4", "IT", "all areas")} | {("model", "all areas")}
    assert whole["model", "all areas"]["units"] == np.mean([s.units for s in material.sessions])


def test_retention_carries_readouts_over_and_shows_what_is_forgotten(aligned, material):
    result = asked(aligned, "retention")
    assert {(r["fitted"], r["tested"]) for r in result["rows"]} == {
        (f"monkey{a}_{i}", f"monkey{a}_{3 - i}") for a in "AB" for i in (1, 2)
    }
    assert {(r["source"], r["readout"]) for r in result["rows"]} == {
        (source, readout) for source in ("linear", "model") for readout in (retention.TRANSFERRED, retention.OWN)
    }
    session = material.sessions[0]
    batcher = make_batcher(material.model.model, [session], material.run.settings)
    found = {r["mode"]: r["after"][0] for r in result["forgetting"] if r["session"] == session.name}
    plain = masked_scores(material.model.model, batcher, 0, list(found))
    assert found == pytest.approx(plain, abs=1e-4)


def test_gain_is_bits_per_spike():
    rng = np.random.default_rng(1)
    truth, rates, scored = rng.poisson(0.4, (6, 3, 5)), rng.random((6, 3, 5)) + 0.1, rng.random((6, 3, 5)) < 0.7
    gains, spikes = retention.gain(rates, truth, scored, False)
    assert gains.sum() / spikes.sum() == pytest.approx(bits_per_spike(rates, truth, scored))
    before, after, change = retention.ratio_intervals(gains, spikes, gains + 0.5 * spikes, 0)
    assert change == pytest.approx((0.5, 0.5, 0.5))
    assert after.mean - before.mean == pytest.approx(0.5)


def test_shared_units_go_by_name(material):
    first = material.sessions[0]
    for other, theirs, ours in retention.partners(first, material.sessions):
        assert other.recording.subject == first.recording.subject
        np.testing.assert_array_equal(other.recording.unit_ids[theirs], first.recording.unit_ids[ours])


def test_drift_scores_blocks_and_sessions(aligned):
    result = asked(aligned, "drift", "--blocks", "3")
    assert {row["block"] for row in result["within"]} == {0, 1, 2}
    assert {(r["source"], r["fit"]) for r in result["within"]} == {
        ("linear", drift.EARLY), ("linear", drift.SPREAD), ("model", drift.WHOLE)
    }  # fmt: skip
    minutes = [r["minutes"] for r in result["within"] if r["fit"] == drift.EARLY and r["score"] == "detail"]
    assert minutes == sorted(minutes)
    number = {r["session"]: (r["number"], r["role"]) for r in result["number"]}
    assert number["monkeyA_2"] == (2, "pretrained")
    assert number["monkeyB_2"] == (2, "held out")


def test_a_part_of_the_units_is_all_that_the_model_is_given(material):
    session, model = material.sessions[1], material.model
    rows = session.rows("test")[:5]
    columns = np.arange(0, session.units, 2)
    keep = np.isin(np.arange(session.units), columns)
    part = PartBatcher(session, unit_rows=list(range(session.units)), bin_ms=10, keep=keep)
    batch = part.batch([(0, rows)])
    assert keep[batch.event_unit.numpy()].all()
    np.testing.assert_array_equal(batch.unit_mask[0].numpy(), keep)
    whole = make_batcher(model.model, [session], material.run.settings)
    every = model.predict(session, rows, np.arange(session.units))
    np.testing.assert_allclose(every, predict_windows(model.model, model.head, whole, 0, rows), atol=1e-6)
    assert not np.allclose(every, model.predict(session, rows, columns))


def test_questions_are_answered_by_responses_that_hold_the_answer():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (260, 4, 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    category = rng.choice(["cat", "dog", "owl"], 260)
    images = ImageSet.from_pixels(pixels, labels={"category": category})
    embeddings, train = rng.normal(size=(260, 6)), np.arange(260) < 220
    questions = Questions(images, embeddings, train, label="category")
    assert questions.names == ["identification", "category", "detail"]
    fit, test = np.flatnonzero(train), np.flatnonzero(~train)
    flat = images.pixels[:, ::4, ::4].reshape(260, -1) / 255.0
    holds = {
        "identification": embeddings,
        "category": (images.labels["category"][:, None] == np.array(["cat", "dog", "owl"])).astype(float),
        "detail": flat,
    }
    for name, x in holds.items():
        x = x + 0.01 * rng.normal(size=x.shape)
        scores = questions.ask(x[fit], fit, x[test], test, test)
        assert scores[name].mean() > 0.9, name
        for other in set(holds) - {name}:
            assert abs(scores[other].mean() - questions.chance(test)[other]) < 0.2, (name, other)
    np.testing.assert_allclose(questions.detail.reshape(260, 3, -1).mean(2), 0, atol=1e-5)
    assert Questions(images, embeddings, train, label="nothing of that name").names == ["identification", "detail"]


def test_two_way_is_the_share_of_wrong_images_further_away():
    gallery = np.eye(4)
    predicted = np.array([[1.0, 0.5, 0.2, 0.0], [1.0, 0.5, 0.2, 0.0]])
    np.testing.assert_allclose(two_way(predicted, gallery, np.array([0, 2])), [1.0, 1 / 3])


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["areas", "nowhere"], "holds no run"),
        (["time", "RUN", "--width_ms", "25"], "multiple of the step"),
        (["units", "RUN", "--smallest", "0"], "--smallest is 0"),
        (["drift", "RUN", "--blocks", "1"], "--blocks is 1"),
        (["areas", "RUN", "--draws", "0"], "--draws is 0"),
        (["units", "RUN", "--draws", "-1"], "--draws is -1"),
        (["time", "RUN", "--step_ms", "0"], "--step_ms is 0"),
        (["retention", "RUN", "--seed", "-1"], "--seed is -1"),
        (["areas", "RUN", "--repeats", "0"], "--repeats is 0"),
    ],
)
def test_bad_input_is_one_sentence(aligned, command, sentence, capsys):
    assert main(["analyse", *[str(aligned) if word == "RUN" else word for word in command]]) == 2
    assert sentence in capsys.readouterr().err


def test_a_foreign_configuration_is_one_sentence(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("data: somewhere\nlearning: fast\n")
    assert main(["analyse", "areas", str(tmp_path)]) == 2
    assert "config.yaml is spoilt" in capsys.readouterr().err


def test_the_report_shows_what_there_is(aligned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(aligned, run, ignore=shutil.ignore_patterns("analyses"))
    assert analyses(RunFolder.existing(run)) == []
    asked(run, "areas", "--draws", "1")
    shown = analyses(RunFolder.existing(run))
    assert [type(block).__name__ for block in shown] == ["Figure", "Table", "Table"]
    page = write_report(run / "page.html", title="t", blocks=shown).read_text()
    assert "any area, matched" in page


def test_a_spoilt_analysis_is_one_sentence(aligned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(aligned, run)
    (run / "analyses").mkdir(exist_ok=True)
    (run / "analyses" / "areas.json").write_text("{}}")
    with pytest.raises(UserError, match=r"areas.json is not a readable analysis.*analyse areas"):
        analyses(RunFolder.existing(run))


def test_without_a_model_the_linear_rows_stand_alone(aligned, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(aligned / "config.yaml", run / "config.yaml")
    result = asked(run, "areas", "--draws", "1")
    assert {row["source"] for row in result["rows"]} == {"linear"}
    assert asked(run, "retention")["forgetting"] == []


def test_labels_beside_ridge_of_the_same_images_and_without_any(aligned):
    result = asked(aligned, "labels", "--counts", "[0, 20]", "--draws", "1", "--steps", "1")
    found = {(r["method"], r["labels"]): r["mean"] for r in result["rows"]}
    assert {k for _, k in found} == {0, 20, label_number.EVERY}
    assert {m for m, k in found if k == 0} == {DECODING, BOTH, label_number.CARRIED}
    assert {m for m, k in found if k == 20} == {DECODING, BOTH, RIDGE}

    new = label_number.NewSessions(RunFolder.existing(aligned), 1)
    [session] = new.sessions
    rows = session.shown("train")
    images, x = average_by_image(responses(session, rows), session.image_row[rows])
    test_images, y = average_by_image(
        responses(session, session.shown("test")), session.image_row[session.shown("test")]
    )
    ridge = RidgeDecoder().fit(x, new.data.embeddings[images])
    space = new.bridge.space
    predicted, targets = (
        space(torch.from_numpy(np.float32(z))).numpy() for z in (ridge.predict(y), new.data.embeddings)
    )
    best = (predicted @ targets[test_images].T).argmax(1)
    assert found[RIDGE, label_number.EVERY] == pytest.approx((best == np.arange(len(best))).mean())

    kept = aligned / "analyses" / "labels" / f"{session.name}-20-0.json"
    before = kept.stat().st_mtime_ns
    asked(aligned, "labels", "--counts", "[0, 20]", "--draws", "1", "--steps", "1")
    assert kept.stat().st_mtime_ns == before, "what was computed is read"


def test_labels_are_counted_on_a_session_that_was_held_out(aligned, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(aligned, run)
    options = yaml.safe_load((run / "config.yaml").read_text())
    write_config(replace(RunFolder.existing(run).settings, held_out=[]), run)
    assert options["held_out"]
    assert main(["analyse", "labels", str(run)]) == 2
    assert "held out no session that shows images" in capsys.readouterr().err
