"""A masked transformer over time bins, in the manner of NDT (Ye & Pandarinath 2021) and MtM (Zhang et al. 2024).

One token a bin holds the counts of all units of a session, so it can neither add a unit nor tell two spikes in a bin
apart: the baseline of the spike tokens, and their fallback. Letters: ``B`` windows of a batch, ``W`` windows, ``N``
units of a session, ``T`` bins, ``D`` width. Masks are boolean [W, N, T]: True = hidden = scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

MODES = ("temporal", "neuron", "intra_region", "inter_region")
RATIOS = {"temporal": (0.1, 0.5), "neuron": (0.1, 0.5), "intra_region": (0.5, 0.75), "inter_region": (1.0, 1.0)}
MAX_LOG_RATE = 8.0


def draw_hidden(
    rng: np.random.Generator,
    *,
    regions: np.ndarray,
    windows: int,
    bins: int,
    modes: Sequence[str] = MODES,
    ratios: dict[str, tuple[float, float]] = RATIOS,
) -> np.ndarray:
    """Hidden cells [B, N, T], every window in a mode of its own: some bins of all units, some units, some units of one
    region, or all units of one region. ``regions`` [N] codes, negative where unknown.

    The share is uniform in the mode's ratio, at least one bin or unit, and never all units. Without a region of two
    units (intra) or a second region (inter) the mode is neuron; with one unit alone it is temporal.
    """
    hidden = np.zeros((windows, len(regions), bins), bool)
    codes, sizes = np.unique(regions[regions >= 0], return_counts=True)
    possible = {"intra_region": codes[sizes >= 2], "inter_region": codes if len(codes) > 1 else codes[:0]}
    for window in hidden:
        mode = modes[rng.integers(len(modes))]
        if mode in possible and not len(possible[mode]):
            mode = "neuron"
        if len(regions) < 2:
            mode = "temporal"
        share = rng.uniform(*ratios[mode])
        if mode == "temporal":
            window[:, rng.permutation(bins)[: max(1, round(share * bins))]] = True
            continue
        pool = np.flatnonzero(regions == rng.choice(possible[mode])) if mode in possible else np.arange(len(regions))
        most = len(pool) if mode == "inter_region" else len(pool) - 1
        window[rng.permutation(pool)[: min(most, max(1, round(share * len(pool))))]] = True
    return hidden


class _Network(nn.Module):
    """Standardised counts and hidden flags of a session [B, N, T] -> log expected counts [B, N, T]."""

    def __init__(self, *, units: Sequence[int], bins: int, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.stitch = nn.ModuleList(nn.Linear(2 * n, width) for n in units)
        self.position = nn.Parameter(0.02 * torch.randn(bins, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.readout = nn.ModuleList(nn.Linear(width, n) for n in units)

    def forward(self, activity: Tensor, hidden: Tensor, session: int) -> Tensor:
        token = torch.cat([activity.masked_fill(hidden, 0.0), hidden.to(activity)], dim=1).transpose(1, 2)
        state = self.blocks(self.stitch[session](token) + self.position)
        return self.readout[session](state).transpose(1, 2).clamp(max=MAX_LOG_RATE)


class BinnedTransformer:
    """Fit on counts, predict hidden cells. Every session has its own linear stitcher and readout of fixed units.

    ``modes`` and ``ratios`` as in :func:`draw_hidden`. Training: AdamW under one cycle of the learning rate,
    ``batch`` windows of one session a step, the Poisson loss a mean over hidden cells a window. ``seed`` fixes all.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        modes: Sequence[str] = MODES,
        ratios: dict[str, tuple[float, float]] | None = None,
        steps: int = 1000,
        batch: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        if not modes or any(mode not in MODES for mode in modes):
            raise ValueError(f"masking modes are {', '.join(MODES)}; got {list(modes)}")
        self.size = {"width": width, "depth": depth, "heads": heads, "dropout": dropout}
        self.modes, self.ratios = tuple(modes), RATIOS | (ratios or {})
        self.steps, self.batch, self.seed = steps, batch, seed
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def fit(
        self,
        counts: np.ndarray | Sequence[np.ndarray],
        regions: np.ndarray | Sequence[np.ndarray] | None = None,
        *,
        draw: Callable[[int, np.ndarray, np.random.Generator], np.ndarray] | None = None,
    ) -> BinnedTransformer:
        """Train on ``counts`` [W, N, T] of one session, or a list of them, all of the same T.

        ``regions``: integer codes [N], one array a session (default: unknown). ``draw(session, rows, rng)`` may give
        the hidden cells [B, N, T] of windows ``rows`` in the place of :func:`draw_hidden`, from any mask plan.
        """
        sessions = [counts] if isinstance(counts, np.ndarray) else list(counts)
        if any(c.ndim != 3 or c.shape[2] != sessions[0].shape[2] or not c.size for c in sessions):
            raise ValueError(f"counts must be [W, N, T] with one T for all, got {[c.shape for c in sessions]}")
        if regions is None:
            regions = [np.full(c.shape[1], -1) for c in sessions]
        elif isinstance(regions, np.ndarray) and regions.ndim == 1:
            regions = [regions]
        if [len(r) for r in regions] != [c.shape[1] for c in sessions]:
            raise ValueError("regions must be one code a unit, in one array a session")
        rng = np.random.default_rng(self.seed)
        mean = [np.maximum(c.sum((0, 2)), 0.5) / (c.shape[0] * c.shape[2]) for c in sessions]
        self.centre = [c.mean((0, 2))[:, None] for c in sessions]
        self.scale = [np.maximum(c.std((0, 2)), 1e-3)[:, None] for c in sessions]
        data = [(self._activity(c, s), torch.as_tensor(c, dtype=torch.float32)) for s, c in enumerate(sessions)]
        size = np.array([len(c) for c in sessions])
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.network = _Network(units=[len(m) for m in mean], bins=sessions[0].shape[2], **self.size)
            with torch.no_grad():
                for readout, m in zip(self.network.readout, mean, strict=True):
                    readout.weight.mul_(0.1)
                    readout.bias.copy_(torch.as_tensor(np.log(m)))  # step 0 is the null model
            optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=self.weight_decay)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.learning_rate, self.steps, pct_start=0.1, cycle_momentum=False
            )
            for _ in range(self.steps):
                s = int(rng.choice(len(size), p=size / size.sum()))
                rows = rng.choice(size[s], min(self.batch, size[s]), replace=False)
                if draw is None:
                    options = {"modes": self.modes, "ratios": self.ratios}
                    mask = draw_hidden(
                        rng, regions=np.asarray(regions[s]), windows=len(rows), bins=data[s][1].shape[2], **options
                    )
                else:
                    mask = draw(s, rows, rng)
                hidden = torch.as_tensor(mask)
                log_rate = self.network(data[s][0][rows], hidden, s)
                cells = (log_rate.exp() - data[s][1][rows] * log_rate).masked_fill(~hidden, 0.0).sum((1, 2))
                optimizer.zero_grad(set_to_none=True)
                (cells / hidden.sum((1, 2)).clamp(min=1)).mean().backward()
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
        self.network.eval()
        return self

    def predict(self, counts: np.ndarray, hidden: np.ndarray, session: int = 0) -> np.ndarray:
        """Expected counts [W, N, T] of ``counts`` [W, N, T], which are not looked at where ``hidden`` is True.

        ``hidden`` may be anything that broadcasts to [W, N, T]: ``unit[:, None]`` for units, ``bin`` for bins.
        """
        activity, hidden = self._activity(counts, session), np.broadcast_to(hidden, counts.shape)
        with torch.no_grad():
            rates = [
                self.network(activity[rows], torch.as_tensor(hidden[rows]), session).exp()
                for rows in np.array_split(np.arange(len(counts)), -(-len(counts) // self.batch))
            ]
        return torch.cat(rates).cpu().numpy().astype(np.float64)

    def predict_leave_one_out(
        self, counts: np.ndarray, units: Sequence[int] | None = None, session: int = 0
    ) -> np.ndarray:
        """Expected counts [W, len(units), T] (default: all units), each unit from all others: one pass a unit."""
        number = counts.shape[1]
        left_out = range(number) if units is None else units
        passes = [self.predict(counts, (np.arange(number) == n)[:, None], session)[:, n] for n in left_out]
        return np.stack(passes, axis=1)

    def _activity(self, counts: np.ndarray, session: int) -> Tensor:
        return torch.as_tensor((counts - self.centre[session]) / self.scale[session], dtype=torch.float32)
