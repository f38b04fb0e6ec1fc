"""Stable Diffusion with a pretrained IP-Adapter (Ye et al. 2023): the condition is an image embedding, as it is.

Shape letters: B batch, D width of an image embedding (CLIP ViT-H/14: 1024), T = 1 condition token, K = D.

The IP-Adapter brings its own projection of the embedding and its own cross-attention; the text prompt is empty, and
nothing is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurobridge.errors import UserError
from neurobridge.vision.stable_diffusion import (
    StableDiffusion,
    first_line,
    has_accelerate,
    import_diffusers,
    load_pipeline,
)

IP_LICENCE = "IP-Adapter (h94/IP-Adapter): Apache-2.0. "


class IPAdapter(StableDiffusion):
    """Pictures from embeddings of the image encoder that the IP-Adapter was trained with.

    Use :meth:`load`. Conditions are [B, 1, D]; the null condition is the zero embedding, as in the IP-Adapter's own
    training. ``diffusers`` repeats the embeddings it is given for every prompt, so pictures are drawn one by one.
    """

    def __init__(self, pipeline: Any, *, checkpoint_gradients: bool = False) -> None:
        super().__init__(pipeline, checkpoint_gradients=checkpoint_gradients)
        with torch.no_grad():
            embedded, _ = pipeline.encode_prompt("", "cpu", 1, False)
        self.register_buffer("prompt", embedded, persistent=False)
        for pipe in (pipeline, self.from_image):
            pipe.register_modules(text_encoder=None, tokenizer=None)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        weights: str,
        precision: torch.dtype = torch.float32,
        checkpoint_gradients: bool = False,
    ) -> IPAdapter:
        """``model`` as for :class:`StableDiffusion`; ``weights``: a local file, or owner/name/folders/file on the hub.

        Raises UserError where something cannot be had, or the IP-Adapter does not take a pooled embedding.
        """
        pipeline = load_pipeline(model, precision=precision, text=True)
        load_weights(pipeline, weights)
        return cls(pipeline, checkpoint_gradients=checkpoint_gradients)

    @property
    def licence(self) -> str:
        """That of the IP-Adapter, then that of the model under it."""
        return IP_LICENCE + super().licence

    @property
    def condition_width(self) -> int:
        """D, the width of the image embedding."""
        return int(self.unet.encoder_hid_proj.image_projection_layers[0].image_embeds.in_features)

    @property
    def tokens(self) -> int:
        """One embedding an image."""
        return 1

    @property
    def batch(self) -> int:
        """How many pictures are drawn at once."""
        return 1

    def latent_losses(
        self,
        latents: torch.Tensor,
        condition: torch.Tensor,
        generator: torch.Generator,
        *,
        part: tuple[int, int] = (0, 1),
    ) -> dict[str, torch.Tensor]:
        """Not for this generator: its adapter comes trained."""
        raise NotImplementedError("an IP-Adapter comes trained")

    def _conditions(self, condition: torch.Tensor, null: torch.Tensor, *, guided: bool) -> dict[str, Any]:
        """The empty prompt, and the embedding [1, 1, D] behind its null one where guidance is on."""
        where = (self.unet.device, self.unet.dtype)
        prompt = self.prompt.to(*where)
        embeds = torch.cat([null[None].to(*where), condition.to(*where)]) if guided else condition.to(*where)
        return {
            "prompt_embeds": prompt,
            "negative_prompt_embeds": prompt if guided else None,
            "ip_adapter_image_embeds": [embeds],
        }


class EmbeddingCondition(nn.Module):
    """Stands where an adapter stands: the embedding itself is the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("null", torch.zeros(1, width))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, D] -> conditions [B, 1, D]."""
        return embeddings[:, None]


def load_weights(pipeline: Any, weights: str) -> None:
    """Put the IP-Adapter ``weights`` (a local file, or owner/name/folders/file on the hub) into ``pipeline``."""
    path = Path(weights).expanduser()
    source, subfolder = str(path.parent), ""
    if not path.is_file():
        parts = weights.split("/")
        if len(parts) < 3 or weights.startswith((".", "~", "/")):
            raise UserError(
                f"no IP-Adapter weights at '{weights}': give generator.ip_adapter a file, or owner/name/folder/file on "
                "the hub"
            )
        source, subfolder = "/".join(parts[:2]), "/".join(parts[2:-1])
    try:
        pipeline.load_ip_adapter(
            source,
            subfolder=subfolder,
            weight_name=path.name,
            image_encoder_folder=None,
            low_cpu_mem_usage=has_accelerate(),
        )
    except Exception as error:
        raise UserError(
            f"the IP-Adapter '{weights}' cannot be loaded into this model ({first_line(error)}): give "
            "generator.ip_adapter weights made for it, such as ip-adapter_sd15.safetensors for Stable Diffusion 1.5"
        ) from error
    projection = pipeline.unet.encoder_hid_proj.image_projection_layers[0]
    if not isinstance(projection, import_diffusers().models.embeddings.ImageProjection):
        raise UserError(
            f"the IP-Adapter '{weights}' does not take a pooled image embedding ({type(projection).__name__}): give "
            "the plain one, such as ip-adapter_sd15.safetensors"
        )
