"""What the report shows of units and of reading: right against the recording, and drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from neurobridge.data.simulate import simulate
from neurobridge.evaluation.report import Figure, Table, write_report
from neurobridge.pipeline.commands import run_stages
from neurobridge.pipeline.folder import settings_of
from neurobridge.pipeline.generators import load_images
from neurobridge.pipeline.identification import gather_evidence
from neurobridge.pipeline.pictures import Chosen
from neurobridge.pipeline.scoring import closer
from neurobridge.pipeline.sharpening import sharpening, sharpening_view
from neurobridge.pipeline.unit_views import attention_view, judged, quality, unit_rows, units_view
from neurobridge.pipeline.views import spikes_view


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """A run that is aligned, its chosen session, and what the report shows of it."""
    folder = tmp_path_factory.mktemp("units")
    sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 1, "electrodes": 16}
    data = simulate(folder / "data", seed=3, **sizes)
    settings = settings_of(
        f"""{{data: {data}, out: {folder / "run"}, held_out: [monkeyB_1],
        model: {{width: 16, depth: 1, heads: 2, latents: 2, unit_width: 8}},
        pretrain: {{steps: 4, windows: 16, groups: 1}}, adapt: {{steps: 2, windows: 16}},
        image: {{layer: block2, resolution: 64}},
        align: {{steps: 4, joint_steps: 0, windows: 16, groups: 1, queries: 2, hidden: 16}}}}"""
    )
    run = run_stages(settings, ["pretrain", "adapt", "align"])
    chosen = Chosen.of(run)
    decoded = [chosen.decode(index) for index in chosen.wanted]
    evidence = gather_evidence(run, decoded)[0]
    return run, chosen, decoded, evidence, closer(run, chosen, evidence)


def test_a_row_a_unit_says_what_the_recording_says(looked_at):
    _, chosen, decoded, _, _ = looked_at
    rows = unit_rows(chosen.batcher.sessions, decoded)
    session = chosen.batcher.sessions[chosen.wanted[0]]
    mine = [row for row in rows if row["session"] == "monkeyB_1"]
    assert rows[0]["session"] == "monkeyB_1"
    assert [row["unit"] for row in mine] == session.recording.unit_ids.tolist()
    counts = np.bincount(session.columns, minlength=session.units)
    np.testing.assert_allclose([row["rate"] for row in mine], counts / session.recording.duration[1], atol=1e-3)
    expected = decoded[0].encoding.expected[decoded[0].test.images]
    wanted = np.corrcoef(expected[:, 0], decoded[0].test.responses[:, 0])[0, 1]
    assert mine[0]["correlation"] == pytest.approx(wanted, abs=1e-3)
    assert {row["correlation"] for row in rows if row["session"] == "monkeyA_1"} == {None}
    assert set(quality(session)) == {"rate", "fano", "reliability"}
    assert judged(None) == {}


def test_attention_is_a_share_and_maps_are_where_the_image_matters(looked_at):
    _, chosen, _, _, arrays = looked_at
    assert arrays["attention"].shape == (2, 6)
    np.testing.assert_allclose(arrays["attention"].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(arrays["attention_time"], [25, 75, 125, 175, 225, 275])
    side = chosen.bridge.maps.side
    assert arrays["looking"].shape[1:] == (side, side)
    assert (arrays["looking"] >= 0).all()
    assert arrays["looking"].max() > 0
    assert {"view_rates", "view_time"} <= set(arrays)


def test_more_presentations_change_the_picture_and_its_score(looked_at):
    run, _, decoded, evidence, arrays = looked_at
    assert arrays["sharpening_numbers"].tolist() == [1, 2, 4]
    assert arrays["sharpening"].shape[:2] == (3, 6)
    assert arrays["sharpening_pixcorr"].shape == (3, 8)
    whole = sharpening(evidence, load_images(run), seed=0)
    np.testing.assert_array_equal(whole["sharpening"], arrays["sharpening"])
    assert len(decoded[0].test.images) == 8


def test_everything_is_drawn_small_and_told(looked_at, tmp_path):
    _, chosen, decoded, _, arrays = looked_at
    rows = json.loads(json.dumps(unit_rows(chosen.batcher.sessions, decoded)))
    blocks = [*units_view(rows, arrays), *attention_view(arrays), *sharpening_view(arrays, seed=0)]
    blocks += spikes_view(arrays)
    titles = [block.title for block in blocks]
    for wanted in ("Quality, session by session", "Encoding, unit by unit", "Encoding maps", "Sessions",
                   "Units of monkeyB_1", "Attention over time", "Pictures sharpen with presentations",
                   "PixCorr by presentations", "Spikes and predicted rates"):  # fmt: skip
        assert wanted in titles
    assert all(isinstance(block, Figure | Table) for block in blocks)
    path = write_report(tmp_path / "report.html", title="x", blocks=blocks)
    assert path.stat().st_size < 3e6
    assert units_view([], {}) == attention_view({}) == sharpening_view({}, seed=0) == []
