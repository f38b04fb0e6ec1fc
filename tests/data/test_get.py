"""Fetching against a server of the test's own: ranges, dropped connections, wrong checksums, changed files."""

import contextlib
import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from neurobridge.data import download
from neurobridge.data.download import Item, checksum_of, fetch
from neurobridge.data.get import get_allen, get_nlb, get_retina, get_tvsd, get_v4, ibl_files
from neurobridge.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves ``files`` (path -> bytes).

    drops: answers still to break off half-way. ranges: whether it knows them. hold: unset, it stops after two blocks.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.drops, self.busy, self.ranges, self.seen = 0, 0, True, []
        self.hold = threading.Event()
        self.hold.set()
        self.length: str | None = ""  # what is announced; "": the truth, None: nothing
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        server.seen.append((self.path, self.headers.get("Range")))
        content = server.files.get(self.path)
        if server.busy:
            server.busy -= 1
            return self.send_error(503)
        if content is None:
            return self.send_error(404)
        first = 0
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and server.ranges:
            first = int(asked[1])
            if first >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        rest = content[first:]
        self.send_response(206 if asked and server.ranges else 200)
        length = str(len(rest)) if server.length == "" else server.length
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        if server.drops:
            server.drops -= 1
            self.wfile.write(rest[: len(rest) // 2])
            return self.close_connection_now()
        self.wfile.write(rest[: 2 * download.BLOCK])
        self.wfile.flush()
        server.hold.wait(60)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(rest[2 * download.BLOCK :])

    def close_connection_now(self) -> None:
        self.wfile.flush()
        self.connection.close()

    def log_message(self, *arguments) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def item(server: Server, **changes) -> Item:
    server.files["/big.bin"] = CONTENT
    checksum = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    options = {"url": f"{server.address}/big.bin", "path": "deep/big.bin", "size": len(CONTENT), "checksum": checksum}
    return Item(**(options | changes))


def test_a_file_is_fetched_and_then_left_alone(server, tmp_path, capsys):
    wanted = item(server)
    fetch([wanted], tmp_path, pause=0)
    assert (tmp_path / "deep" / "big.bin").read_bytes() == CONTENT
    assert "1 of 1 files to fetch" in capsys.readouterr().out
    fetch([wanted], tmp_path, pause=0)
    assert "0 of 1 files to fetch" in capsys.readouterr().out
    assert len(server.seen) == 1
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["big.bin"]


def test_dropped_connections_are_resumed(server, tmp_path):
    server.drops = 3
    fetch([item(server)], tmp_path, pause=0)
    assert (tmp_path / "deep" / "big.bin").read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for _, asked in server.seen if asked]
    assert len(server.seen) == 4
    assert 0 < starts[0] < starts[1] < starts[2], "each attempt goes on where the last one ended"


def test_what_an_interrupted_run_left_is_used(server, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "big.bin.part").write_bytes(CONTENT[:1_000_000])
    fetch([item(server)], tmp_path, pause=0)
    assert server.seen == [("/big.bin", "bytes=1000000-")]
    assert (tmp_path / "deep" / "big.bin").read_bytes() == CONTENT
    (tmp_path / "deep" / "big.bin").rename(tmp_path / "deep" / "big.bin.part")
    fetch([item(server)], tmp_path, pause=0)  # whole, but not yet renamed
    assert (tmp_path / "deep" / "big.bin").read_bytes() == CONTENT


def test_ctrl_c_keeps_what_is_there(server, tmp_path):
    wanted, part = item(server), tmp_path / "deep" / "big.bin.part"
    server.hold.clear()
    code = "from pathlib import Path; from neurobridge.data.download import Item, fetch; "
    code += f"fetch([{wanted!r}], Path({str(tmp_path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while not (part.is_file() and part.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    server.hold.set()
    have = part.stat().st_size
    assert 0 < have < len(CONTENT)
    fetch([wanted], tmp_path, pause=0)
    assert server.seen[-1] == ("/big.bin", f"bytes={have}-")
    assert (tmp_path / "deep" / "big.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    server.drops = 1
    fetch([item(server, size=None)], tmp_path, pause=0)
    assert (tmp_path / "deep" / "big.bin").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.busy = 2
    fetch([item(server)], tmp_path, pause=0)
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checksum": "md5:" + "0" * 32}, "damaged on the way"),
        ({"size": 10}, "its index says 10"),
        ({"path": "../big.bin"}, "outside"),
        ({"path": "/etc/big.bin"}, "outside"),
        ({"url": "file:///etc/hosts"}, "no web address"),
    ],
)
def test_what_is_wrong_is_refused_and_not_kept(server, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        fetch([item(server, **changes)], tmp_path / "out", pause=0)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_servers_that_do_not_answer(server, tmp_path):
    with pytest.raises(UserError, match="HTTP 404"):
        fetch([item(server, url=f"{server.address}/nothing")], tmp_path, pause=0)
    server.busy = 100
    with pytest.raises(UserError, match="run the same command again"):
        fetch([item(server)], tmp_path, retries=2, pause=0)
    assert len(server.seen) == 4
    nobody = Server()
    nobody.server_close()
    with pytest.raises(UserError, match="cannot be reached"):
        fetch([item(server, url=f"{nobody.address}/big.bin")], tmp_path, retries=1, pause=0)


def test_checksums(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"hello\n")
    assert checksum_of(path, "git-blob") == "git-blob:ce013625030ba8dba906f756967f9e9ca394464a"
    assert checksum_of(path, "md5") == "md5:b1946ac92492d2347c6235b4d2611184"
    once = hashlib.md5(hashlib.md5(b"hello\n").digest()).hexdigest()
    assert checksum_of(path, "dandi-etag") == f"dandi-etag:{once}-1"
    part, rest = bytes(download.PART), b"the rest"
    path.write_bytes(part + rest)
    parts = hashlib.md5(hashlib.md5(part).digest() + hashlib.md5(rest).digest()).hexdigest()
    assert checksum_of(path, "dandi-etag") == f"dandi-etag:{parts}-2"


def dandiset(server: Server, number: str, assets: dict[str, bytes]) -> None:
    """The answers of DANDI's API for a published version in pages of two."""
    base = f"/dandisets/{number}/versions/0.1/assets/"
    server.files[f"/dandisets/{number}/"] = json.dumps({"most_recent_published_version": {"version": "0.1"}}).encode()
    results = []
    for n, (path, content) in enumerate(assets.items()):
        results.append({"asset_id": f"id{n}", "path": path, "size": len(content)})
        digest = {"dandi:sha2-256": hashlib.sha256(content).hexdigest()} if n % 2 else {}
        etag = hashlib.md5(hashlib.md5(content).digest()).hexdigest()
        server.files[f"{base}id{n}/"] = json.dumps({"digest": digest | {"dandi:dandi-etag": f"{etag}-1"}}).encode()
        server.files[f"/assets/id{n}/download/"] = content
    pages = [results[k : k + 2] for k in range(0, len(results), 2)]
    for n, page in enumerate(pages):
        name = f"{base}?page_size=200&order=path" if n == 0 else f"{base}?page={n}"
        after = f"{server.address}{base}?page={n + 1}" if n + 1 < len(pages) else None
        server.files[name] = json.dumps({"results": page, "next": after}).encode()


def test_allen_and_nlb_come_from_dandi(server, tmp_path, capsys):
    sessions = {f"sub-1/sub-1_ses-{k}.nwb": b"session %d" % k for k in (7, 8, 9)}
    dandiset(server, "000021", sessions | {"sub-1/sub-1_ses-7_probe-3_ecephys.nwb": b"lfp", "readme.txt": b"no"})
    get_allen(tmp_path / "allen", sessions=("7", "9"), api=server.address)
    assert sorted(p.name for p in tmp_path.rglob("*.nwb")) == ["sub-1_ses-7.nwb", "sub-1_ses-9.nwb"]
    get_allen(tmp_path / "all", lfp=True, list_only=True, api=server.address)
    assert not (tmp_path / "all").exists()
    assert "probe-3" in capsys.readouterr().out
    with pytest.raises(UserError, match="session '5' is not in dandiset 000021"):
        get_allen(tmp_path / "allen", sessions=("5",), api=server.address)
    dandiset(server, "000128", {"sub-Jenkins/sub-Jenkins_ses-full_desc-train_behavior+ecephys.nwb": b"spikes"})
    get_nlb(tmp_path / "nlb", api=server.address)
    assert [p.read_bytes() for p in (tmp_path / "nlb").rglob("*.nwb")] == [b"spikes"]


PATH = "data_V4_responses/images/a.npy"
BLOB = {"path": PATH, "type": "blob", "size": 4, "sha": "0" * 40}


def tree(*blobs: object) -> bytes:
    return json.dumps({"tree": list(blobs)}).encode()


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (b"<html>", "does not answer with JSON"),
        (b"\xff\xfe{}", "does not answer with JSON"),
        (b"[" * 100_000, "does not answer with JSON"),
        (b"[1]", "not with an object"),
        (b"null", "not with an object"),
        (b" " * 3000, "more than 1.0 kB"),
        (b'{"tree": 3}', "not a readable index"),
        (tree(1), "not a readable index"),
        (tree({"type": "blob"}), "not a readable index"),
        (tree(BLOB | {"path": 7}), "not a readable index"),
        (tree(BLOB | {"size": "many"}), "not a readable index"),
        (tree(BLOB | {"size": None}), "not a readable index"),
        (tree(BLOB | {"size": -4}), "has '-4' bytes"),
        (tree(BLOB | {"size": 10**30}), "has '1000"),
        (tree(BLOB | {"path": "data_V4_responses/images/" + "a" * 5000}), "which is no path"),
        (tree(BLOB | {"path": "data_V4_responses/images/\x1b[31m"}), "which is no path"),
        (tree(BLOB | {"path": "data_V4_responses/images/../../../evil"}), "outside"),
        (tree(BLOB, BLOB), "more than once"),
        (tree(BLOB, BLOB | {"path": f"{PATH}/b.npy"}), "as a folder too"),
    ],
)
def test_an_index_that_is_none_is_one_sentence(server, tmp_path, monkeypatch, index, sentence):
    monkeypatch.setattr(download, "MOST_JSON", 1000 if index[:1] == b" " else download.MOST_JSON)
    server.files["/repos/cowleygroup/V4_compact_models/git/trees/main?recursive=1"] = index
    with pytest.raises(UserError, match=sentence):
        get_v4(tmp_path / "out", api=server.address, raw=server.address)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_pages_of_an_index_that_are_none_or_lead_in_a_circle(server, tmp_path):
    version, assets = "/dandisets/000128/", "/dandisets/000128/versions/1%2F..%2F2/assets/?page_size=200&order=path"
    server.files[version] = b'{"most_recent_published_version": 7}'
    with pytest.raises(UserError, match="not a readable index of versions"):
        get_nlb(tmp_path, api=server.address)
    server.files[version] = b'{"most_recent_published_version": {"version": "1/../2"}}'
    for page, sentence in {
        b'{"next": null}': "not a readable index of files",
        b'{"results": [3]}': "not a readable index of files",
        b'{"results": [], "next": "file:///etc/hosts"}': "no web address",
        b'{"results": [], "next": "http://a b"}': "no web address",
        json.dumps({"results": [], "next": server.address + assets}).encode(): "leads in a circle",
    }.items():
        server.files[assets] = page
        with pytest.raises(UserError, match=sentence):
            get_nlb(tmp_path, api=server.address)


@pytest.mark.parametrize(
    ("length", "sentence"),
    [(None, "bytes instead of"), ("four", "says that it has 'four'"), ("-1", "says that it has")],
)
def test_a_body_is_read_no_further_than_was_said(server, tmp_path, length, sentence):
    server.length = length
    one = item(server, size=1000)
    server.files["/big.bin"] = bytes(10 * download.BLOCK)
    with pytest.raises(UserError, match=sentence):
        fetch([one], tmp_path, pause=0)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_tvsd_comes_from_gin(server, tmp_path):
    names = ("THINGS_normMUA.mat", "_logs/things_imgs.mat", "_logs/1024chns_mapping_20220105.mat")
    for name in names:
        server.files[f"/paolo_papale/TVSD/raw/master/monkeyF/{name}"] = name.encode()
    get_tvsd(tmp_path, monkeys=("F",), gin=server.address)
    assert (tmp_path / "monkeyF" / "_logs" / "things_imgs.mat").read_bytes() == b"_logs/things_imgs.mat"
    with pytest.raises(UserError, match="the animals are F and N"):
        get_tvsd(tmp_path, monkeys=("X",), gin=server.address)
    pointer = b"/annex/objects/MD5E-s194--abc.mat\n"
    server.files["/paolo_papale/TVSD/raw/master/monkeyN/THINGS_normMUA.mat"] = pointer
    for name in names[1:]:
        server.files[f"/paolo_papale/TVSD/raw/master/monkeyN/{name}"] = b"x"
    with pytest.raises(UserError, match="pointer, not the file itself"):
        get_tvsd(tmp_path, monkeys=("N",), gin=server.address)


def test_the_retina_comes_from_gin(server, tmp_path):
    base = "/gollischlab/Liu_Gollisch_2021_RGC_spiketrains_spatial_contrast_model/raw/master/"
    server.files |= {base + "responses2naturalimages.h5": b"spikes", base + "trialnumbers.txt": b"13\n"}
    get_retina(tmp_path, gin=server.address)
    assert (tmp_path / "responses2naturalimages.h5").read_bytes() == b"spikes"
    server.files[base + "responses2naturalimages.h5"] = b"/annex/objects/MD5E-s194--abc.h5\n"
    with pytest.raises(UserError, match="pointer, not the file itself"):
        get_retina(tmp_path / "b", gin=server.address)


def test_v4_comes_from_github(server, tmp_path):
    contents = {
        "data_V4_responses/responses_repeat_averaged/responses_201025.npy": b"numbers",
        "data_V4_responses/images/images_201025.zip": b"pictures",
        "data_V4_responses/readme.txt": b"words",
        "classes/code.py": b"code",
    }
    tree = []
    for path, content in contents.items():
        sha = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        tree.append({"path": path, "type": "blob", "size": len(content), "sha": sha})
        server.files[f"/cowleygroup/V4_compact_models/main/{path}"] = content
    server.files["/repos/cowleygroup/V4_compact_models/git/trees/main?recursive=1"] = json.dumps(
        {"tree": tree}
    ).encode()
    get_v4(tmp_path, api=server.address, raw=server.address)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"responses_mean/responses_201025.npy", "images/images_201025.zip"}


def test_ibl_takes_what_the_reader_needs_and_one_sorter(tmp_path):
    one_api, alf = pytest.importorskip("one.api"), pytest.importorskip("one.alf.cache")
    session = tmp_path / "lab" / "Subjects" / "mouse" / "2020-01-02" / "001" / "alf"
    names = [
        "_ibl_trials.table.pqt",
        "_ibl_wheel.position.npy",
        "_ibl_wheel.timestamps.npy",
        "_ibl_bodyCamera.times.npy",
    ]
    for sorter in ("pykilosort", "iblsorter"):
        for name in ("spikes.times.npy", "spikes.clusters.npy", "spikes.templates.npy", "clusters.metrics.pqt"):
            names.append(f"probe00/{sorter}/{name}")
    names += ["probe01/pykilosort/spikes.times.npy", "probe01/pykilosort/#2024-05-06#/clusters.uuids.csv"]
    for name in names:
        (session / name).parent.mkdir(parents=True, exist_ok=True)
        (session / name).write_bytes(b"12345")
    alf.make_parquet_db(tmp_path, hash_files=False)
    one = one_api.One(cache_dir=tmp_path, mode="local")
    (eid,) = one.search()
    files = ibl_files(one, str(eid))
    assert set(files) == {
        "alf/_ibl_trials.table.pqt",
        "alf/_ibl_wheel.position.npy",
        "alf/_ibl_wheel.timestamps.npy",
        "alf/probe00/iblsorter/spikes.times.npy",
        "alf/probe00/iblsorter/spikes.clusters.npy",
        "alf/probe00/iblsorter/clusters.metrics.pqt",
        "alf/probe01/pykilosort/spikes.times.npy",
        "alf/probe01/pykilosort/#2024-05-06#/clusters.uuids.csv",
    }
    assert set(files.values()) == {5}
    paths, _ = one.load_datasets(str(eid), list(files), download_only=True, assert_present=False)
    assert all(Path(path).is_file() for path in paths)
