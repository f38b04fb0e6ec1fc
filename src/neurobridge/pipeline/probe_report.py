"""The chapter on behaviour in the report: what is decoded, beside untrained latents and counts."""

from __future__ import annotations

import json

from neurobridge.evaluation import figures
from neurobridge.evaluation.recording_figures import decoded_beside_true
from neurobridge.evaluation.report import Block, Figure, Table
from neurobridge.pipeline.folder import RunFolder
from neurobridge.pipeline.spike_scores import OURS


def probes(run: RunFolder) -> list[Block]:
    """All that 'neurobridge probe' and stage evaluate left in run/probes of the model that the run has now."""
    return [block for result in probed(run) for block in drawn(run, result)]


def cards(run: RunFolder) -> dict[str, tuple[float, float, float]]:
    """R2 of each behaviour by ridge from the latents, for the head of the report."""
    return {f"R2 of {result['target']}, ridge on latents": tuple(result["rows"][0]["r2"]) for result in probed(run)}


def probed(run: RunFolder) -> list[dict]:
    """What lies in run/probes of the model that the run has now."""
    folder = run.model()
    digest = run.facts(folder.name)["files"][f"{folder.name}/model.safetensors"]
    found = [json.loads(path.read_text()) for path in sorted((run / "probes").glob("*.json"))]
    return [result for result in found if result["model"] == digest]


def drawn(run: RunFolder, result: dict) -> list[Block]:
    """Bars, table and decoded beside true of one target."""
    session, target, rows = result["session"], result["target"], result["rows"]
    arrays = run.load_arrays(f"probes/{session}-{target}.npz")
    bars = [
        figures.Bar(f"{r['what']}, {r['method']}", *r["r2"], role="ours" if r["what"] == OURS else "baseline")
        for r in rows
    ]
    table = [
        [r["what"], r["method"], tuple(r["r2"]), ", ".join("-" if x is None else f"{x:.3f}" for x in r["by_target"]),
         ", ".join(map(str, r["lags_ms"]))] for r in rows
    ]  # fmt: skip
    note = (
        f"{result['moments']} chunks of {result['chunk_ms']} ms in {result['folds']} folds of interleaved blocks of "
        "time, a window's length of distance between training and test; 95 % intervals over blocks. Lag (behaviour "
        "after spikes, one a fold), penalty, neighbours, smoothing and reach by inner folds. The encoder is frozen; "
        "no behaviour was ever a target of it; it has seen spikes of the train split."
    )
    return [
        Figure(
            f"{target} of {session}, decoded and true",
            decoded_beside_true(arrays["times"], arrays["truth"], arrays["decoded"], name=target),
            "Ridge on frozen latents, out of fold.",
        ),
        Figure(f"{target}: what it is decoded from", figures.bars({"R2": bars})),
        Table(
            f"{target} of {session}",
            ["from", "by", "R2", "by dimension", "lag (ms)"],
            table,
            note=note,
            highlight=frozenset(i for i, r in enumerate(rows) if r["what"] == OURS),
        ),
    ]
