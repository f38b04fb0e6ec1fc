"""What the report shows of units and of reading: quality by session and unit, when the readout looks, and where.

Letters: N units, R presentations, I images, P positions of an image map, W its width, C chunks, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from neurobridge.data.intervals import elapsed, length_of, merged
from neurobridge.data.store import Session
from neurobridge.evaluation import unit_figures
from neurobridge.evaluation.report import Block, Figure, Table
from neurobridge.evaluation.spikes import fano_factor, split_half_reliability
from neurobridge.neuro.losses import expected_counts
from neurobridge.neuro.masking import everything_hidden
from neurobridge.pipeline.decoding import Decoded, first_presentations
from neurobridge.pipeline.joint_encoding import counted_bins, responses
from neurobridge.pipeline.pictures import Chosen
from neurobridge.pipeline.spike_scores import some_rows

SESSIONS, UNITS = 12, 400  # told at most; units a session
MAPPED, LOOKED_AT = 16, 32  # units with a map; images that a map is a mean over
QUALITIES = {
    "rate": "rate (Hz)",
    "fano": "Fano factor",
    "reliability": "split-half reliability",
    "correlation": "correlation with images",
    "ceiling": "its ceiling",
}


def unit_rows(sessions: Sequence[Session], decoded_ones: Sequence[Decoded] = ()) -> list[dict]:
    """A row a unit of every session: rate, and where images were repeated the reliability of its responses.

    correlation: of expected and recorded mean responses to test images (sessions whose pictures are asked for), and its
    ceiling, the root of the reliability of these means. Absent values are None.
    """
    decoded = {d.session: d for d in decoded_ones}
    first = sorted(sessions, key=lambda s: s.name not in decoded)
    rows = []
    for session in first[:SESSIONS]:
        found = quality(session) | judged(decoded.get(session.name))
        for u in range(min(session.units, UNITS)):
            row = {"session": session.name, "unit": str(session.recording.unit_ids[u])}
            row |= {"area": str(session.recording.regions[u])}
            values = {name: float(found[name][u]) if name in found else np.nan for name in QUALITIES}
            rows.append(row | {name: round(x, 4) if np.isfinite(x) else None for name, x in values.items()})
    return rows


def quality(session: Session) -> dict[str, np.ndarray]:
    """Rate [N] Hz, Fano factor and split-half reliability [N] of responses to test images, where there are any."""
    found: dict[str, np.ndarray] = {}
    if not session.valued:
        observed = merged(session.recording.observed_time)
        inside = elapsed(session.source.times, observed)[0] >= 0
        found["rate"] = np.bincount(session.columns[inside], minlength=session.units) / length_of(observed)
    rows = session.shown("test")
    shown = session.image_row[rows]
    repeats = int(np.unique(shown, return_counts=True)[1].min(initial=len(shown)))
    if repeats >= 4 and len(np.unique(shown)) > 2:
        by_image = responses(session, rows)[first_presentations(shown, repeats)]
        found["reliability"] = split_half_reliability(by_image, seed=0, spearman_brown=False)
        if not session.valued:
            found["fano"] = fano_factor(by_image)
    return found


def judged(decoded: Decoded | None) -> dict[str, np.ndarray]:
    """Correlation [N] over test images of what the model expects and what was recorded, and its ceiling."""
    if decoded is None or decoded.encoding is None or len(decoded.test.images) < 3:
        return {}
    expected, recorded = decoded.encoding.expected[decoded.test.images], decoded.test.responses
    a, b = expected - expected.mean(0), recorded - recorded.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {"correlation": (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))}
    if decoded.test.presentations is not None:
        reliability = split_half_reliability(decoded.test.presentations.responses, seed=0)
        found["ceiling"] = np.sqrt(np.clip(reliability, 0, 1))
    return found


@torch.no_grad()
def attention(chosen: Chosen, index: int) -> dict[str, np.ndarray]:
    """What share of each chunk every query of the readout takes: [Q, C], a mean over test windows; and its time [C]."""
    head, encoder = chosen.bridge.head, chosen.model.encoder
    if head.kind != "queries":
        return {}
    session = chosen.batcher.sessions[index]
    parts = []
    for batch in chosen.batcher.sequence(index, some_rows(session, "test", 256), 256):
        weight = head.attention(chosen.model.encode(batch, level=head.level))[:, head.first :]
        parts.append(weight.unflatten(1, (-1, encoder.latents)).sum(2).mean(0))
    time = encoder.latent_times(session.window_ms)[head.first :: encoder.latents]
    return {"attention": torch.stack(parts).mean(0).T.numpy(), "attention_time": time.numpy() + session.offset_ms}


def looking(chosen: Chosen, index: int, decoded: Decoded) -> dict[str, np.ndarray]:
    """Where on an image the expected responses of the best units depend on it: [N, G, G].

    The length of the gradient of a response with respect to the map that the backbone reads, mean over test images.
    """
    found = judged(decoded)
    if chosen.maps is None or "correlation" not in found:
        return {}
    session = chosen.batcher.sessions[index]
    order = np.argsort(-np.nan_to_num(found["correlation"], nan=-1), kind="stable")[:MAPPED]
    maps = chosen.maps[decoded.test.images[:LOOKED_AT]].float().requires_grad_()
    row = np.flatnonzero(session.locked)[:1]
    batch = chosen.batcher.batch([(index, np.repeat(row, len(maps)))])
    rates = chosen.model(batch, everything_hidden(batch), memory=maps)
    rates = rates if session.valued else expected_counts(rates)[:, :, counted_bins(session, chosen.batcher.bin_ms)]
    lengths = []
    for u in order.tolist():
        (slope,) = torch.autograd.grad(rates[:, u].sum(), maps, retain_graph=True)
        lengths.append(slope.norm(dim=-1).mean(0))
    side = chosen.bridge.maps.side
    names = [f"{session.recording.unit_ids[u]} ({session.recording.regions[u]})" for u in order]
    return {"looking": torch.stack(lengths).unflatten(1, (side, side)).numpy(), "looking_unit": np.array(names)}


def units_view(rows: list[dict], arrays: dict[str, np.ndarray]) -> list[Block]:
    """The chapter on units: sessions side by side, each unit beside what noise allows, and a table of all."""
    blocks: list[Block] = []
    if not rows:
        return blocks
    sessions = list(dict.fromkeys(row["session"] for row in rows))

    def values(session: str, name: str) -> np.ndarray:
        return np.array([row[name] for row in rows if row["session"] == session], float)

    known = [name for name in QUALITIES if any(row[name] is not None for row in rows)]
    boxes = {QUALITIES[name]: {s: values(s, name) for s in sessions} for name in known if name != "ceiling"}
    if boxes:
        caption = "Units of each session: median, quartiles and the middle 90 %. Reliability: between halves of the "
        caption += (
            "presentations of test images. Correlation: of mean responses to them, expected from the image alone."
        )
        blocks.append(Figure("Quality, session by session", unit_figures.by_session(boxes), caption))
    judged_ones = [s for s in sessions if np.isfinite(values(s, "correlation") * values(s, "ceiling")).any()]
    if judged_ones:
        areas = {s: [row["area"] for row in rows if row["session"] == s] for s in judged_ones}
        panels = {s: (values(s, "ceiling"), values(s, "correlation"), areas[s]) for s in judged_ones[:3]}
        caption = "A point a unit: expected from the image alone against recorded, over test images, beside the "
        caption += "highest correlation that the noise of the recording allows (dashed)."
        blocks.append(Figure("Encoding, unit by unit", unit_figures.against_ceiling(panels), caption))
    if "looking" in arrays:
        caption = "Where on the image the expected response depends on it (length of the gradient, mean over test "
        caption += "images), for the units that are expected best; each map to its own highest."
        drawn = unit_figures.unit_maps(arrays["looking"], arrays["looking_unit"].tolist())
        blocks.append(Figure("Encoding maps", drawn, caption, alt=f"Encoding maps of {len(arrays['looking'])} units"))

    def median(session: str, name: str) -> float | None:
        found = values(session, name)
        return float(np.nanmedian(found)) if np.isfinite(found).any() else None

    summary = [[s, len(values(s, "rate")), *(median(s, name) for name in known)] for s in sessions]
    names = [QUALITIES[name] for name in known]
    note = f"Medians over units; at most {SESSIONS} sessions and {UNITS} units of each."
    blocks.append(Table("Sessions", ["session", "units", *names], summary, note=note))
    shown = [row for row in rows if row["session"] == sessions[0]]
    table = [[row["unit"], row["area"], *(row[name] for name in known)] for row in shown]
    return [*blocks, Table(f"Units of {sessions[0]}", ["unit", "area", *names], table)]


def attention_view(arrays: dict[str, np.ndarray]) -> list[Block]:
    """When the readout looks."""
    if "attention" not in arrays:
        return []
    drawn = unit_figures.attention(arrays["attention"], arrays["attention_time"])
    caption = "Share of the window that each query of the image readout takes, by 50 ms chunk, mean over test windows."
    return [Figure("Attention over time", drawn, caption)]
