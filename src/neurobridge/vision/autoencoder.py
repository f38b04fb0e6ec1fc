"""Image autoencoders: the space that the diffusion works in.

Shape letters: B batch, I images, H height, W width, C latent channels, h, w latent height and width, p patch side.

Any module with ``encode(images [B, 3, H, W] in [0, 1]) -> [B, C, h, w]``, ``decode`` back, ``channels`` (C), ``factor``
(H / h) and ``config`` (what ``build_autoencoder`` needs to make an empty one) will do.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from neurobridge.errors import UserError, atomic_path


class PatchPCA(nn.Module):
    """Patches of ``patch`` x ``patch`` pixels <-> their first ``channels`` principal components. Closed form.

    The components are orthonormal, so ``decode(encode(x))`` is the projection of ``x``: of all linear patch codes with
    that many numbers the one with the least squared error.
    """

    def __init__(self, *, patch: int = 8, channels: int = 48) -> None:
        super().__init__()
        assert channels <= 3 * patch * patch, "no more components than pixels in a patch"
        self.factor, self.channels = patch, channels
        self.register_buffer("mean", torch.zeros(3 * patch * patch))
        self.register_buffer("components", torch.eye(channels, 3 * patch * patch))

    @property
    def config(self) -> dict:
        """What :func:`build_autoencoder` needs."""
        return {"kind": "patch-pca", "patch": self.factor, "channels": self.channels}

    def fit(self, images: torch.Tensor) -> PatchPCA:
        """Set the components from ``images`` [I, 3, H, W] in [0, 1]; a component's sign makes its largest entry > 0."""
        total, outer, count = 0.0, 0.0, 0
        for batch in images.split(256):
            patches = F.unfold(batch, self.factor, stride=self.factor).transpose(1, 2).flatten(0, 1).double()
            total, outer, count = total + patches.sum(0), outer + patches.T @ patches, count + len(patches)
        mean = total / count
        _, vectors = torch.linalg.eigh(outer / count - mean[:, None] * mean[None])
        components = vectors.flip(1).T[: self.channels]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        self.mean.copy_(mean)
        self.components.copy_(components * largest.sign())
        return self

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """``images`` [B, 3, H, W] in [0, 1] -> latents [B, C, H / p, W / p]."""
        kernel = self.components.reshape(self.channels, 3, self.factor, self.factor)
        return F.conv2d(images, kernel, bias=-self.components @ self.mean, stride=self.factor)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, h, w] -> images [B, 3, h p, w p], clamped to [0, 1]."""
        kernel = self.components.reshape(self.channels, 3, self.factor, self.factor)
        offset = self.mean.reshape(3, self.factor, self.factor).repeat(1, *latents.shape[-2:])
        return (F.conv_transpose2d(latents, kernel, stride=self.factor) + offset).clamp(0.0, 1.0)


class TinyAutoencoder(nn.Module):
    """The tiny autoencoder of the FLUX.2 latent space (madebyollin/taesd, MIT): 32 channels at an eighth of the side.

    Its weights are the user's own files (``taef2_encoder.pth``, ``taef2_decoder.pth``): see :meth:`from_files`.
    """

    channels, factor = 32, 8

    def __init__(self) -> None:
        super().__init__()
        down = [nn.Conv2d(3, 64, 3, padding=1), _Residual()]
        for deepest in (False, False, True):
            down += [nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)]
            down += [_Residual(pool=deepest) for _ in range(3)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(64, self.channels, 3, padding=1))

        up: list[nn.Module] = [_SoftClamp(), nn.Conv2d(self.channels, 64, 3, padding=1), nn.ReLU()]
        for deepest in (True, False, False):
            up += [_Residual(pool=deepest) for _ in range(3)]
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1, bias=False)]
        self.decoder = nn.Sequential(*up, _Residual(), nn.Conv2d(64, 3, 3, padding=1))
        self.requires_grad_(False)

    @property
    def config(self) -> dict:
        """What :func:`build_autoencoder` needs."""
        return {"kind": "tiny"}

    @staticmethod
    def from_files(encoder: Path | str, decoder: Path | str) -> TinyAutoencoder:
        """Read the two weights files. Raises UserError where one is missing or holds something else."""
        model = TinyAutoencoder()
        for part, path in ((model.encoder, Path(encoder)), (model.decoder, Path(decoder))):
            if not path.is_file():
                raise UserError(f"no autoencoder weights at {path}: give the path of a taef2 weights file")
            try:
                part.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            except (RuntimeError, AttributeError, TypeError, EOFError, ValueError) as error:
                raise UserError(
                    f"{path} does not hold taef2 weights: give taef2_encoder.pth, then its decoder"
                ) from error
        return model

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """``images`` [B, 3, H, W] in [0, 1] -> latents [B, 32, H / 8, W / 8]."""
        return self.encoder(images)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, 32, h, w] -> images [B, 3, 8 h, 8 w], clamped to [0, 1]."""
        return self.decoder(latents).clamp(0.0, 1.0)


class _Residual(nn.Module):
    """Three convolutions around a skip; at the deepest level a normalised bottleneck first (taesd's block)."""

    def __init__(self, *, pool: bool = False, width: int = 64) -> None:
        super().__init__()
        layers = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        wide = 4 * width
        self.pool = None
        if pool:
            narrow_to_wide = nn.Conv2d(width, wide, 1, bias=False)
            wide_to_narrow = nn.Conv2d(wide, width, 1, bias=False)
            self.pool = nn.Sequential(narrow_to_wide, nn.GroupNorm(4, wide), nn.ReLU(), wide_to_narrow)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 64, h, w] -> the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class _SoftClamp(nn.Module):
    """Latents softly kept within +-3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return torch.tanh(x / 3.0) * 3.0


def build_autoencoder(config: dict) -> nn.Module:
    """An empty autoencoder from its ``config``."""
    kind = config.get("kind")
    if kind == "patch-pca":
        return PatchPCA(patch=config["patch"], channels=config["channels"])
    if kind == "tiny":
        return TinyAutoencoder()
    raise UserError(f"no autoencoder is called '{kind}': the file was written by another version, train it again")


def save_module(path: Path | str, module: nn.Module, config: dict, *, half: bool = False) -> None:
    """Write ``path`` (safetensors) and, beside it, the same name with .json. Each appears whole or not at all.

    ``half`` stores the parameters as float16 (half the size; buffers keep their type).
    """
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    if half:
        tensors.update((name, tensors[name].half()) for name, _ in module.named_parameters())
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")


def read_module(path: Path | str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and config of a file written by :func:`save_module`. Raises UserError where it is missing or broken."""
    path = Path(path)
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise UserError(f"no weights at {path} with a .json beside it: train them, or give another folder")
    try:
        return load_file(path), json.loads(path.with_suffix(".json").read_text())
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}): train it again") from error
