"""torch_brain's POYO, the supervised peer (Azabou et al. 2023, arXiv:2310.16046): spikes -> behaviour or labels.

The only module that knows ``torch_brain.models``. Letters: ``W`` windows, ``N`` units, ``S`` spikes of one window,
``Q`` output times, ``Y`` outputs, ``D`` width. A window is a pair (unit [S] of 0..N-1, time [S] in seconds since its
start).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_brain.models import POYO
from torch_brain.models.poyo import create_linspace_latent_tokens, create_start_end_unit_tokens

Window = tuple[np.ndarray, np.ndarray]


def build_poyo(
    *,
    units: int,
    outputs: int,
    width: int,
    depth: int,
    heads: int,
    latents: int,
    window_s: float = 1.0,
    latent_step_s: float = 0.05,
    sessions: int = 1,
    dropout: float = 0.0,
) -> POYO:
    """POYO of ``depth`` blocks with ``latents`` latents every ``latent_step_s`` seconds, its vocabularies filled.

    All attention layers have ``heads`` heads of ``width / heads``. ``dropout`` is that of the blocks and of their
    feed-forward layers. Raises ValueError where ``width`` is not a multiple of four times the heads, or the window none
    of the latents' step.
    """
    if abs(window_s / latent_step_s - round(window_s / latent_step_s)) > 1e-6:
        raise ValueError(
            f"POYO needs a window that is a multiple of latent_step_s, got {window_s} and {latent_step_s} s"
        )
    if width % (4 * heads):
        raise ValueError(f"POYO needs a width that is a multiple of four times the heads, got {width} and {heads}")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its own check of the same is wrong by a rounding error: 1.0 % 0.05
    try:
        model = POYO(
            sequence_length=float(window_s),
            latent_step=float(latent_step_s),
            num_latents_per_step=latents,
            dim=width,
            dim_out=outputs,
            depth=depth,
            dim_head=width // heads,
            cross_heads=heads,
            self_heads=heads,
            ffn_dropout=dropout,
            lin_dropout=dropout,
        )
    finally:
        logging.disable(level)
    model.unit_emb.initialize_vocab([f"unit {n}" for n in range(units)])
    model.session_emb.initialize_vocab([f"session {s}" for s in range(sessions)])
    return model


def poyo_inputs(
    windows: Sequence[Window],
    *,
    unit_session: np.ndarray,
    session: np.ndarray,
    output_times: np.ndarray,
    model: POYO,
) -> dict[str, Tensor]:
    """What POYO's ``forward`` takes, for ``windows`` of sessions ``session`` [W].

    ``unit_session`` [N]: session of each unit; every unit of a window's session adds a start and an end token, as in
    POYO's own tokeniser. ``output_times`` [Q] in seconds. Windows are padded to the longest; without padding there is
    no mask, which is POYO's faster path.
    """
    tokens = []
    for (unit, time), s in zip(windows, session, strict=True):
        own = np.flatnonzero(unit_session == s)
        edge_kind, edge_unit, edge_time = create_start_end_unit_tokens(own, 0.0, model.sequence_length)
        unit, time = np.concatenate([own[edge_unit], unit]), np.concatenate([edge_time, time])
        tokens.append((unit + 1, time, np.concatenate([edge_kind, np.zeros(len(unit) - len(edge_kind), np.int64)])))
    lengths = np.array([len(unit) for unit, _, _ in tokens])
    shape = (len(tokens), lengths.max())
    padded = np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    for w, window in enumerate(tokens):
        for array, values in zip(padded, window, strict=True):
            array[w, : lengths[w]] = values
    real = np.arange(shape[1]) < lengths[:, None]
    latent, latent_time = create_linspace_latent_tokens(
        0.0, model.sequence_length, model.latent_step, model.num_latents_per_step
    )

    def every(row: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(row, dtype=dtype).expand(len(tokens), -1)

    return {
        "input_unit_index": torch.as_tensor(padded[0]),
        "input_timestamps": torch.as_tensor(padded[1]),
        "input_token_type": torch.as_tensor(padded[2]),
        **({} if real.all() else {"input_mask": torch.as_tensor(real)}),
        "latent_index": every(latent, torch.int64),
        "latent_timestamps": every(latent_time, torch.float32),
        "session_index": torch.as_tensor(np.asarray(session) + 1),
        "output_timestamps": every(output_times, torch.float32),
    }


class PoyoDecoder:
    """Supervised decoding by POYO: fit, predict, and its latents as a frozen encoder.

    unit_session [N]: session of each unit (zeros for one session); units of all sessions are numbered through.
    window_s: length of the windows in seconds; latents: latents every latent_step_s seconds. The rest is training:
    AdamW under one cycle of the learning rate, ``batch`` windows a step, everything drawn from ``seed``.
    """

    def __init__(
        self,
        *,
        unit_session: np.ndarray,
        window_s: float = 1.0,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        latents: int = 8,
        latent_step_s: float = 0.125,
        dropout: float = 0.1,
        steps: int = 400,
        batch: int = 32,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.unit_session = np.asarray(unit_session)
        self.size = {"width": width, "depth": depth, "heads": heads, "latents": latents, "dropout": dropout}
        self.window_s, self.latent_step_s = window_s, latent_step_s
        self.steps, self.batch, self.seed = steps, batch, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def fit(self, windows: Sequence[Window], targets: np.ndarray, session: np.ndarray | None = None) -> PoyoDecoder:
        """Train on ``windows`` of ``session`` [W] (default: all of session 0).

        ``targets`` [W, Y], or [W, Q, Y] at the centres of Q equal bins of the window: regression, mean squared error
        of standardised targets. Integer ``targets`` [W]: class labels 0..Y-1, cross-entropy.
        """
        targets, session = np.asarray(targets), self._sessions(windows, session)
        self.labels = targets.ndim == 1
        if len(targets) != len(windows) or (self.labels and not np.issubdtype(targets.dtype, np.integer)):
            raise ValueError(
                f"POYO takes targets [W, Y] or [W, Q, Y], or integer labels [W], for {len(windows)} windows; "
                f"got {targets.dtype} {targets.shape}"
            )
        if self.labels:
            outputs, bins = int(targets.max()) + 1, 1
            wanted = torch.as_tensor(targets, dtype=torch.int64)
        else:
            targets = targets[:, None] if targets.ndim == 2 else targets
            bins, outputs = targets.shape[1:]
            self.mean, self.scale = targets.mean((0, 1)), np.maximum(targets.std((0, 1)), 1e-9)
            wanted = torch.as_tensor((targets - self.mean) / self.scale, dtype=torch.float32)
        self.output_times = (np.arange(bins) + 0.5) * self.window_s / bins
        rng = np.random.default_rng(self.seed)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.model = build_poyo(
                units=len(self.unit_session),
                sessions=int(self.unit_session.max()) + 1,
                outputs=outputs,
                window_s=self.window_s,
                latent_step_s=self.latent_step_s,
                **self.size,
            )
            optimizer = torch.optim.AdamW(self.model.parameters(), weight_decay=self.weight_decay)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.learning_rate, self.steps, pct_start=0.1, cycle_momentum=False
            )
            order = np.concatenate(
                [rng.permutation(len(windows)) for _ in range(-(-self.steps * self.batch // len(windows)))]
            )
            for rows in order[: self.steps * self.batch].reshape(self.steps, self.batch):
                out = self.model(**self._inputs(windows, session, rows))
                loss = F.cross_entropy(out[:, 0], wanted[rows]) if self.labels else F.mse_loss(out, wanted[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
        self.model.eval()
        return self

    def predict(self, windows: Sequence[Window], session: np.ndarray | None = None) -> np.ndarray:
        """[W, Y] or [W, Q, Y] as the targets were; for labels the log-odds [W, Y]."""
        out = self._run(windows, session)[0]
        if not self.labels:
            out = out * self.scale + self.mean
        return out[:, 0] if len(self.output_times) == 1 else out

    def encode(self, windows: Sequence[Window], session: np.ndarray | None = None) -> np.ndarray:
        """[W, D]: mean over the latents that POYO's decoder reads, for probes and alignment."""
        return self._run(windows, session)[1]

    def _run(self, windows: Sequence[Window], session: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        session, latents, outputs = self._sessions(windows, session), [], []
        hook = self.model.dec_atn.register_forward_pre_hook(lambda _, args: latents.append(args[1].mean(1)))
        try:
            with torch.no_grad():
                for rows in np.array_split(np.arange(len(windows)), -(-len(windows) // self.batch)):
                    outputs.append(self.model(**self._inputs(windows, session, rows)))
        finally:
            hook.remove()
        return torch.cat(outputs).cpu().numpy(), torch.cat(latents).cpu().numpy()

    def _inputs(self, windows: Sequence[Window], session: np.ndarray, rows: np.ndarray) -> dict[str, Tensor]:
        return poyo_inputs(
            [windows[i] for i in rows],
            unit_session=self.unit_session,
            session=session[rows],
            output_times=self.output_times,
            model=self.model,
        )

    def _sessions(self, windows: Sequence[Window], session: np.ndarray | None) -> np.ndarray:
        return np.zeros(len(windows), np.int64) if session is None else np.asarray(session, np.int64)
