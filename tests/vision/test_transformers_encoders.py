"""CLIP and DINOv2 by their real classes at tiny size: every layer, the processor's pixels, gradients, refusals."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from neurobridge.errors import UserError
from neurobridge.vision.encoders import ImageEncoder, to_tensor
from neurobridge.vision.transformers_encoders import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 14}
CLIP_VISION = {**SIZES, "intermediate_size": 48, "image_size": 56, "projection_dim": 24}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_VISION)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(Dinov2Config(**SIZES, image_size=70, mlp_ratio=2)).save_pretrained(folder)
    return str(folder)


def normalised(images, mean=CLIP_MEAN, std=CLIP_STD):
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def test_every_layer_of_clip_is_what_transformers_gives(clip):
    images = torch.rand(2, 3, 56, 56)
    model = CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    with torch.no_grad():
        want = model(normalised(images), output_hidden_states=True)
        pooled = model.vision_model.post_layernorm(want.last_hidden_state[:, 0])
    torch.testing.assert_close(ImageEncoder(clip)(images), want.image_embeds)
    torch.testing.assert_close(ImageEncoder(clip, layer="pooled")(images), pooled)
    for block in range(3):
        tokens = want.hidden_states[block + 1]
        torch.testing.assert_close(ImageEncoder(clip, layer=f"block{block}.class")(images), tokens[:, 0])
        patches = tokens[:, 1:].transpose(1, 2)  # 4 x 4 patches: grid 4 takes them as they are
        torch.testing.assert_close(ImageEncoder(clip, layer=f"block{block}", grid=4)(images), patches.flatten(1))
        torch.testing.assert_close(ImageEncoder(clip, layer=f"block{block}", grid=1)(images), patches.mean(2))


def test_every_layer_of_dinov2_is_what_transformers_gives(dinov2):
    images = torch.rand(2, 3, 70, 70)
    model = Dinov2Model.from_pretrained(dinov2).eval()
    with torch.no_grad():
        want = model(normalised(images, IMAGENET_MEAN, (0.229, 0.224, 0.225)), output_hidden_states=True)
    torch.testing.assert_close(ImageEncoder(dinov2, resolution=70)(images), want.pooler_output)
    tokens = want.hidden_states[2]
    torch.testing.assert_close(ImageEncoder(dinov2, layer="block1.class", resolution=70)(images), tokens[:, 0])
    torch.testing.assert_close(
        ImageEncoder(dinov2, layer="block1", grid=5, resolution=70)(images), tokens[:, 1:].transpose(1, 2).flatten(1)
    )


def test_the_published_sizes_and_constants_hold_without_a_preprocessor_file(clip, dinov2):
    assert ImageEncoder(clip).trunk.preprocessing.side == ImageEncoder(clip).resolution == 56
    chosen = ImageEncoder(dinov2).trunk.preprocessing
    assert (chosen.side, chosen.crop, chosen.mean) == (256, 224, IMAGENET_MEAN)
    whole = ImageEncoder(dinov2, resolution=70).trunk.preprocessing
    assert (whole.side, whole.crop) == (70, 70)


@pytest.mark.parametrize(("height", "width"), [(100, 100), (120, 75), (40, 64)])
def test_pixels_are_those_of_the_official_processor(clip, tmp_path, height, width):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, image_std=[0.3] * 3
    )
    CLIPVisionModelWithProjection.from_pretrained(clip).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    low = np.random.default_rng(0).integers(0, 256, (1, 3, height // 8, width // 8)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(low), (height, width), mode="bilinear")
    pixels = smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8)

    want = processor(pixels[0], return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    preprocessing = ImageEncoder(str(tmp_path)).trunk.preprocessing
    assert (preprocessing.side, preprocessing.crop, preprocessing.std) == (64, 56, (0.3, 0.3, 0.3))
    torch.testing.assert_close(
        preprocessing(to_tensor(pixels)), want, atol=1.6 / 255 / 0.3, rtol=0
    )  # it rounds to bytes


def test_an_old_preprocessor_file_gives_bare_numbers(clip, tmp_path):
    CLIPVisionModelWithProjection.from_pretrained(clip).save_pretrained(tmp_path)
    old = {
        "size": 84,
        "crop_size": 70,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    found = ImageEncoder(str(tmp_path)).trunk.preprocessing
    assert (found.side, found.crop, found.mean, found.std, found.mode) == (84, 70, (0.5,) * 3, (0.5,) * 3, "bilinear")


@pytest.mark.parametrize("layer", [None, "block1"])
def test_gradients_reach_the_image_and_no_weight(clip, dinov2, layer):
    for folder in (clip, dinov2):
        encoder = ImageEncoder(folder, layer=layer, resolution=56).train()
        images = torch.rand(2, 3, 32, 48, requires_grad=True)
        encoder(images).square().sum().backward()
        assert images.grad.abs().sum() > 0
        assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
        assert not encoder.training


def test_the_hash_covers_weights_layer_and_settings_but_not_the_place(clip, tmp_path):
    model = CLIPVisionModelWithProjection.from_pretrained(clip)
    model.save_pretrained(tmp_path / "copy")
    torch.nn.init.normal_(model.visual_projection.weight)
    model.save_pretrained(tmp_path / "other")
    hashes = [
        ImageEncoder(folder, **options).hash
        for folder, options in [
            (clip, {}),
            (str(tmp_path / "other"), {}),
            (clip, {"layer": "pooled"}),
            (clip, {"layer": "block1"}),
            (clip, {"layer": "block1.class"}),
            (clip, {"layer": "block1", "grid": 2}),
            (clip, {"resolution": 70}),
        ]
    ]
    assert len(set(hashes)) == len(hashes)
    assert ImageEncoder(str(tmp_path / "copy")).hash == hashes[0]


def test_a_folder_with_the_whole_of_clip_serves_its_image_tower(tmp_path):
    text = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=CLIP_VISION, projection_dim=24)).eval()
    whole.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        want = whole.visual_projection(whole.vision_model(normalised(images)).pooler_output)
    torch.testing.assert_close(ImageEncoder(str(tmp_path))(images), want)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"layer": "block3"}, "block0 to block2"),
        ({"layer": "projected "}, "projected, pooled"),
        ({"resolution": 64}, "choose 56 or 70"),
    ],
)
def test_a_wrong_layer_or_size_says_what_there_is(clip, options, word):
    with pytest.raises(UserError, match=word):
        ImageEncoder(clip, **options)


def test_dinov2_has_no_projection(dinov2):
    with pytest.raises(UserError, match="choose pooled"):
        ImageEncoder(dinov2, layer="projected")


def test_broken_folders_are_named(clip, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        ImageEncoder(str(tmp_path))

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="'bert'"):
        ImageEncoder(str(tmp_path))

    model = CLIPVisionModelWithProjection.from_pretrained(clip)
    weights = {k: v for k, v in model.state_dict().items() if k != "visual_projection.weight"}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(UserError, match=r"lack 1 tensors .*visual_projection"):
        ImageEncoder(str(tmp_path))

    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        ImageEncoder(str(tmp_path))


def test_absent_weights_and_no_network_are_one_sentence(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download openai/clip-vit-large-patch14") as error:
        ImageEncoder("clip-vit-l14")
    assert "\n" not in str(error.value)
