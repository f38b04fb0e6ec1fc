"""Captions of pictures and embeddings of sentences, by released networks through their ``transformers`` classes.

Wang et al. 2022 (GIT, the captioner of MindEye2); Radford et al. 2021 (CLIP, whose text tower embeds the captions).
Both load from the hub or from a folder that ``save_pretrained`` wrote; nothing is loaded before it is asked for.

Letters: I pictures or captions, H height, W width, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import track

from neurobridge.errors import UserError, needs
from neurobridge.vision.embedding_cache import chosen_device
from neurobridge.vision.transformers_encoders import HUB, fetching

WORDS = 20  # tokens of a caption at most


class Captioner:
    """Pictures [I, H, W, 3] in [0, 1] -> I captions by GIT, the likeliest token each time.

    ``name``: a GIT model on the hub ("microsoft/git-large-coco") or a folder. Raises UserError where it cannot be had.
    """

    def __init__(self, name: str, *, batch_size: int = 16, device: str = "auto") -> None:
        with needs("image"):
            from transformers import AutoProcessor, GitForCausalLM
        self.model, self.processor = _load(GitForCausalLM, AutoProcessor, name, "captioner", ("git",), device)
        self.name, self.batch_size = name, batch_size

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> list[str]:
        images = (np.asarray(pictures) * 255).round().clip(0, 255).astype(np.uint8)
        captions: list[str] = []
        starts = range(0, len(images), self.batch_size)
        for at in track(starts, f"captions ({self.name})", transient=True):
            pixels = self.processor(images=list(images[at : at + self.batch_size]), return_tensors="pt").pixel_values
            tokens = self.model.generate(
                pixel_values=pixels.to(self.model.device), max_new_tokens=WORDS, num_beams=1, do_sample=False
            )
            captions += self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [caption.strip() for caption in captions]


class SentenceEncoder:
    """I captions -> embeddings [I, D] by CLIP's text tower, in the space of its image embeddings.

    ``name``: a CLIP of ``vision.encoders``, another one on the hub ("owner/model"), or a folder with its text tower
    and tokenizer. Raises UserError where it cannot be had.
    """

    def __init__(self, name: str, *, batch_size: int = 64, device: str = "auto") -> None:
        with needs("image"):
            from transformers import AutoTokenizer, CLIPTextModelWithProjection
        self.name, self.batch_size = HUB.get(name, name), batch_size
        kinds = ("clip", "clip_text_model")
        self.model, self.tokenizer = _load(
            CLIPTextModelWithProjection, AutoTokenizer, self.name, "text encoder", kinds, device
        )

    @torch.inference_mode()
    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        parts = []
        most = self.model.config.max_position_embeddings
        for at in range(0, len(captions), self.batch_size):
            tokens = self.tokenizer(
                list(captions[at : at + self.batch_size]),
                padding=True,
                truncation=True,
                max_length=most,
                return_tensors="pt",
            ).to(self.model.device)
            parts.append(self.model(**tokens).text_embeds.cpu())
        return torch.cat(parts).numpy()


def _load(network: Any, companion: Any, source: str, what: str, kinds: tuple[str, ...], device: str) -> tuple[Any, Any]:
    """A network with all of its weights, in float32 and for use alone, and its processor or tokenizer."""
    from transformers import PretrainedConfig

    option = f"evaluate.{what.replace(' ', '_')}"
    with fetching(source, f"the {what}", option=option, files="config.json, model.safetensors and a tokenizer"):
        kind = PretrainedConfig.get_config_dict(source)[0].get("model_type")
        if kind is not None and kind not in kinds:
            raise UserError(f"{option} {source} holds a network of type '{kind}': give it one of type {kinds[0]}")
        own = {"trust_remote_code": False}  # code that comes with the weights is never run
        model, report = network.from_pretrained(source, output_loading_info=True, dtype=torch.float32, **own)
        beside = companion.from_pretrained(source, **own)
    if absent := sorted(report["missing_keys"]):
        raise UserError(
            f"the weights in {source} lack {len(absent)} tensors of a {network.__name__} ({absent[0]}): fetch it again"
        )
    return model.eval().to(chosen_device(device, torch.device("cpu"))), beside
