"""Quality thresholds: what is dropped, what is said about it, and what is never judged."""

import numpy as np
import pytest

from neurobridge.data import quality
from neurobridge.data.quality import QualitySettings, select_units, unit_quality
from neurobridge.data.recording import Recording, read_recording, write_recording
from neurobridge.errors import UserError

OFF = QualitySettings(min_rate=None, max_isi_violations=None)


def recording(**changes) -> Recording:
    """Four units in 150 s: regular (1 Hz), bursting (1 ms pairs), rare (0.1 Hz), and one that is silent after 50 s."""
    trains = [
        np.arange(0.5, 150, 1.0),
        np.sort(np.concatenate([np.arange(0.25, 150, 1.0), np.arange(0.251, 150, 1.0)])),
        np.arange(5.0, 150, 10.0),
        np.linspace(0.1, 50.0, 100),
    ]
    options = {
        "dataset": "lab",
        "subject": "monkey",
        "session": "day1",
        "signal_kind": "sorted",
        "spike_times": np.concatenate(trains),
        "spike_units": np.repeat(np.arange(4), [len(t) for t in trains]),
        "unit_ids": np.array(["regular", "burst", "rare", "gone"]),
        "regions": np.array(["V1", "V2", "V4", "IT"]),
        "unit_columns": {"snr": np.array([3.0, 2.0, np.nan, 0.5])},
        "duration": (0.0, 150.0),
    }
    return Recording(**(options | changes))


@pytest.mark.parametrize(
    ("settings", "kept", "told"),
    [
        (QualitySettings(), ["regular", "gone"], ["rate in Hz at least 0.5: dropped 1", "at most 0.01: dropped 1"]),
        (OFF, ["regular", "burst", "rare", "gone"], ["kept 4 of 4 units", "rate in Hz: off"]),
        (
            QualitySettings(min_rate=None, max_isi_violations=None, min_presence=0.9),
            ["regular", "burst", "rare"],
            ["minutes with a spike at least 0.9: dropped 1"],
        ),
        (
            QualitySettings(min_rate=None, max_isi_violations=None, min_snr=1.0),
            ["regular", "burst", "rare"],
            ["SNR at least 1: dropped 1"],
        ),
    ],
)
def test_each_threshold_drops_what_misses_it_and_says_so(settings, kept, told):
    before = recording()
    after = select_units(before, settings)
    assert after.unit_ids.tolist() == kept
    for words in told:
        assert words in after.provenance["quality"]
    rows = [before.unit_ids.tolist().index(name) for name in kept]
    assert after.regions.tolist() == before.regions[rows].tolist()
    for new, old in enumerate(rows):
        expected = before.spike_times[before.spike_units == old]
        np.testing.assert_array_equal(after.spike_times[after.spike_units == new], expected)
    assert "quality" not in before.provenance


def test_what_was_measured_joins_the_unit_columns(tmp_path):
    write_recording(select_units(recording(), OFF), tmp_path / "a.h5")
    columns = read_recording(tmp_path / "a.h5").unit_columns
    np.testing.assert_allclose(columns["rate_hz"], [1.0, 2.0, 0.1, 100 / 150])
    np.testing.assert_allclose(columns["isi_below_1_5_ms"], [0.0, 150 / 299, 0.0, 0.0])
    np.testing.assert_allclose(columns["presence_minutes"], [1.0, 1.0, 1.0, 0.5])


def test_order_of_spikes_does_not_matter():
    shuffled = np.random.default_rng(0).permutation(len(recording().spike_times))
    mixed = recording(spike_times=recording().spike_times[shuffled], spike_units=recording().spike_units[shuffled])
    assert select_units(mixed, QualitySettings()).unit_ids.tolist() == ["regular", "gone"]


def test_intervals_are_judged_for_sorted_units_alone():
    after = select_units(recording(signal_kind="threshold_crossing"), QualitySettings())
    assert after.unit_ids.tolist() == ["regular", "burst", "gone"]
    assert "not judged (for sorted units only, not threshold_crossing)" in after.provenance["quality"]


def test_counts_and_envelopes_are_judged_by_snr_alone():
    valued = recording(
        signal_kind="mua_envelope",
        spike_times=np.tile([1.0, 2.0], 4),
        spike_units=np.repeat(np.arange(4), 2),
        spike_values=np.arange(8.0),
    )
    after = select_units(valued, QualitySettings(min_presence=1.0, min_snr=2.5))
    assert after.unit_ids.tolist() == ["regular", "rare"]
    assert after.spike_values.tolist() == [0.0, 1.0, 4.0, 5.0]
    assert after.provenance["quality"].count("mua_envelope") == 3
    assert set(after.unit_columns) == {"snr"}


def test_no_unit_left_is_one_sentence_with_counts_and_mend():
    with pytest.raises(UserError, match=r"kept 0 of 4 units; rate in Hz at least 5: dropped 4.*--quality\.min_rate"):
        select_units(recording(), QualitySettings(min_rate=5.0))


def test_no_snr_known_is_said_and_text_is_refused():
    after = select_units(recording(unit_columns={}), QualitySettings(min_snr=2.0))
    assert "SNR: not judged (the source knows none)" in after.provenance["quality"]
    assert after.provenance[
        "kept"
    ] == "kept 2 of 4 units: 1 below 0.5 Hz, 1 with more than 0.01 of their intervals " + (
        "below 1.5 ms; `--quality.min_rate null` and `--quality.max_isi_violations null` keep them; "
        "SNR not judged (the source knows none)"
    )
    some = select_units(
        recording(unit_columns={"snr": np.array([3.0, np.nan, 3.0, np.nan])}), QualitySettings(min_snr=2.0)
    )
    assert some.provenance["kept"].endswith("keep them; 2 without SNR stay")
    with pytest.raises(UserError, match="'snr' is not one number a unit"):
        select_units(recording(unit_columns={"SNR": np.array(["a", "b", "c", "d"])}), QualitySettings(min_snr=2.0))


def test_units_measured_some_at_a_time_are_those_measured_together(monkeypatch):
    whole = unit_quality(recording())
    for spikes in (1, 130, 300):
        monkeypatch.setattr(quality, "SPIKES_AT_ONCE", spikes)
        parts = unit_quality(recording())
        for name, column in whole.items():
            np.testing.assert_array_equal(parts[name], column)


def test_a_recording_that_keeps_all_its_units_keeps_its_spikes_as_they_are():
    before = recording()
    assert select_units(before, OFF).spike_times is before.spike_times
