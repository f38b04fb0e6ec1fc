"""The judges of pictures, and the rows of stage evaluate."""

import json

import numpy as np
import pytest
import torch

from neurobridge.errors import UserError
from neurobridge.evaluation.alexnet import weight_file
from neurobridge.evaluation.images import correlation_distance, sample_diversity, two_way_identification
from neurobridge.evaluation.networks import ALEXNET, MINDEYE2, OFFLINE
from neurobridge.evaluation.report import Table
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.judges import LayerOutput, load_judges, offline_judges
from neurobridge.pipeline.picture_scores import score_images
from neurobridge.pipeline.reporting import judges as judge_blocks
from neurobridge.pipeline.reporting import pictures as picture_blocks
from neurobridge.pipeline.reporting import summary
from neurobridge.training.settings import ImageSettings, RunSettings
from neurobridge.vision.encoders import ImageEncoder, full_name, to_tensor


def pictures(count=5, seed=0):
    small = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")
    return large.permute(0, 2, 3, 1).numpy()


@pytest.fixture
def run(tmp_path):
    settings = RunSettings(data=tmp_path, out=tmp_path / "run", image=ImageSettings(device="cpu"))
    folder = RunFolder(settings)
    target = pictures()
    samples = np.stack([0.7 * target + 0.3 * pictures(seed=s) for s in (1, 2)])
    folder.save_arrays(
        "reconstruct/pictures.npz",
        target=target,
        samples=samples,
        image_rows=np.arange(5),
        explained=np.zeros((2, 5)),
        **{"mean of samples": samples.mean(0), "grey": np.full_like(target, 0.5)},
    )
    return folder


def test_the_recipe_is_the_one_of_the_field():
    recipe = {judge.name: (judge.network, judge.layer, judge.size, judge.metrics) for judge in MINDEYE2}
    assert recipe == {
        "AlexNet(2)": ("alexnet", "features.4", 256, ("two-way",)),
        "AlexNet(5)": ("alexnet", "features.11", 256, ("two-way",)),
        "Inception": ("inception_v3", "avgpool", 342, ("two-way",)),
        "CLIP": ("openai/clip-vit-large-patch14", "projected", 224, ("two-way", "cosine")),
        "EffNet-B": ("efficientnet_b1", "avgpool", 255, ("distance",)),
        "SwAV": ("resnet50", "avgpool", 224, ("distance",)),
    }


def test_a_judge_is_never_the_decoding_target_where_there_is_another():
    assert {judge.network for judge in offline_judges("efficientnet-lite0")} == {"efficientnet-lite1"}
    others = offline_judges("efficientnet-lite1")
    assert {judge.network for judge in others} == {"efficientnet-lite0"}
    assert [judge.name for judge in others] == [f"efficientnet-lite0 {judge.layer}" for judge in OFFLINE]


def test_a_short_name_and_the_judge_of_the_recipe_are_one_network():
    assert full_name("clip-vit-l14") == next(judge.network for judge in MINDEYE2 if judge.name == "CLIP")
    assert full_name("efficientnet-lite1") == OFFLINE[0].network


def test_an_offline_judge_gives_the_features_of_its_layer():
    (evaluator,) = load_judges(OFFLINE[:1], batch_size=2).values()
    assert evaluator.network == "efficientnet-lite1"
    encoder = ImageEncoder("efficientnet-lite1", layer="block4", resolution=128)
    some = (pictures(3) * 255).astype(np.uint8)
    torch.testing.assert_close(
        torch.from_numpy(evaluator.features(some.astype(np.float32) / 255)),
        encoder(to_tensor(some)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_any_network_can_judge_at_any_layer():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(4, 2, 3))
    images = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    before = LayerOutput(network, "0", size=16)(images)
    torch.testing.assert_close(before, network[0](normalised).flatten(1))  # not what the next layer made of it in place
    assert before.min() < 0
    assert LayerOutput(network, "2", size=12)(images).shape == (2, 2 * 8 * 8)


@pytest.mark.parametrize("judge", [MINDEYE2[0], MINDEYE2[-1]], ids=lambda judge: judge.name)
def test_a_judge_that_cannot_be_had_is_named(judge, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(UserError, match=rf"{judge.network}, and torchvision is not installed"):
        load_judges([judge])


def test_every_set_is_scored_by_every_metric_and_every_row_names_its_network(run):
    found = json.loads(json.dumps(score_images(run)))
    rows = {(row["metric"], row["name"]): row for row in found["pictures"]}
    assert {name for _, name in rows} == {"mean of samples", "grey"}
    metrics = list(dict.fromkeys(metric for metric, _ in rows))
    assert metrics == [
        "PixCorr",
        "SSIM",
        "two-way pixels",
        "two-way HOG",
        "two-way efficientnet-lite1 block4",
        "two-way efficientnet-lite1 block10",
        "two-way efficientnet-lite1 pooled",
        "distance efficientnet-lite1 pooled",
    ]
    assert len(rows) == 2 * len(metrics)
    for (metric, _), row in rows.items():
        assert row["network"] == ("efficientnet-lite1" if "lite1" in metric else "")
        assert not row["decoding_target"]
        assert row["items"] == 5
        assert not row["unfit"]
        assert (row["p"] is None) == (metric == "SSIM")

    assert found["judges"] == []  # this run drew no decoys
    arrays = run.load_arrays("reconstruct/pictures.npz")
    pooled = ImageEncoder("efficientnet-lite1", layer="pooled", resolution=240)
    ours, true = (
        pooled(torch.from_numpy(arrays[key]).permute(0, 3, 1, 2)).numpy() for key in ("mean of samples", "target")
    )
    value = rows["two-way efficientnet-lite1 pooled", "mean of samples"]["value"][0]
    assert value == pytest.approx(two_way_identification(ours, true).mean())
    value = rows["distance efficientnet-lite1 pooled", "mean of samples"]["value"][0]
    assert value == pytest.approx(correlation_distance(ours, true).mean(), abs=1e-5)

    sets = {row["metric"]: row for row in found["picture_sets"]}
    assert list(sets) == [
        "diversity pixels",
        *(f"diversity {judge.name}" for judge in OFFLINE),
    ]  # 5 are too few for KID
    assert sets["diversity pixels"]["value"][0] == pytest.approx(sample_diversity(arrays["samples"]).mean())


def test_decoys_tell_which_judges_no_headline_may_rest_on(run):
    arrays = run.load_arrays("reconstruct/pictures.npz")
    target = arrays["target"]
    arrays["decoy"] = (0.9 * target + 0.1 * np.roll(target, 2, axis=0)).astype(np.float32)  # fools all
    run.save_arrays("reconstruct/pictures.npz", **arrays)
    found = score_images(run)
    assert [row["judge"] for row in found["judges"]] == ["pixels", "HOG", *(judge.name for judge in OFFLINE)]
    assert all(row["unfit"] for row in found["judges"])
    assert all(row["decoys"][1] > 0.6 for row in found["judges"])
    for row in found["pictures"]:
        assert row["unfit"] == (row["metric"] not in ("PixCorr", "SSIM"))
    blocks = picture_blocks(run, found["pictures"])
    (table,) = (block for block in blocks if isinstance(block, Table))
    marked = [column for column in table.columns if "(unfit judge)" in column]
    assert table.columns[1:] == ["PixCorr", "SSIM", *marked]
    (table,) = judge_blocks(found["judges"])
    assert {row[-1] for row in table.rows} == {"unfit"}
    assert judge_blocks([]) == []
    rows = [{**row, "name": "best of samples"} for row in found["pictures"] if row["name"] == "mean of samples"]
    cards = summary({"retrieval": [], "spikes": [], "pictures": rows})
    assert [card.rsplit(": ", 1)[1] for card in cards] == ["PixCorr"], "no judge is fit"
    fit = summary({"retrieval": [], "spikes": [], "pictures": [{**row, "unfit": False} for row in rows]})
    assert len(fit) > len(cards)
    more = [*rows, *({**row, "name": "features inverted"} for row in rows)]
    assert all("features inverted" in card for card in summary({"pictures": more}))


@pytest.mark.skipif(weight_file() is None, reason="stlpips-pytorch is not installed: pip install 'neurobridge[bench]'")
def test_alexnet_judges_as_any_other_network():
    judges = load_judges(ALEXNET, device="cpu")
    assert [net.network for net in judges.values()] == ["alexnet, shift-tolerant"] * 2
    some = pictures(4)
    second, fifth = (net.features(some) for net in judges.values())
    assert second.shape == (4, 192 * 31 * 31)
    assert fifth.shape == (4, 256 * 16 * 16)
    assert two_way_identification(second, second).mean() == 1


def test_alexnet_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("neurobridge.evaluation.alexnet.PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(UserError, match=r"stlpips-pytorch, which is not installed: pip install 'neurobridge\[bench\]'"):
        load_judges(ALEXNET[:1])
