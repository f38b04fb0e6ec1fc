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
from neurobridge.neuro.decoder import FactorisedDecoder, GridDecoder
from neurobridge.neuro.encoder import Encoder, expected_events
from neurobridge.neuro.masking import MaskPlan, nothing_hidden
from neurobridge.neuro.memory import MapMemory
from neurobridge.neuro.units import UnitVocabulary

DECODERS = {"factorised": FactorisedDecoder, "grid": GridDecoder}
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"width": 64, "depth": 2, "heads": 4, "latents": 2, "unit_width": 32, "decoder_depth": 1},
    "small": {"width": 128, "depth": 4, "heads": 4, "latents": 4, "unit_width": 64, "decoder_depth": 1},
    "base": {"width": 512, "depth": 9, "heads": 8, "latents": 4, "unit_width": 128, "decoder_depth": 1},
    "plan": {"width": 512, "depth": 12, "heads": 8, "latents": 4, "unit_width": 128, "decoder_depth": 2},
    "large": {"width": 768, "depth": 13, "heads": 12, "latents": 4, "unit_width": 128, "decoder_depth": 1},
}  # weights of the body: see docs/design.md, checked by tests/neuro/test_model.py


class NeuroBridge(nn.Module):
    """Spikes (or values) of any session whose units are in the vocabulary -> latents -> log expected counts.

    width, depth, heads: of the backbone; latents: per chunk of chunk_ms; unit_width: of a unit's embedding.
    decoder: "factorised" or "grid". memory_width: width of an optional conditioning sequence, a map of memory_side x
    memory_side positions (0: a plain sequence), of which every second block reads memory_features. cls: a [CLS] token.
    prompts, mask_latents: for ablation, causal_ms: for streams, see :class:`Encoder`. ``PRESETS`` names sizes.
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
        decoder: str = "factorised",
        decoder_depth: int = 1,
        dropout: float = 0.0,
        memory_width: int | None = None,
        memory_side: int = 0,
        memory_features: int = 64,
        cls: bool = False,
        prompts: bool = False,
        mask_latents: bool = False,
        causal_ms: int = 0,
    ) -> None:
        super().__init__()
        self.options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if decoder not in DECODERS:
            raise ValueError(f"a decoder is one of {', '.join(DECODERS)}, not '{decoder}'")
        self.width = width
        self.units = UnitVocabulary(unit_width=unit_width)
        self.memory = MapMemory(memory_width, features=memory_features) if memory_width else None
        self.encoder = Encoder(
            width=width,
            unit_width=unit_width,
            depth=depth,
            heads=heads,
            latents=latents,
            chunk_ms=chunk_ms,
            dropout=dropout,
            memory_width=memory_features if memory_width else None,
            memory_side=memory_side,
            cls=cls,
            prompts=prompts,
            mask_latents=mask_latents,
            causal_ms=causal_ms,
        )
        self.decoder = DECODERS[decoder](
            width=width, unit_width=unit_width, heads=heads, latents=latents, depth=decoder_depth
        )

    def encode(
        self,
        batch: SpikeBatch,
        plan: MaskPlan | None = None,
        *,
        unit: Tensor | None = None,
        memory: Tensor | None = None,
        level: int | None = None,
    ) -> Tensor:
        """Latents [B, M, D]; without a plan the encoder sees all. unit [G, N, E] replaces the vocabulary's rows.

        memory [B, K, memory_width]: a conditioning sequence. level: see :meth:`Encoder.forward`.
        """
        plan = plan or nothing_hidden(batch)
        unit = self.units(batch.unit_row) if unit is None else unit
        bias = self.units.bias.detach()[batch.unit_row]
        expected = expected_events(batch, plan, bias, self.encoder.chunk_ms)
        if memory is not None:
            assert self.memory is not None, "the model was made without a memory"
            memory = self.memory(memory)
        return self.encoder(batch, unit, plan, expected, memory=memory, level=level)

    def forward(
        self,
        batch: SpikeBatch,
        plan: MaskPlan | None = None,
        *,
        unit: Tensor | None = None,
        memory: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> Tensor:
        """Log expected counts (spikes) or expected values (value-carrying signals), [B, N, T].

        With ``cells`` [B, Q] (n * T + t) those of these cells alone, [B, Q].
        """
        unit = self.units(batch.unit_row) if unit is None else unit
        latent = self.encode(batch, plan, unit=unit, memory=memory)
        return self.decode(latent, batch, unit=unit, cells=cells)

    def decode(
        self, latent: Tensor, batch: SpikeBatch, *, unit: Tensor | None = None, cells: Tensor | None = None
    ) -> Tensor:
        """:meth:`forward` from the last latents [B, M, D], where these are known already."""
        unit = self.units(batch.unit_row) if unit is None else unit
        time = self.encoder.latent_times(batch.window_ms, latent.device)
        bins, baseline = batch.target.shape[-1], self.baseline(batch)
        if cells is None:
            return self.decoder(latent, time, unit, bins, batch.bin_ms) + baseline
        baseline = baseline.expand(-1, -1, bins).flatten(1).gather(1, cells)
        if isinstance(self.decoder, GridDecoder):
            return self.decoder(latent, time, unit, bins, batch.bin_ms, cells) + baseline
        return self.decoder(latent, time, unit, bins, batch.bin_ms).flatten(1).gather(1, cells) + baseline

    def baseline(self, batch: SpikeBatch) -> Tensor:
        """What is expected of a unit before another one or an image is looked at: [B, N, T], or [B, N, 1] if constant.

        Its bias, and in windows that know the stimulus onset its own time course: the model is paid for what the PSTH
        cannot know.
        """
        bias = batch.per_window(self.units.bias[batch.unit_row])[..., None]
        if batch.course is None:
            return bias
        return bias + batch.per_window(batch.course) * batch.locked[:, None, None]

    def body(self) -> list[nn.Parameter]:
        """All parameters but the units'."""
        parts = [self.encoder, self.decoder, *([] if self.memory is None else [self.memory])]
        return [p for part in parts for p in part.parameters()]

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
