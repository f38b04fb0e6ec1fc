"""Ways into the lab source without a table of units: phy, plain NWB, MATLAB cells, CSV, continuous counts."""

from __future__ import annotations

import datetime
import runpy
from pathlib import Path

import h5py
import numpy as np
import pynapple as nap
import pytest
import scipy.io
import yaml
from pynwb import NWBHDF5IO, NWBFile

from neurobridge.cli import main
from neurobridge.data.quality import QualitySettings
from neurobridge.data.recording import Recording, read_recording
from neurobridge.data.sources.lab import examine, import_lab, recording_from_tsgroup
from neurobridge.data.store import Session
from neurobridge.errors import UserError

Writer = runpy.run_path(str(Path(__file__).with_name("test_matfile.py")))["Writer"]
NO_FILTER = ["--quality.min_rate", "null", "--quality.max_isi_violations", "null"]
ALL = QualitySettings(min_rate=None, max_isi_violations=None)
BASE = {
    "dataset": "lab",
    "subject": "rat",
    "session_id": "day1",
    "signal_kind": "sorted",
    "time_unit": "s",
    "index_base": 0,
    "duration": [0, 60],
    "areas": ["CA1"],
}


def declare(folder: Path, **keys) -> Path:
    text = yaml.safe_dump({**BASE, **keys}) + "session_date: 2024-05-01\n"
    (folder / "day1.yaml").write_text(text)
    return folder / "day1.yaml"


def bring(folder: Path, quality: QualitySettings = ALL, **keys) -> Recording:
    return read_recording(import_lab(declare(folder, **keys), folder / "out", quality=quality) / "sessions/day1.h5")


def trains(*counts: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.sort(rng.uniform(0, 60, count)) for count in counts]


def by_unit(r: Recording) -> dict[str, list[float]]:
    return {unit: r.spike_times[r.spike_units == row].tolist() for row, unit in enumerate(r.unit_ids.tolist())}


def phy(folder: Path, rate: float = 30_000.0) -> Path:
    """Clusters 2 (good), 5 (mua), 7 (noise) and 11 (of which nothing is said)."""
    folder.mkdir()
    parts = trains(90, 80, 70, 60)
    time = np.concatenate(parts)
    label = np.repeat([2, 5, 7, 11], [len(part) for part in parts])
    order = np.argsort(time)
    np.save(folder / "spike_times.npy", np.round(time[order] * rate).astype(np.uint64)[:, None])
    np.save(folder / "spike_clusters.npy", label[order].astype(np.int32))
    (folder / "params.py").write_text(f"dat_path = 'a.bin'\nn_channels_dat = 4\nsample_rate = {rate}  # Hz\n")
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tgood\n5\tmua\n7\tnoise\n")
    (folder / "cluster_info.tsv").write_text(
        "cluster_id\tch\tdepth\tgroup\n2\t14\t100.5\tgood\n5\t3\t80\tmua\n7\t1\t0\tgood\n11\t9\t20\t\n"
    )
    return folder


def test_a_phy_folder(tmp_path, capsys):
    phy(tmp_path / "sorted")
    spikes = {"format": "phy", "path": "sorted"}
    r = bring(tmp_path, spikes=spikes, time_unit="samples")
    assert r.unit_ids.tolist() == ["2", "5", "11"], "noise is no unit"
    assert r.unit_columns["group"].tolist() == ["good", "mua", "unsorted"], "the curator's word stands over the table's"
    assert r.unit_columns["electrode_id"].tolist() == ["14", "3", "9"]
    assert r.unit_columns["depth"].tolist() == [100.5, 80.0, 20.0]
    assert set(r.regions.tolist()) == {"CA1"}
    np.testing.assert_allclose(by_unit(r)["5"], trains(90, 80)[1], atol=1 / 30_000)
    assert "left out 1 of 4 clusters (noise), 70 of 300 spikes" in capsys.readouterr().out
    r = bring(tmp_path, spikes={**spikes, "groups": ["good"]}, time_unit="samples")
    assert r.unit_ids.tolist() == ["2"]
    with pytest.raises(UserError, match="no cluster is in the group 'best'; there are good, mua, noise, unsorted"):
        bring(tmp_path, spikes={**spikes, "groups": ["best"]}, time_unit="samples")
    with pytest.raises(UserError, match="phy, whose times are in samples, but the time_unit s"):
        bring(tmp_path, spikes=spikes)


def test_a_phy_folder_that_cannot_be_right(tmp_path):
    folder = phy(tmp_path / "sorted")
    keys = {"spikes": {"format": "phy", "path": "sorted"}, "time_unit": "samples"}
    (folder / "params.py").write_text("dat_path = 'a.bin'\n")
    with pytest.raises(UserError, match=r"sampling_rate is not given, and .*params\.py does not tell it"):
        bring(tmp_path, **keys)
    assert len(bring(tmp_path, **keys, sampling_rate=30_000).unit_ids) == 3
    np.save(folder / "spike_clusters.npy", np.zeros(7, np.int32))
    with pytest.raises(UserError, match=r"spike_times\.npy holds 300 spikes and spike_clusters\.npy 7"):
        bring(tmp_path, **keys, sampling_rate=30_000)
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tgood\n2\tnoise\n")
    np.save(folder / "spike_clusters.npy", np.full(300, 2))
    with pytest.raises(UserError, match=r"cluster_group\.tsv: cluster 2 is there twice"):
        bring(tmp_path, **keys, sampling_rate=30_000)
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tNoise\n")
    with pytest.raises(UserError, match="all 1 clusters are noise"):
        bring(tmp_path, **keys, sampling_rate=30_000)
    (folder / "spike_clusters.npy").unlink()
    with pytest.raises(UserError, match=r"sorted is no phy folder: it needs spike_times\.npy and"):
        bring(tmp_path, **keys, sampling_rate=30_000)


def cell(value: object) -> object:
    """Lists as scipy writes cell arrays."""
    if not isinstance(value, list):
        return value
    made = np.empty(len(value), object)
    for at, one in enumerate(value):
        made[at] = cell(one)
    return made


def test_trains_and_a_table_of_units(tmp_path):
    first, second = trains(90, 80)
    scipy.io.savemat(tmp_path / "s.mat", {"spikes": cell([first, second])})
    table = {"format": "mat", "path": "s.mat", "layout": "trains", "columns": {"spike_times": "spikes"}}
    keys = {"spikes": table, "units": {"format": "csv", "path": "u.csv"}, "areas": ["CA1", "CA3"]}
    (tmp_path / "u.csv").write_text("unit_id,area\nx,CA1\ny,CA3\n")
    r = bring(tmp_path, **keys)
    assert (by_unit(r), r.regions.tolist()) == ({"x": first.tolist(), "y": second.tolist()}, ["CA1", "CA3"])
    (tmp_path / "u.csv").write_text("unit_id,area\n2,CA3\n1,CA1\n")
    assert by_unit(bring(tmp_path, **keys)) == {"2": second.tolist(), "1": first.tolist()}
    (tmp_path / "u.csv").write_text("unit_id,area\nx,CA1\n")
    with pytest.raises(UserError, match=r"s\.mat holds 2 spike trains for the 1 units of u\.csv"):
        bring(tmp_path, **keys)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_matlab_cells_of_spike_trains(tmp_path, version):
    first, second, third = trains(90, 80, 60)
    content = {
        "spikes": [first[:, None], second[None], third[:, None]],
        "deep": [[{"time": first[:, None], "rate": 1.0}, np.zeros((0, 0))], [{"time": second[:, None], "rate": 2.0}]],
        "names": ["a1", "b2", "c3"],
    }
    if version == "5":
        scipy.io.savemat(tmp_path / "s.mat", {name: cell(value) for name, value in content.items()})
    else:
        with Writer(tmp_path / "s.mat") as writer:
            for name, value in content.items():
                writer.put(writer.file, name, value)
    table = {"format": "mat", "path": "s.mat", "layout": "trains"}
    r = bring(tmp_path, spikes={**table, "columns": {"spike_times": "spikes"}})
    assert by_unit(r) == {"1": first.tolist(), "2": second.tolist(), "3": third.tolist()}
    r = bring(tmp_path, spikes={**table, "columns": {"spike_times": "spikes", "unit_id": "names"}})
    assert by_unit(r)["b2"] == second.tolist()
    r = bring(tmp_path, spikes={**table, "columns": {"spike_times": "deep.time"}})
    assert list(by_unit(r).values()) == [first.tolist(), second.tolist()], "[] in a nested cell is no unit"
    with pytest.raises(UserError, match=r"'deep' leads to a struct with the fields (time, rate|rate, time): name one"):
        bring(tmp_path, spikes={**table, "columns": {"spike_times": "deep"}})
    with pytest.raises(UserError, match=r"cell 1 is text, expected the times of a unit"):
        bring(tmp_path, spikes={**table, "columns": {"spike_times": "names"}})


def test_a_column_of_a_matrix_in_every_cell(tmp_path):
    first, second = trains(90, 80)
    cells = np.empty(2, object)
    cells[0], cells[1] = (np.stack([t, np.ones(len(t))], axis=1) for t in (first, second))
    scipy.io.savemat(tmp_path / "s.mat", {"spikes": cells})
    table = {"format": "mat", "path": "s.mat", "layout": "trains"}
    with pytest.raises(UserError, match=r"cell 1 has the shape \(90, 2\), and a train is one list: name a column"):
        bring(tmp_path, spikes={**table, "columns": {"spike_times": "spikes"}})
    r = bring(tmp_path, spikes={**table, "columns": {"spike_times": "spikes(:,1)"}})
    assert by_unit(r) == {"1": first.tolist(), "2": second.tolist()}


def test_trains_of_parquet_and_npz(tmp_path):
    import pandas as pd

    first, second = trains(90, 80)
    pd.DataFrame({"unit_id": [4, 9], "spike_times": [first, second], "depth": [1.5, 2.5]}).to_parquet(
        tmp_path / "s.parquet"
    )
    r = bring(tmp_path, spikes={"format": "parquet", "path": "s.parquet", "layout": "trains"})
    assert (by_unit(r), r.unit_columns["depth"].tolist()) == ({"4": first.tolist(), "9": second.tolist()}, [1.5, 2.5])
    np.savez(tmp_path / "s.npz", u1=first[:, None] * 1000, u2=second * 1000)
    r = bring(tmp_path, spikes={"format": "npz", "path": "s.npz", "layout": "trains"}, time_unit="ms")
    np.testing.assert_allclose(by_unit(r)["u1"], first)


def test_a_csv_of_times_and_units_alone(tmp_path):
    first, second = trains(90, 80)
    rows = sorted([(t, "10") for t in first] + [(t, "9") for t in second])
    (tmp_path / "s.csv").write_text("time,unit_id\n" + "".join(f"{float(t)!r},{u}\n" for t, u in rows))
    r = bring(tmp_path, spikes={"format": "csv", "path": "s.csv"})
    assert by_unit(r) == {"9": second.tolist(), "10": first.tolist()}
    assert r.regions.tolist() == ["CA1", "CA1"]
    with pytest.raises(UserError, match=r"no column 'area', and areas of day1\.yaml names CA1, CA3: add the column"):
        bring(tmp_path, spikes={"format": "csv", "path": "s.csv"}, areas=["CA1", "CA3"])
    assert all(finding.ok for finding in examine(declare(tmp_path, spikes={"format": "csv", "path": "s.csv"})))


def blank() -> NWBFile:
    return NWBFile("s", "id", datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC))


def test_a_plain_nwb_file(tmp_path):
    first, second = trains(90, 80)
    plain = blank()
    for train in (first, second):
        plain.add_unit(spike_times=train)
    with NWBHDF5IO(tmp_path / "s.nwb", "w") as io:
        io.write(plain)
    r = bring(tmp_path, spikes={"format": "nwb", "path": "s.nwb"})
    assert by_unit(r) == {"0": first.tolist(), "1": second.tolist()}
    thousand = blank()
    thousand.add_unit(spike_times=first * 1000)
    with NWBHDF5IO(tmp_path / "s.nwb", "w") as io:
        io.write(thousand)
    r = bring(tmp_path, spikes={"format": "nwb", "path": "s.nwb"}, time_unit="ms")
    np.testing.assert_allclose(by_unit(r)["0"], first)


def test_the_regions_of_a_plain_nwb_file(tmp_path):
    located = blank()
    group = located.create_electrode_group("g", description="d", location="x", device=located.create_device("p"))
    for place in ("CA1", "later"):
        located.add_electrode(location=place, group=group)
    for electrode, train in enumerate(trains(90, 80)):
        located.add_unit(spike_times=train, electrodes=[electrode])
    with NWBHDF5IO(tmp_path / "s.nwb", "w") as io:
        io.write(located)
    with h5py.File(tmp_path / "s.nwb", "r+") as file:
        file["general/extracellular_ephys/electrodes/location"][1] = ""
    r = bring(tmp_path, spikes={"format": "nwb", "path": "s.nwb"})
    assert (r.regions.tolist(), r.unit_columns["electrode_id"].tolist()) == (["CA1", "unknown"], ["0", "1"])


def test_counts_in_bins_without_stimuli(tmp_path):
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.3, (3000, 4))
    scipy.io.savemat(tmp_path / "c.mat", {"Y": counts, "edges": np.arange(3001) * 0.02})
    table = {"format": "mat", "path": "c.mat", "layout": "continuous", "columns": {"values": "Y"}}
    r = bring(tmp_path, signal_kind="binned_count", spikes={**table, "bin_width": 0.02}, duration=[0, 80])
    assert (r.unit_ids.tolist(), r.signal_kind, r.spike_values) == (["0", "1", "2", "3"], "binned_count", None)
    assert r.observed.tolist() == [[0.0, 60.0]], "after the last bin nothing was counted"
    back = Session(r, window_ms=1000).binned(np.arange(60), 20)
    np.testing.assert_array_equal(back.transpose(0, 2, 1).reshape(-1, 4), counts)
    edges = {**table, "columns": {"values": "Y", "bin_edges": "edges"}}
    assert (
        bring(tmp_path, signal_kind="binned_count", spikes=edges, duration=[0, 80]).spike_times.tolist()
        == r.spike_times.tolist()
    )
    with pytest.raises(UserError, match="needs to know its bins: give 'bin_width' of spikes in s"):
        bring(tmp_path, signal_kind="binned_count", spikes=table)
    with pytest.raises(UserError, match="3000 bins run from 0 to 3000 s, outside the duration of 0 to 80 s"):
        bring(tmp_path, signal_kind="binned_count", spikes={**table, "bin_width": 1.0}, duration=[0, 80])
    for wrong, sentence in (
        (0.5, "and a count is a whole number"),
        (-1, "a whole number"),
        (np.nan, "leave the unit out"),
    ):
        spoilt = counts.astype(float)
        spoilt[7, 2] = wrong
        scipy.io.savemat(tmp_path / "c.mat", {"Y": spoilt})
        with pytest.raises(UserError, match=rf"values\[7, 2\] is {wrong:g} .*{sentence}"):
            bring(tmp_path, signal_kind="binned_count", spikes={**table, "bin_width": 0.02})


def test_counts_that_are_laid_out_the_other_way(tmp_path):
    np.savez(tmp_path / "c.npz", values=np.ones((4, 600), int), bin_edges=np.arange(601) * 0.1)
    with pytest.raises(UserError, match=r"601 bin_edges for values of shape \(4, 600\).*transposed"):
        bring(tmp_path, signal_kind="binned_count", spikes={"format": "npz", "path": "c.npz", "layout": "continuous"})


def test_a_manifest_and_a_group_in_memory_keep_the_same_units(tmp_path, capsys):
    group = nap.TsGroup(
        {3: nap.Ts(trains(90)[0]), 8: nap.Ts(np.array([1.0, 2.0]))}, time_support=nap.IntervalSet(0, 60)
    )
    group.save(str(tmp_path / "g.npz"))
    r = bring(tmp_path, QualitySettings(), spikes={"format": "tsgroup", "path": "g.npz"})
    mine = recording_from_tsgroup(group, subject="rat", session="day1", regions=["CA1", "CA1"])
    assert r.unit_ids.tolist() == mine.unit_ids.tolist() == ["3"]
    assert "kept 1 of 2 units: 1 below 0.5 Hz" in capsys.readouterr().out
    every = recording_from_tsgroup(group, subject="rat", session="day1", regions=["CA1", "CA1"], quality=ALL)
    assert every.unit_ids.tolist() == ["3", "8"]
    assert bring(tmp_path, spikes={"format": "tsgroup", "path": "g.npz"}).unit_ids.tolist() == ["3", "8"]


def test_layouts_that_a_format_cannot_have(tmp_path):
    for change, sentence in (
        ({"format": "csv", "path": "s.csv", "layout": "trains"}, "csv have the layout labels or indices, not trains"),
        (
            {"format": "npz", "path": "s", "layout": "continuous"},
            "declare the signal_kind binned_count or mua_envelope",
        ),
        ({"format": "npz", "path": "s", "bin_width": 1.0}, "bin_width is given, but spikes have the layout labels"),
        ({"format": "npz", "path": "s", "groups": ["good"]}, "groups are given, but spikes have the format npz"),
        ({"format": "npz", "path": "s", "layout": "indices"}, "counts rows of a unit table; declare 'units'"),
    ):
        with pytest.raises(UserError, match=sentence):
            import_lab(declare(tmp_path, spikes=change), tmp_path / "out")


def test_doors_by_the_command_line(tmp_path, capsys):
    phy(tmp_path / "sorted")
    manifest = declare(tmp_path, spikes={"format": "phy", "path": "sorted"}, time_unit="samples")
    assert main(["data", "doctor", str(manifest)]) == 0
    assert main(["data", "import", "lab", str(manifest), "--out", str(tmp_path / "out")]) == 0
    assert main(["data", "validate", str(tmp_path / "out")]) == 0
    assert "day1: kept" in capsys.readouterr().out


def drafted(path: Path, out: Path) -> dict:
    assert main(["data", "doctor", str(path), "--manifest", str(out)]) == 0
    return yaml.safe_load(out.read_text())


def test_a_draft_of_a_phy_folder_can_be_imported_as_it_is(tmp_path, capsys):
    folder = phy(tmp_path / "sorted")
    told = drafted(folder, tmp_path / "draft.yaml")
    assert (told["sampling_rate"], told["duration"], told["session_id"]) == (30_000, [0, 60], "sorted")
    assert "clusters: group" in capsys.readouterr().out
    assert main(["data", "import", "lab", str(tmp_path / "draft.yaml"), "--out", str(tmp_path / "out")]) == 0
    assert main(["data", "doctor", str(folder), "--manifest", str(tmp_path / "draft.yaml")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_drafts_of_tables_and_files(tmp_path, capsys):
    first, second = trains(90, 80)
    scipy.io.savemat(tmp_path / "cells.mat", {"spikes": cell([{"t": first}, {"t": second}]), "fs": 30000.0})
    scipy.io.savemat(tmp_path / "counts.mat", {"Y": np.ones((600, 3))})
    np.savez(tmp_path / "flat.npz", spike_times=np.r_[first, second], clu=np.repeat([1, 2], [90, 80]))
    (tmp_path / "flat.csv").write_text("t,cluster\n" + "".join(f"{t},1\n" for t in first))
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["a/spikes/times"], file["a/spikes/clusters"] = first, np.ones(90, int)
    plain = blank()
    plain.session_id, plain.subject = "A8604-211122", None
    plain.add_unit(spike_times=first)
    with NWBHDF5IO(tmp_path / "plain.nwb", "w") as io:
        io.write(plain)
    expected = {
        "cells.mat": {"format": "mat", "layout": "trains", "columns": {"spike_times": "spikes.t"}},
        "flat.npz": {"format": "npz", "columns": {"time": "spike_times", "unit_id": "clu"}},
        "flat.csv": {"format": "csv", "columns": {"time": "t", "unit_id": "cluster"}},
        "flat.h5": {"format": "mat", "columns": {"time": "a.spikes.times", "unit_id": "a.spikes.clusters"}},
        "plain.nwb": {"format": "nwb"},
    }
    for name, spikes in expected.items():
        draft = tmp_path / f"{name}.yaml"
        assert drafted(tmp_path / name, draft)["spikes"] == {"path": name, **spikes}
        assert main(["data", "import", "lab", str(draft), "--out", str(tmp_path / "out"), *NO_FILTER]) == 0
    told = drafted(tmp_path / "counts.mat", tmp_path / "counts.yaml")
    assert (told["signal_kind"], told["spikes"]["bin_width"], told["duration"]) == ("binned_count", "TODO", [0, "TODO"])
    assert main(["data", "import", "lab", str(tmp_path / "counts.yaml"), "--out", str(tmp_path / "o")]) == 2
    assert "duration is 'TODO'" in capsys.readouterr().err
    (tmp_path / "notes.docx").write_text("no")
    assert main(["data", "doctor", str(tmp_path / "notes.docx"), "--manifest", str(tmp_path / "n.yaml")]) == 2
    assert "of no kind that a manifest takes" in capsys.readouterr().err
