"""The masked model of spikes: vocabulary, encoder, decoder. Saved as safetensors and JSON; loading never unpickles.

Shape letters: see the package docstring.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neurobridge.errors import UserError, atomic_path
from neurobridge.neuro.batch import SpikeBatch
from neurobridge.neuro.decoder import FactorisedDecoder
from neurobridge.neuro.encoder import Encoder
from neurobridge.neuro.masking import MaskPlan, nothing_hidden
from neurobridge.neuro.units import UnitVocabulary


class NeuroBridge(nn.Module):
    """Spikes (or values) of any session whose units are in the vocabulary -> latents -> log expected counts.

    width, depth, heads: of the backbone; latents: per chunk of chunk_ms; unit_width: of a unit's embedding.
    memory_width: width of an optional conditioning sequence, read by every second block. cls: a [CLS] token.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        latents: int = 4,
        unit_width: int = 64,
        chunk_ms: int = 50,
        decoder_depth: int = 1,
        dropout: float = 0.0,
        memory_width: int | None = None,
        cls: bool = False,
    ) -> None:
        super().__init__()
        self.options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.width = width
        self.units = UnitVocabulary(unit_width=unit_width)
        self.encoder = Encoder(
            width=width,
            unit_width=unit_width,
            depth=depth,
            heads=heads,
            latents=latents,
            chunk_ms=chunk_ms,
            dropout=dropout,
            memory_width=memory_width,
            cls=cls,
        )
        self.decoder = FactorisedDecoder(width=width, unit_width=unit_width, heads=heads, depth=decoder_depth)

    def encode(self, batch: SpikeBatch, plan: MaskPlan | None = None, *, memory: Tensor | None = None) -> Tensor:
        """Latents [B, M, D]; without a plan the encoder sees all."""
        plan = plan or nothing_hidden(batch)
        return self.encoder(batch, self.units.embedding[batch.unit_row], plan, memory=memory)

    def forward(self, batch: SpikeBatch, plan: MaskPlan | None = None) -> Tensor:
        """Log expected counts (spikes) or expected values (value-carrying signals), [B, N, T]."""
        latent = self.encode(batch, plan)
        time = self.encoder.latent_times(batch.window_ms, latent.device)
        return self.decoder(
            latent,
            time,
            self.units.embedding[batch.unit_row],
            self.units.bias[batch.unit_row],
            batch.target.shape[-1],
            batch.bin_ms,
        )

    def body(self) -> list[nn.Parameter]:
        """All parameters but the units'."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def save(self, folder: Path | str) -> None:
        """Write model.safetensors (tensors) and model.json (options, unit keys) into ``folder``."""
        folder = Path(folder)
        with atomic_path(folder / "model.safetensors") as path:
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, path)
        with atomic_path(folder / "model.json") as path:
            path.write_text(json.dumps({"options": self.options, "units": self.units.keys}))

    @classmethod
    def load(cls, folder: Path | str) -> NeuroBridge:
        """Read what :meth:`save` wrote. Raises UserError where it is missing or broken."""
        folder = Path(folder)
        try:
            described = json.loads((folder / "model.json").read_text())
            model = cls(**described["options"])
            model.units.restore(described["units"])
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except FileNotFoundError as error:
            raise UserError(f"no model in {folder}: run the pretrain stage first") from error
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(
                f"the model in {folder} cannot be read ({str(error).splitlines()[0]}): train it again"
            ) from error
        return model


def parameter_count(module: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in module.parameters())
