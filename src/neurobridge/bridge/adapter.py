"""The adapter: an image embedding (true or decoded from spikes) -> condition tokens of a generator.

Shape letters: B batch, I images, D width of an embedding, T condition tokens, K condition width.

A token expander (a linear map plus an MLP) makes the tokens, a small Transformer encoder refines them. It is trained by
the denoising loss through a frozen generator, on images alone; no spikes are involved.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from neurobridge.errors import UserError
from neurobridge.vision.autoencoder import read_module, save_module
from neurobridge.vision.draws import drawn

FILE = "adapter.safetensors"


class Adapter(nn.Module):
    """Embeddings [B, D] -> condition tokens [B, T, K], with a learned null condition for guidance.

    ``embedding_width`` D, ``condition_width`` K (read it from the generator), ``tokens`` T, ``depth`` and ``heads`` of
    the refiner, ``hidden`` units of the expander's MLP, ``null_probability`` of replacing a condition by the null one
    in training (classifier-free guidance), ``noise``: Gaussian noise is added to embeddings in training, of a standard
    deviation drawn between 0 and ``noise`` (in standard deviations of each entry), so that imperfectly decoded ones
    still give good pictures. ``grid`` is for embeddings that are maps (channel, row, column) of that side: T = grid x
    grid, and each token is expanded from its own place by one expander shared by all places. Without it, each token
    is expanded from the whole embedding. The defaults suit Stable Diffusion 1.5 (77 tokens, K = 768).
    """

    def __init__(
        self,
        *,
        embedding_width: int,
        condition_width: int,
        tokens: int = 77,
        depth: int = 4,
        heads: int = 8,
        hidden: int = 1024,
        grid: int | None = None,
        null_probability: float = 0.1,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.settings = {
            "embedding_width": embedding_width,
            "condition_width": condition_width,
            "tokens": tokens,
            "depth": depth,
            "heads": heads,
            "hidden": hidden,
            "grid": grid,
            "null_probability": null_probability,
            "noise": noise,
        }
        self.tokens, self.condition_width = tokens, condition_width
        self.null_probability, self.noise = null_probability, noise
        self.register_buffer("mean", torch.zeros(embedding_width))
        self.register_buffer("std", torch.ones(embedding_width))

        assert grid is None or (tokens == grid * grid and embedding_width % tokens == 0), "a map has grid x grid tokens"
        self.grid = grid
        inputs, outputs = embedding_width, tokens * condition_width
        if grid is not None:
            inputs, outputs = embedding_width // tokens, condition_width
        self.linear = nn.Linear(inputs, outputs)
        self.mlp = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
        self.places = nn.Parameter(0.02 * torch.randn(tokens, condition_width))
        refiner = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.refiner = nn.ModuleList(
            nn.TransformerEncoderLayer(condition_width, heads, 2 * condition_width, **refiner) for _ in range(depth)
        )
        self.null = nn.Parameter(torch.zeros(tokens, condition_width))

    def fit_statistics(self, embeddings: torch.Tensor) -> None:
        """Set the standardisation from training embeddings [I, D]."""
        self.mean.copy_(embeddings.mean(0))
        self.std.copy_(embeddings.std(0).clamp(min=1e-3 * embeddings.std()))

    def forward(
        self, embeddings: torch.Tensor, generator: torch.Generator | None = None, *, part: tuple[int, int] = (0, 1)
    ) -> torch.Tensor:
        """Embeddings [B, D] -> tokens [B, T, K]. In training mode, ``generator`` draws the noise and the null rows.

        ``part`` (i, n): these are the i-th of every n rows of a batch, for all of which is drawn.
        """
        x = (embeddings - self.mean) / self.std
        if self.training and self.noise > 0:
            level = self.noise * drawn(torch.rand, (len(x), 1), generator, part)
            x = x + (level * drawn(torch.randn, x.shape, generator, part)).to(x.device)

        if self.grid is not None:
            x = x.unflatten(1, (-1, self.tokens)).transpose(1, 2)
        tokens = (self.linear(x) + self.mlp(x)).reshape(-1, self.tokens, self.condition_width) + self.places
        for layer in self.refiner:
            tokens = layer(tokens)

        if self.training and self.null_probability > 0:
            dropped = drawn(torch.rand, (len(x),), generator, part).to(x.device) < self.null_probability
            tokens = torch.where(dropped[:, None, None], self.null, tokens)
        return tokens

    def save(self, folder: Path | str, *, half: bool = False) -> None:
        """Write ``adapter.safetensors`` (``half``: as float16) and ``adapter.json`` into ``folder``."""
        save_module(Path(folder) / FILE, self, self.settings, half=half)

    @staticmethod
    def load(folder: Path | str) -> Adapter:
        """Read what :meth:`save` wrote (``folder``, or the path of the .safetensors file itself)."""
        path = Path(folder)
        tensors, settings = read_module(path if path.suffix == ".safetensors" else path / FILE)
        try:
            adapter = Adapter(**settings)
            adapter.load_state_dict({name: value.float() for name, value in tensors.items()})
        except (TypeError, RuntimeError) as error:
            raise UserError(
                f"{path} holds no adapter of this version: train it again, or give another folder"
            ) from error
        return adapter.eval()
