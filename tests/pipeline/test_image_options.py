"""The image encoder is an option of a run: by folder, with its own layer and size, its speed free to change."""

from dataclasses import replace

import pytest
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from neurobridge.errors import UserError
from neurobridge.pipeline.alignment import image_encoder
from neurobridge.pipeline.folder import RunFolder
from neurobridge.training.settings import ImageSettings, RunSettings


def test_a_run_takes_clip_from_a_folder_and_keeps_to_it(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=28, patch_size=14, projection_dim=12)
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    image = ImageSettings(encoder=str(tmp_path / "clip"))
    settings = RunSettings(data=tmp_path, out=tmp_path / "run", image=image)

    encoder = image_encoder(RunFolder(settings).settings)
    assert (encoder.layer, encoder.resolution, encoder.width, encoder.pooled) == ("projected", 28, 12, True)
    mapped = image_encoder(replace(settings, image=replace(image, layer="block0")))
    assert (mapped.width, mapped.pooled) == (16 * 4 * 4, False)

    RunFolder(replace(settings, image=replace(image, batch=64, device="cpu"))).finish("pretrain")
    with pytest.raises(UserError, match=r"another 'image\.layer'"):
        RunFolder(replace(settings, image=replace(image, layer="pooled")))


def test_the_usual_encoder_is_unchanged(tmp_path):
    encoder = image_encoder(RunSettings(data=tmp_path, out=tmp_path / "run"))
    assert (encoder.name, encoder.layer, encoder.grid, encoder.resolution) == ("efficientnet-lite0", "block7", 4, 128)
