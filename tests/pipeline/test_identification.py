"""Ranks, the likelihood's weight, layers of areas, both directions and averaged repeats, where answers are known."""

import json

import numpy as np

from neurobridge.baselines.linear_encoding import LinearEncoding
from neurobridge.bridge.response_noise import ResponseNoise
from neurobridge.evaluation.report import Table, write_report
from neurobridge.evaluation.similarity import unit
from neurobridge.pipeline.decoding import Decoded, Presentations, Split, one_by_one
from neurobridge.pipeline.encodings import closed_forms
from neurobridge.pipeline.identification import (
    BOTH,
    DECODING,
    DRAW,
    ENCODING,
    HELPED,
    RIDGE,
    WINDOWED,
    Evidence,
    best_weight,
    both_ways,
    closed_encoding,
    combine,
    layer_by_area,
    rank,
    rows_of,
    stacked_encoding,
)
from neurobridge.pipeline.identification_report import identification
from neurobridge.pipeline.image_data import StackFeatures
from neurobridge.pipeline.joint_encoding import SessionEncoding
from neurobridge.pipeline.pictures import cosine
from neurobridge.pipeline.repeats import by_repeats


def test_ranks_count_the_wrong_entries_and_ties_lose() -> None:
    np.testing.assert_array_equal(rank(np.array([[3.0, 1, 2], [5, 5, 1], [9, 8, 7]])), [0, 1, 2])


def test_the_better_evidence_gets_the_weight() -> None:
    rng = np.random.default_rng(0)
    good, noise = 5 * np.eye(40) + rng.normal(size=(40, 40)), rng.normal(size=(40, 40))
    assert best_weight(noise, good) >= 0.7
    assert best_weight(good, noise) <= 0.3
    np.testing.assert_array_equal(rank(combine(good, noise, 0.0)), rank(good))
    np.testing.assert_array_equal(rank(combine(good, noise, 1.0)), rank(noise))


def test_models_are_combined_unit_by_unit_on_validation_images_alone() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(120, 4))
    responses = truth + 0.1 * rng.normal(size=truth.shape) + 5
    first, second = truth + 5, rng.normal(size=truth.shape) + 5
    first[:, 3], second[:, 3] = second[:, 3].copy(), first[:, 3].copy()
    valid = Split(
        images=np.arange(80), decoded=truth[:80], responses=responses[:80], single=truth[:80], repeats=1.0,
        presentations=None,
    )  # fmt: skip
    decoded = Decoded(
        session="s", areas=np.array(["V4"] * 4), encoding=None, valid=valid, test=valid, train_images=np.arange(80),
        train_responses=responses[:80],
    )  # fmt: skip
    parts = [closed_encoding(decoded, expected) for expected in (first, second)]
    encoding = stacked_encoding(decoded, parts)
    assert encoding.r2.min() > 0.9
    scores = encoding.log_likelihood(responses[80:], np.arange(80, 120), repeats=1.0)
    assert (rank(scores) == 0).mean() > 0.9


def test_an_average_scatters_less_and_is_no_better_understood() -> None:
    """A model that is wrong by 1 about every image, presentations that scatter by 2; validation averages 2 of them."""
    rng = np.random.default_rng(4)
    images, units, repeats = 4000, 3, 2
    wrong = rng.normal(size=(images, units))
    single = wrong[:, None] + 2 * rng.normal(size=(images, repeats, units))
    noise = ResponseNoise.of(single.mean(1), repeats=float(repeats), differences=single[:, 0] - single[:, 1])
    for count, variance in ((1.0, 1 + 4), (2.0, 1 + 2), (20.0, 1 + 0.2)):
        np.testing.assert_allclose(np.diag(noise.covariance(count)), variance, rtol=0.15)
    assert (np.linalg.eigvalsh(noise.model) > 0).all()


def test_silent_sessions_have_a_noise_too() -> None:
    """Residuals that are zero, or the rounding of a mean, once made a covariance that could not be inverted."""
    rng = np.random.default_rng(5)
    for residual in (np.zeros((9, 4)), np.full((9, 4), 1e-17), rng.normal(size=(9, 4)) * [1, 0, 1e-16, 1]):
        for differences in (None, residual[:5]):
            noise = ResponseNoise.of(residual, repeats=2.0, differences=differences)
            scores = noise.log_likelihood(np.zeros((2, 4)), np.zeros((3, 4)), repeats=2.0)
            assert np.isfinite(scores).all()


def test_of_many_training_images_the_windowed_rival_sees_some_and_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr("neurobridge.pipeline.closed_form.MOST_ROWS", 30)
    rng = np.random.default_rng(6)
    features = StackFeatures(layers=[rng.normal(size=(80, 6)).astype(np.float16)], grids=[0])
    responses = features.layers[0].astype(float) @ rng.normal(size=(6, 4)) + 0.1 * rng.normal(size=(80, 4))
    train = np.arange(20, 80)
    part = Split(
        images=np.arange(20), decoded=unit(rng.normal(size=(20, 8))), responses=responses[:20],
        single=unit(rng.normal(size=(20, 8))), repeats=1.0, presentations=None,
    )  # fmt: skip
    decoded = Decoded(
        session="s", areas=np.array(["V4"] * 4), encoding=None, valid=part, test=part, train_images=train,
        train_responses=responses[train],
    )  # fmt: skip
    closed = closed_forms([decoded], features)["s"]
    said = " ".join(capsys.readouterr().out.split())
    assert "session s: the windowed encoding is fitted to 30 of its 60 training images" in said
    assert closed.fitted == 30
    assert len(closed.stacked.out_of_fold) == 60
    assert np.corrcoef(closed.windowed[:20].ravel(), responses[:20].ravel())[0, 1] > 0.95
    one = Evidence(
        decoded=decoded, targets=rng.normal(size=(80, 8)), embeddings=rng.normal(size=(80, 5)),
        encoding=closed_encoding(decoded, closed.windowed), share=0.5, ridge=lambda r: rng.normal(size=(len(r), 8)),
    )  # fmt: skip
    rows = rows_of(one, features, closed, seed=0)
    assert {r["method"] for r in rows if "fitted" in r} == {WINDOWED, HELPED}
    note = next(block.note for block in identification({"retrieval": rows}) if isinstance(block, Table))
    assert "In session s windowed encoding was fitted to 30 of 60 training images" in note


def test_each_area_finds_its_layer_as_if_its_units_had_been_fitted_alone() -> None:
    rng = np.random.default_rng(2)
    layers = {"early": rng.normal(size=(200, 6)), "late": rng.normal(size=(200, 6))}
    responses = np.hstack([layers[name] @ rng.normal(size=(6, 8)) for name in ("late", "early")])
    responses += 0.3 * rng.normal(size=responses.shape)
    areas = np.array(["IT"] * 8 + ["V1"] * 8)
    train, valid = np.arange(150), np.arange(150, 200)
    both = LinearEncoding().fit([features[train] for features in layers.values()], responses[train])
    table = layer_by_area(
        dict(zip(layers, both.layers, strict=True)),
        {name: features[valid] for name, features in layers.items()},
        areas,
        responses[train],
        responses[valid],
    )
    assert table["IT"]["late"] > table["IT"]["early"]
    assert table["V1"]["early"] > table["V1"]["late"]
    for area, row in table.items():
        units = areas == area
        for name, features in layers.items():
            alone = LinearEncoding().fit(features[train], responses[train][:, units])
            scores = alone.log_likelihood(responses[valid][:, units], features[valid])
            assert row[name] == (rank(scores) == 0).mean()


def evidence(images: int, *, noise: float, repeats: int = 1, seed: int = 3) -> Evidence:
    """Unit-length targets; decoded from responses that are the targets themselves and noise, of 8 dimensions."""
    rng = np.random.default_rng(seed)
    targets = unit(rng.normal(size=(images + 40, 8)))
    rows = {"valid": np.arange(20), "train": np.arange(20, 40), "test": np.arange(40, images + 40)}

    def split(shown: np.ndarray) -> Split:
        single = targets[shown][:, None] + noise * rng.normal(size=(len(shown), repeats, 8))
        one_by_one = Presentations(decoded=single, responses=single) if repeats > 1 else None
        mean = single.mean(1)
        return Split(
            images=shown,
            decoded=mean,
            responses=mean,
            single=single[:, 0],
            repeats=float(repeats),
            presentations=one_by_one,
        )

    train = targets[rows["train"]] + noise * rng.normal(size=(20, 8))
    decoded = Decoded(
        session="s", areas=np.array(["V4"] * 8), encoding=None, valid=split(rows["valid"]), test=split(rows["test"]),
        train_images=rows["train"], train_responses=train,
    )  # fmt: skip
    residual = ResponseNoise.of(train - targets[rows["train"]], repeats=1.0, differences=None)
    encoding = SessionEncoding(expected=targets, noise=residual, r2=train, offset=0 * train[0])
    spoilt = noise * rng.normal(size=(1, 8))
    return Evidence(
        decoded=decoded, targets=targets, embeddings=targets, encoding=encoding, share=0.5, ridge=lambda x: x + spoilt
    )


def test_the_whole_gallery_is_searched_both_ways_while_it_is_small() -> None:
    rows = both_ways(evidence(50, noise=0.4), seed=0)
    assert [row["method"] for row in rows] == [DECODING, f"{DECODING} one presentation", RIDGE]
    one = rows[0]
    assert (one["images"], one["gallery"], one["chance_top1"], one["chance_top5"]) == (50, 50, 0.02, 0.1)
    assert "draws" not in one
    scores = cosine(evidence(50, noise=0.4).decoded.test.decoded, evidence(50, noise=0.15).targets[40:])
    assert one["top1"][0] == (rank(scores) == 0).mean()
    assert one["backward_top5"][0] == (rank(scores.T) < 5).mean()
    assert one["top1"][1] < one["top1"][0] < one["top1"][2]


def test_a_large_gallery_is_drawn_from() -> None:
    rows = both_ways(evidence(DRAW + 20, noise=0.15), seed=0)
    assert {(row["images"], row["gallery"], row["draws"]) for row in rows} == {(DRAW + 20, DRAW, 30)}
    assert rows[0]["chance_top1"] == 1 / DRAW
    assert 0.1 < rows[2]["top1"] < rows[0]["top1"] < 1
    json.dumps(rows)


def test_more_presentations_identify_more_images() -> None:
    rows = by_repeats(evidence(40, noise=0.5, repeats=6), seed=0)
    json.dumps(rows)
    for method in (DECODING, ENCODING, BOTH):
        mine = [row for row in rows if row["method"] == method]
        assert [row["repeats"] for row in mine] == [1, 2, 4, 6]
        assert [row["retest"] is None for row in mine] == [False, False, True, True]
        for key in ("ceiling", "top1"):
            scores = [row[key] for row in mine]
            assert scores == sorted(scores)
    whole = evidence(40, noise=0.5, repeats=6)
    test = whole.decoded.test
    last = next(row for row in rows if row["method"] == BOTH and row["repeats"] == 6)
    assert last["top1"][0] == (rank(whole.by_both(test.decoded, test.responses, test.repeats)) == 0).mean()


def test_averaged_recordings_say_nothing_of_repeats() -> None:
    assert by_repeats(evidence(40, noise=0.5), seed=0) == []
    shown = np.array([7, 3, 7, 3, 3, 9])
    values = np.arange(6.0)[:, None]
    assert one_by_one(values, values, shown) is None  # image 9 was shown once
    some = one_by_one(values[:5], values[:5] + 10, shown[:5])
    np.testing.assert_array_equal(some.decoded[..., 0], [[1, 3], [0, 2]])
    np.testing.assert_array_equal(some.responses[..., 0], [[11, 13], [10, 12]])


def test_the_report_shows_what_was_scored_and_no_more(tmp_path) -> None:
    one = evidence(40, noise=0.5, repeats=4)
    bar = {"top1": [0.5, 0.4, 0.6], "top5": [0.7, 0.6, 0.8], "chance_top1": 0.025, "chance_top5": 0.125}
    old = {"retrieval": [{"session": "s", "method": DECODING, "gallery": 40, "repeats": 4.0, **bar}]}
    assert len(identification(old)) == 2
    top1 = {"block2@8": 0.25, "block4@8": 0.5, "pooled": 0.5}
    new = {
        "both_ways": [*both_ways(one, seed=0), *both_ways(evidence(DRAW + 1, noise=0.5), seed=0)],
        "repeats": by_repeats(one, seed=0),
        "layers": [{"session": "s", "area": "V4", "units": 8, "images": 20, "top1": top1}],
    }
    blocks = identification(json.loads(json.dumps(old | new)))
    page = write_report(tmp_path / "page.html", title="t", blocks=blocks).read_text()
    for text in ("Retrieval in both directions", "30 random galleries of 300 out of 301", "retest", "block4@8, pooled"):
        assert text in page
