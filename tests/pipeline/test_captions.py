"""Captions by GIT and CLIP's text tower, the real classes at tiny size from a folder; they judge pictures if asked."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import (
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GitConfig,
    GitForCausalLM,
)

from neurobridge.errors import UserError
from neurobridge.evaluation.images import cosine_similarity, two_way_identification
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.picture_scores import caption_judge, score_images
from neurobridge.pipeline.reporting import captions
from neurobridge.training.settings import EvaluateSettings, ImageSettings, RunSettings
from neurobridge.vision.captions import WORDS, Captioner, SentenceEncoder

LETTERS = "abcdefgh"
TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def git(tmp_path_factory):
    """GIT whose vocabulary is eight letters, with its processor's files as they are published."""
    folder = tmp_path_factory.mktemp("git")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    published = {"image_processor_type": "CLIPImageProcessor", "processor_class": "GitProcessor", **size}
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    vision = {**TINY, "image_size": 32, "patch_size": 16, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = GitForCausalLM(
        GitConfig(
            **TINY,
            vision_config=vision,
            vocab_size=len(words),
            bos_token_id=2,
            eos_token_id=3,
            max_position_embeddings=64,
            initializer_range=0.6,
        )
    )
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = CLIPTextConfig(**TINY, vocab_size=len(words), bos_token_id=16, eos_token_id=17, projection_dim=12)
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return str(folder)


def pictures(count=5, seed=0):
    return np.random.default_rng(seed).random((count, 1, 1, 3)).repeat(40, 1).repeat(40, 2).astype(np.float32)


def test_captions_are_what_git_says_whatever_the_batch(git):
    from transformers import CLIPImageProcessorPil

    some = pictures()
    said = Captioner(git, batch_size=2, device="cpu")(some)
    model = GitForCausalLM.from_pretrained(git).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = BertTokenizer.from_pretrained(git)
    for picture, caption in zip(some, said, strict=True):
        pixels = processor([(picture * 255).round().astype(np.uint8)], return_tensors="pt").pixel_values
        tokens = model.generate(pixel_values=pixels, max_new_tokens=WORDS, do_sample=False)
        assert caption == tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert len(set(said)) > 1
    assert all(set(caption.split()) <= {*LETTERS, "[UNK]"} for caption in said)


def test_sentences_lie_in_the_space_of_clip_and_long_ones_are_cut(clip_text):
    encode = SentenceEncoder(clip_text, batch_size=2, device="cpu")
    sentences = ["a b", "c", "a b c d e f g h", "h " * 200]
    together = encode(sentences)
    assert together.shape == (4, 12)
    for sentence, embedding in zip(sentences, together, strict=True):
        np.testing.assert_allclose(encode([sentence])[0], embedding, atol=1e-5)  # padding changes nothing
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_captions_judge_every_set_beside_its_floors_only_if_a_captioner_is_named(git, clip_text, tmp_path):
    options = EvaluateSettings(captioner=git, text_encoder=clip_text)
    settings = RunSettings(data=tmp_path, out=tmp_path / "run", image=ImageSettings(device="cpu"), evaluate=options)
    run, target, ours = RunFolder(settings), pictures(3), pictures(3, seed=1)
    sets = {"best of samples": ours, "grey": np.full_like(target, 0.5)}
    run.save_arrays("reconstruct/pictures.npz", target=target, **sets)
    found = json.loads(json.dumps(score_images(run)))
    rows = {(row["metric"], row["name"]): row for row in found["pictures"] if "captions" in row["metric"]}
    assert rows.keys() == {(f"{m} captions", name) for m in ("two-way", "cosine") for name in sets}
    captioner, encode = Captioner(git, device="cpu"), SentenceEncoder(clip_text, device="cpu")
    for name, array in sets.items():
        features = encode(captioner(array)), encode(captioner(target))
        expected = two_way_identification(*features).mean(), cosine_similarity(*features).mean()
        for metric, value in zip(("two-way", "cosine"), expected, strict=True):
            row = rows[f"{metric} captions", name]
            assert row["value"][0] == pytest.approx(value)
            assert row["network"] == f"{git}, {clip_text}"
            assert 0 < row["p"] <= 1
    said = {row["name"]: row["captions"] for row in found["captions"]}
    assert said["target"] == captioner(target)
    del said["grey"]  # the gallery does not show it
    assert captions(found["captions"])[0].rows == [list(pair) for pair in zip(*said.values(), strict=True)]

    silent = RunFolder(replace(settings, evaluate=EvaluateSettings()))  # the stage is not done: the option may change
    assert caption_judge(silent.settings) == (None, {})
    assert not captions([])
    silent.finish("evaluate")
    with pytest.raises(UserError, match=r"another 'evaluate\.captioner'"):
        RunFolder(settings)


def test_what_cannot_caption_is_refused_in_a_sentence(clip_text, git, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"empty holds no network that can be read .* give evaluate\.captioner a folder"
    ):
        Captioner(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"the captioner \(nobody/nothing\) are neither on this machine .*hf download"):
        Captioner("nobody/nothing")
    with pytest.raises(UserError, match=r"holds a network of type 'clip_text_model': give it one of type git"):
        Captioner(clip_text)
    with pytest.raises(UserError, match=r"give evaluate\.text_encoder a folder with .* and a tokenizer"):
        SentenceEncoder(str(tmp_path / "empty"))
    config = CLIPVisionConfig(**TINY, image_size=28, patch_size=14, projection_dim=12)
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "vision")
    with pytest.raises(
        UserError, match=r"evaluate\.text_encoder .* type 'clip_vision_model': give it one of type clip"
    ):
        SentenceEncoder(str(tmp_path / "vision"))


def test_code_that_a_captioner_brings_along_is_never_run(git, tmp_path):
    folder, mark = Path(shutil.copytree(git, tmp_path / "git")), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    own = {
        "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoProcessor", "AutoTokenizer"), "own.Own")
    }
    for path in folder.glob("*.json"):
        if path.name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | own))
    for name in ("preprocessor_config.json", "tokenizer_config.json"):  # nothing says which class but the folder's own
        described = json.loads((folder / name).read_text())
        described.pop("processor_class", None)
        (folder / name).write_text(json.dumps(described | {"tokenizer_class": "Own"}))
    with contextlib.suppress(UserError):
        Captioner(str(folder), device="cpu")
    assert not mark.exists()
