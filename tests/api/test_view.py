"""The page of a run: what it shows, what hiding changes, and what it refuses to read, to show or to be asked."""

from __future__ import annotations

import re
import socket

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import Client

import neurobridge as nb
from neurobridge.api.recordings import open_recordings
from neurobridge.api.view import Page, serve
from neurobridge.api.viewed import Viewed
from neurobridge.cli import main
from neurobridge.data.images import ImageSet
from neurobridge.data.simulate import simulate
from neurobridge.errors import UserError

TINY = {"width": 16, "depth": 1, "heads": 2, "latents": 2, "unit_width": 8}
SHORT = {"model": TINY, "windows": 16, "groups": 2, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    sizes = {"images": 60, "test_images": 8, "test_repeats": 4, "valid_images": 12, "sessions": 1, "electrodes": 16}
    return simulate(tmp_path_factory.mktemp("view") / "data", seed=3, **sizes)


@pytest.fixture(scope="module")
def aligned(data):
    model = nb.pretrain(nb.open(data), steps=4, layer="block2", resolution=64, **SHORT)
    return nb.align(model, steps=2, joint_steps=0, windows=16, queries=2, hidden=16, progress=False)


@pytest.fixture(scope="module")
def asked(aligned):
    return Client(Page(Viewed(aligned, aligned.recordings), title="a run"))


@pytest.fixture(scope="module")
def picture(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a <b>.png"
    Image.fromarray(ImageSet.read(data / "images.h5").pixels[0]).resize((90, 60)).save(path)
    return path


def sources(html: str) -> dict[str, str]:
    """Pictures of the page with an id."""
    return dict(re.findall(r'<img class="graph" id="(\w+)" src="([^"]+)"', html))


def test_one_window_is_shown_with_what_was_found(asked):
    found = asked.get("/?session=monkeyB_1&split=test&trial=2")
    assert found.status_code == 200
    assert "monkeyB_1, test trial 2" in found.text
    assert re.search(r"everything seen: the image shown is number \d of 8", found.text)
    assert found.text.count("data:image/png;base64,") == 1 + 1 + 6
    assert "http" not in re.sub(r"data:[^\"]+", "", found.text)
    assert 'role="alert"' not in found.text


def test_hiding_an_area_changes_rates_and_images_found_and_says_what_is_hidden(asked, aligned):
    everything, hidden = (asked.get(f"/?session=monkeyB_1&trial=2{more}").text for more in ("", "&area=V1"))
    assert sources(everything)["spikes"] != sources(hidden)["spikes"]
    assert "without what is hidden: the image shown is number" in hidden
    recording = aligned.recordings.named("monkeyB_1")[0]
    v1 = recording.unit_ids[recording.regions == "V1"]
    (row,) = re.findall(r'<tr><th scope="row">V1</th>(.*?)</tr>', hidden)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[:2] == [str(len(v1))] * 2
    window = np.flatnonzero(nb.embed(aligned, recording)["split"].values == "test")[2]
    rates = nb.rates(aligned, recording, hide=v1, windows=[window]).values[0]
    assert cells[3] == f"{rates[recording.regions == 'V1'].mean():.2f}"
    without = nb.embed(aligned, recording, into="image", hide=v1, windows=[window]).values
    assert np.abs(without - nb.embed(aligned, recording, into="image", windows=[window]).values).max() > 1e-6


def test_a_picture_that_is_typed_is_answered_by_the_twin(asked, aligned, picture):
    html = asked.get("/", query_string={"session": "monkeyA_1", "picture": str(picture)}).text
    assert "Expected response to a &lt;b&gt;.png" in html
    assert set(sources(html)) == {"response", "spikes"}
    first = r'ceiling</th></tr></thead>\s*<tbody>\s*<tr><th scope="row">(\w+)</th>.*?</td><td class="n">([\d.]+)<'
    unit, mean = re.search(first, html).groups()
    found = nb.predict(aligned, aligned.recordings.named("monkeyA_1"), picture)
    assert float(mean) == pytest.approx(float(found.sel(unit=unit).mean()), abs=0.006)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"picture": "/dev/zero"}, "no picture at /dev/zero: type the path"),
        ({"picture": "."}, "no picture at .: type the path"),
        ({"picture": __file__}, "is no picture of a kind that is read"),
        ({"session": "nobody"}, "there is no session &#39;nobody&#39;: monkeyA_1, monkeyB_1"),
        ({"split": "exam"}, "has no windows in the split &#39;exam&#39;: test, valid, train"),
        ({"trial": "99"}, "trial 99 is not there: the split &#39;test&#39; has trials 0 to 31"),
        ({"area": ["V1", "V4", "IT"]}, "every unit is hidden: leave one"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_beside_the_page(asked, question, sentence):
    found = asked.get("/", query_string=question)
    assert found.status_code == 200
    (said,) = re.findall(r'role="alert"><p>(.*?)</p></div>', found.text)
    assert sentence in said
    assert "Spikes and expected rates" in found.text


def test_what_others_may_not_ask(asked, aligned):
    assert asked.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert asked.get("/", headers={"Host": "[::1]:8420"}).status_code == 200
    assert asked.get("/?picture=x", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert asked.post("/").status_code == 405
    assert asked.get("/etc/passwd").status_code == 404
    assert asked.get("/?trial=x").status_code == 400
    policy = asked.get("/").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:")
    everyone = Client(Page(Viewed(aligned, aligned.recordings), title="", everyone=True))
    assert everyone.get("/", headers={"Host": "lab.example:8420"}).status_code == 200


def test_it_listens_on_this_machine_alone_unless_told(aligned, capsys):
    assert main(["view", str(aligned.path), "--host", "0.0.0.0"]) == 2
    assert "add --everyone if that is meant" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another --port"):
        serve(aligned.path, port=taken.getsockname()[1])
    server = serve(aligned.path)
    assert server.socket.getsockname()[0] == "127.0.0.1"
    server.server_close()


def test_a_recording_without_pictures(tmp_path):
    rng = np.random.default_rng(0)
    times, units = np.sort(rng.uniform(0, 120, 4000)), rng.integers(0, 6, 4000)
    recording = nb.recording(times, units, regions="hippocampus", session="plain")
    model = nb.pretrain(recording, steps=2, images=False, out=tmp_path / "run", **SHORT)
    page = Client(Page(Viewed(model, model.recordings), title="")).get("/?split=train&unit=3").text
    assert "The model was not aligned to images" in page
    assert re.search(r'hippocampus</th><td class="n">6</td><td class="n">1</td>', page)
    wrong = Client(Page(Viewed(model, model.recordings), title="")).get("/?picture=" + __file__).text
    assert "is no picture of a kind" in wrong


def test_windows_that_are_not_there(aligned):
    recording = open_recordings(aligned.recordings[0])
    with pytest.raises(UserError, match="window 999 is asked for, and session monkeyA_1 has windows 0 to"):
        nb.embed(aligned, recording, windows=[999])
    with pytest.raises(UserError, match="there is no unit 'x' to hide"):
        nb.embed(aligned, recording, hide=["x"])
