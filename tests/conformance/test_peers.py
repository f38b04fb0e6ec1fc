"""Peers' own yardsticks on what we write and compute: docs/conformance.md is the table of these tests."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pynapple as nap
import pytest

import neurobridge as nb
from neurobridge.cli import main
from neurobridge.data.simulate import simulate
from neurobridge.errors import UserError
from neurobridge.evaluation import spikes

TINY = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SHORT = {"model": TINY, "windows": 16, "groups": 2, "layer": "block2", "resolution": 64, "progress": False}
SIZES = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 1, "electrodes": 16}
WITHOUT = "is not installed: pip install 'neurobridge[peers]', and --no-deps nlb_tools falcon_challenge"
EXPECTED = {
    "check_subject_age": "the format knows no age of the animal, and NWB no age that is unknown",
    "check_session_start_time_old_date": "when a session began is not known: the file says so, and gives 1970",
    "check_experimenter_exists": "nor by whom",
    "check_experiment_description": "nor what for",
    "check_institution": "nor where",
    "check_keywords": "nor under which words",
    "check_processing_module_name": "what a model says is of none of the schema's kinds",
}  # checks of nwbinspector that fail, and why they may


def peer(name: str):
    return pytest.importorskip(name, reason=f"{name.split('.')[0]} {WITHOUT}")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("peers")
    data = simulate(where / "data", seed=3, **SIZES)
    return nb.pretrain(nb.open(data)[:1], steps=4, out=where / "run", **SHORT).path


@pytest.fixture(scope="module")
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Expected counts and counts [W, T, N], as the benchmarks lay them out."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(2.0, 0.2, size=(12, 30, 8))
    return rates, rng.poisson(rates * rng.uniform(0.5, 1.5, size=rates.shape)).astype(float)


def test_nwbinspector_finds_what_is_expected_and_nothing_else(run: Path, tmp_path: Path):
    inspector = peer("nwbinspector")
    assert main(["embed", str(run), "--out", str(tmp_path / "z.nwb"), "--sessions", "[monkeyA_1]"]) == 0
    found = list(inspector.inspect_nwbfile(nwbfile_path=tmp_path / "z.nwb"))
    unexpected = [
        f"{m.check_function_name}: {m.message} ({m.location})" for m in found if m.check_function_name not in EXPECTED
    ]
    assert not unexpected
    critical = [m.check_function_name for m in found if m.importance.name in ("CRITICAL", "ERROR", "PYNWB_VALIDATION")]
    assert critical == ["check_subject_age"]


def test_pynapple_opens_what_we_write(run: Path, tmp_path: Path):
    assert main(["embed", str(run), "--out", str(tmp_path / "z.nwb"), "--sessions", "[monkeyA_1]"]) == 0
    file = nap.load_file(str(tmp_path / "z.nwb"))
    (recording,) = nb.open(run.parent / "data").named("monkeyA_1")
    model = nb.load(run)
    latents, rates = file["latents"], file["rates"]
    assert isinstance(latents, nap.TsdFrame)
    assert rates.shape[1] == len(recording.unit_ids)
    order = np.argsort(nb.embed(model, recording).start.values, kind="stable")
    ours = nb.embed(model, recording).isel(window=order)
    np.testing.assert_allclose(latents.values, ours.values.reshape(len(latents), -1), rtol=1e-5)


def test_we_open_the_nwb_file_that_pynapple_tests_with(shared: Path):
    path = shared / "data" / "real_files" / "A8604.nwb"
    theirs = nap.load_file(str(path))["units"]
    (ours,) = nb.open(path)
    assert len(ours.unit_ids) >= 2, "one of three violates the refractory period"
    for row, unit in enumerate(ours.unit_ids.tolist()):
        np.testing.assert_allclose(ours.spike_times[ours.spike_units == row], theirs[int(unit)].times())


def test_zarr_holds_what_the_functions_return(run: Path, tmp_path: Path):
    zarr = peer("zarr")
    import xarray

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing in it is outside of Zarr's specification
        assert main(["embed", str(run), "--out", str(tmp_path / "z.zarr"), "--split", "test"]) == 0
    model = nb.load(run)
    assert set(zarr.open(tmp_path / "z.zarr", mode="r").group_keys()) == set(model.sessions)
    name = model.sessions[0]
    found = xarray.open_zarr(tmp_path / "z.zarr", group=name)
    np.testing.assert_array_equal(found.latents, nb.embed(model, model.recordings.named(name), split="test"))
    assert main(["embed", str(run), "--out", str(tmp_path / "z.zarr")]) == 2, "what is there is not written over"


def test_nlb_tools_score_bits_and_histograms_as_we_do(scored):
    nlb = peer("nlb_tools.evaluation")
    rates, counts = (x.copy() for x in scored)
    counts[2, 5:9], counts[:, :, 4], rates[0, 1, 2] = np.nan, 0.0, 0.0  # a gap, a silent unit, a rate of zero
    ours = spikes.bits_per_spike(rates.transpose(0, 2, 1), counts.transpose(0, 2, 1))
    assert ours == pytest.approx(nlb.bits_per_spike(rates, counts), abs=1e-9)
    rates, counts = (x.copy() for x in scored)
    conditions = np.repeat(np.arange(4), 3)
    psth = np.stack([counts[conditions == c].mean(0) for c in range(4)])
    indices = [np.flatnonzero(conditions == c) for c in range(4)]
    theirs = nlb.eval_psth(psth, rates, indices, jitter=np.zeros(len(rates), int))
    assert spikes.psth_r2(rates.transpose(0, 2, 1), counts.transpose(0, 2, 1), conditions) == pytest.approx(theirs)


def test_nlb_tools_read_a_score_file_of_ours(scored, tmp_path: Path):
    nlb = peer("nlb_tools.evaluation")
    rates, counts = scored
    hand = np.cumsum(np.random.default_rng(1).normal(size=(12, 30, 2)), axis=1)
    held_in, held_out = slice(0, 6), slice(6, 8)
    names = {"train_rates": rates, "eval_rates": rates}
    with h5py.File(tmp_path / "ours.h5", "w") as file:
        for name, array in names.items():
            file[f"mc_maze/{name}_heldin"], file[f"mc_maze/{name}_heldout"] = array[..., held_in], array[..., held_out]
    with h5py.File(tmp_path / "truth.h5", "w") as file:
        file["mc_maze/eval_spikes_heldout"] = counts[..., held_out]
        file["mc_maze/train_behavior"] = file["mc_maze/eval_behavior"] = hand
    (result,) = nlb.evaluate(str(tmp_path / "truth.h5"), str(tmp_path / "ours.h5"))
    ours = spikes.bits_per_spike(*(x[..., held_out].transpose(0, 2, 1) for x in (rates, counts)))
    assert result["mc_maze_split"]["co-bps"] == pytest.approx(ours, abs=1e-6)


def test_a_score_file_for_brain_wide_bench_gets_the_score_that_we_compute(scored, tmp_path: Path):
    predictions = pytest.importorskip("ibl_bwb_eval.predictions", reason="ibl-bwb-eval is not installed: make setup")
    import torch
    from ibl_bwb_eval.scoring import ts2
    from safetensors.torch import save_file

    rates, counts = scored
    recording, starts = "0841d188-8ef2-4f20-9828-76a94d5343a4", torch.arange(12, dtype=torch.float64)
    writer = predictions.PredictionsWriter(
        True,
        tmp_path / "predictions",
        "ts2-co_smoothing",
        43,
        label="neurobridge",
        metadata={"recording_id": recording},
        path_fn=lambda base, metadata: base / metadata["recording_id"],
    )
    for rows in (slice(0, 5), slice(5, 12)):  # a batch at a time; log rates, as the task asks
        writer.add(predictions=torch.from_numpy(np.log(rates[rows])))
        writer.add(dtype=torch.float64, window_timestamps=starts[rows])
    writer.save()
    truth = tmp_path / "truth" / "ts2-co_smoothing" / recording / "ground_truth.safetensors"
    truth.parent.mkdir(parents=True)
    save_file({"targets": torch.from_numpy(counts).float(), "window_timestamps": starts}, truth)
    (found,) = ts2.score_dir(tmp_path / "predictions", tmp_path / "truth").values()
    ours = [x.transpose(0, 2, 1) for x in (rates, counts)]
    assert found["bps"] == pytest.approx(spikes.bits_per_spike(*ours), abs=1e-5)
    assert found["poisson_d2"] == pytest.approx(spikes.poisson_d2(*ours, clip=False), abs=1e-5)


@pytest.fixture(scope="module")
def reaching():
    """96 channels whose rates follow two velocities: times [S], channels [S], and the velocities [T, 2] at 20 ms."""
    rng = np.random.default_rng(0)
    time = np.arange(0, 48, 0.02)
    velocity = np.stack([np.sin(2 * np.pi * time / 1.7), np.cos(2 * np.pi * time / 2.3)], axis=1)
    rates = np.exp(2 + velocity @ rng.normal(size=(2, 96)) * 0.7)
    bins, channels = np.nonzero(counts := rng.poisson(rates * 0.02))
    number = counts[bins, channels]
    times = np.repeat(time[bins], number) + rng.uniform(0, 0.02, number.sum())
    return times, np.repeat(channels, number), time, velocity


def test_falcon_evaluates_a_decoder_over_our_model(reaching, tmp_path: Path):
    peer("falcon_challenge.interface")
    evaluator = peer("falcon_challenge.evaluator")
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.behavior import BehavioralTimeSeries

    from neurobridge.falcon import FalconDecoder

    times, channels, time, velocity = reaching
    calibration, until = times < 40, int(np.searchsorted(time, 40))
    series = {"finger_vel": (time[:until], velocity[:until])}
    order = np.argsort(times[calibration])
    recording = nb.recording(
        times[calibration][order],
        channels[calibration][order],
        unit_ids=range(96),
        duration=(0.0, 40.0),
        behaviour=series,
        session="Run1_20201019",
    )
    model = nb.pretrain(recording, steps=60, model=TINY, window_ms=200, images=False, windows=16, progress=False)

    path = tmp_path / "sub-MonkeyN-held-in-eval_ses-2020-10-19-Run1_behavior+ecephys.nwb"
    file = NWBFile(session_description="reaches", identifier="r", session_start_time=datetime(2020, 10, 19, tzinfo=UTC))
    for channel in range(96):
        file.add_unit(spike_times=np.sort(times[(channels == channel) & (times >= 40)]))
    fingers = BehavioralTimeSeries(name="finger_vel")
    for number, name in enumerate(("index", "mrs")):
        data = velocity[until:, number]
        fingers.add_timeseries(TimeSeries(name=name, data=data, unit="1/s", timestamps=time[until:]))
    file.add_acquisition(fingers)
    seen = np.ones(len(time) - until, bool)
    file.add_acquisition(TimeSeries(name="eval_mask", data=seen, unit="-", timestamps=time[until:]))
    file.add_trial(start_time=42.0, stop_time=45.0)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(file)

    judge = evaluator.FalconEvaluator(split="m2", dataloader_workers=0)
    decoder = FalconDecoder(judge.cfg, model, sessions={"Run1_20201019": recording}, behaviour="finger_vel")
    predicted, targets, mask, *_ = judge.predict_files(decoder, [path])
    (tag,) = predicted
    known = mask[tag].astype(bool)
    scores = judge.compute_metrics_regression(predicted[tag], targets[tag][known], known, {tag: [len(known)]})
    assert scores["R2 Mean"] > 0.3
    with pytest.raises(UserError, match="3 channels came"):
        decoder.predict(np.zeros((1, 3)))
    with pytest.raises(UserError, match="no behaviour 'gaze'"):
        FalconDecoder(judge.cfg, model, sessions={"a": recording}, behaviour="gaze")
