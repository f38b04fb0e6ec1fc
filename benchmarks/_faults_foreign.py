"""What comes from others: indexes and bodies of servers, model folders with code, names."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from _faults import Bench, Fault, Outcome, command, fault

from neurobridge.data import download

SHA = "git-blob"
TREE = "/repos/cowleygroup/V4_compact_models/git/trees/main?recursive=1"
DANDI = "/dandisets/000128/"
ASSETS = "/dandisets/000128/versions/1/assets/?page_size=200&order=path"


class Handler(BaseHTTPRequestHandler):
    """Answers from ``server.answers`` (path -> bytes, or bytes without end); all else is 404."""

    def do_GET(self) -> None:
        content = self.server.answers.get(self.path)
        if content is None:
            return self.send_error(404)
        announced, body = content
        self.send_response(200)
        if announced is not None:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for part in body:
                self.wfile.write(part)

    def log_message(self, *arguments) -> None:
        """Nothing on the terminal."""


@contextlib.contextmanager
def server(answers: dict) -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.answers = answers
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def whole(content: bytes | object) -> tuple[int, list[bytes]]:
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(content), [content]


def endless(block: bytes = b"[" * 2**16, most: int = 2**14) -> tuple[None, Iterator[bytes]]:
    """A body of a gigabyte without a length."""
    return None, (block for _ in range(most))


def faults(bench: Bench) -> Iterator[Fault]:
    download.get_json.__kwdefaults__["pause"] = 0.0  # between two attempts
    download.fetch.__kwdefaults__["pause"] = 0.0
    yield from indexes(bench)
    yield from bodies(bench)
    yield from models(bench)


def get_v4(bench: Bench, answers: dict) -> tuple[Outcome, Path]:
    out = bench.folder() / "out"
    with server(answers) as address:
        found = command("data", "get", "v4", "--out", out, "--api", address, "--raw", address)
    return found, out


def get_nlb(bench: Bench, answers: dict) -> tuple[Outcome, Path]:
    out = bench.folder() / "out"
    with server(answers) as address:
        found = command("data", "get", "nlb", "--out", out, "--api", address)
    return found, out


def blob(**changes: object) -> dict:
    path = "data_V4_responses/responses_repeat_averaged/a.npy"
    return {"path": path, "type": "blob", "size": 4, "sha": "0" * 40} | changes


INDEXES = {
    "no JSON": whole(b"<html>moved</html>"),
    "empty": whole(b""),
    "a list": whole([1, 2]),
    "a number": whole(3),
    "null": whole(b"null"),
    "text that is not UTF-8": whole(b'{"tree": "\xff\xfe"}'),
    "nested without end": whole(b"[" * 200_000),
    "larger than any index": endless(),
    "cut off": (500, [b'{"tree": [']),
    "tree is a number": whole({"tree": 3}),
    "entries are numbers": whole({"tree": [1, 2]}),
    "entry without a path": whole({"tree": [{"type": "blob"}]}),
    "entry without a size": whole({"tree": [{k: v for k, v in blob().items() if k != "size"}]}),
    "size is text": whole({"tree": [blob(size="many")]}),
    "size is negative": whole({"tree": [blob(size=-5)]}),
    "size is null": whole({"tree": [blob(size=None)]}),
    "size is huge": whole({"tree": [blob(size=10**30)]}),
    "path is a number": whole({"tree": [blob(path=7)]}),
    "path leads out": whole({"tree": [blob(path="data_V4_responses/images/../../../../evil")]}),
    "path is absolute": whole({"tree": [blob(path="data_V4_responses/images//etc/evil")]}),
    "path holds a null byte": whole({"tree": [blob(path="data_V4_responses/images/a\0b")]}),
    "path of 5000 characters": whole({"tree": [blob(path="data_V4_responses/images/" + "a" * 5000)]}),
    "path with ESC bytes": whole({"tree": [blob(path="data_V4_responses/images/\x1b[31mred")]}),
    "path twice": whole({"tree": [blob(), blob(sha="1" * 40)]}),
    "a file that is a folder of another": whole({"tree": [blob(), blob(path=blob()["path"] + "/b.npy")]}),
    "sha is a number": whole({"tree": [blob(sha=5)]}),
}
PAGES = {
    "published version is a number": {DANDI: whole({"most_recent_published_version": 7})},
    "no results": {DANDI: whole({"most_recent_published_version": {"version": "1"}}), ASSETS: whole({"next": None})},
    "results are numbers": {
        DANDI: whole({"most_recent_published_version": {"version": "1"}}),
        ASSETS: whole({"results": [3]}),
    },
    "next page is a file": {
        DANDI: whole({"most_recent_published_version": {"version": "1"}}),
        ASSETS: whole({"results": [], "next": "file:///etc/passwd"}),
    },
    "version leads elsewhere": {DANDI: whole({"most_recent_published_version": {"version": "../../x y\n"}})},
}


def indexes(bench: Bench) -> Iterator[Fault]:
    for name, answer in INDEXES.items():
        found, out = get_v4(bench, {TREE: answer})
        clean = not [path for path in out.rglob("*") if path.is_file()] and not (out.parent.parent / "evil").exists()
        yield fault(f"index of v4: {name}", found, found.refused() and clean and "\x1b[31m" not in found.text)
    for name, answers in PAGES.items():
        found, out = get_nlb(bench, answers)
        yield fault(f"index of nlb: {name}", found, found.refused() and not list(out.rglob("*.nwb")))
    looped = {DANDI: whole({"most_recent_published_version": {"version": "1"}})}
    out = bench.folder() / "out"
    with server(looped) as address:
        looped[ASSETS] = whole({"results": [], "next": f"{address}{ASSETS}"})
        found = command("data", "get", "nlb", "--out", out, "--api", address)
    yield fault("index of nlb: pages in a circle", found, found.refused())


def bodies(bench: Bench) -> Iterator[Fault]:
    place = "/cowleygroup/V4_compact_models/main/data_V4_responses/responses_repeat_averaged/a.npy"
    for name, body in {
        "without end": endless(b"x" * 2**16),
        "longer than announced": (None, [b"x" * 4000]),
        "shorter than its index says": whole(b"x"),
        "of another content": whole(b"xxxx"),
        "a length of text": ("four", [b"xxxx"]),
        "a negative length": (-1, [b"xxxx"]),
    }.items():
        found, out = get_v4(bench, {TREE: whole({"tree": [blob()]}), place: body})
        kept = [path for path in out.rglob("*") if path.is_file() and path.stat().st_size > 4]
        yield fault(f"body {name}", found, found.refused() and not kept and not list(out.rglob("a.npy")))


def models(bench: Bench) -> Iterator[Fault]:
    """Folders of networks that bring code of their own: it is never run."""
    for name, index in {
        "a class of its own file": {"_class_name": ["pipeline", "Own"]},
        "a component of its own file": {"unet": ["own", "Own"]},
        "a foreign library": {"unet": ["os", "system"]},
        "a custom class by text": {"_class_name": "Own"},
    }.items():
        folder, mark = bench.folder() / "model", bench.folder() / "ran"
        folder.mkdir()
        code = f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n"
        for file in ("pipeline.py", "own.py", "Own.py", "unet/own.py"):
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(code)
        whole_index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.38.0"}
        whole_index |= {part: ["diffusers", "X"] for part in ("unet", "vae", "scheduler")} | index
        (folder / "model_index.json").write_text(json.dumps(whole_index))
        out = bench.stages("align")
        found = command("adapter", *bench.options(out, generator={"kind": "stable-diffusion", "model": str(folder)}))
        yield fault(f"generator.model with {name}", found, found.refused("model_index.json") and not mark.exists())
        shutil.rmtree(out)
    for option, stage, before in (("captioner", "evaluate", "reconstruct"), ("encoder", "align", "adapt")):
        folder, mark = bench.folder() / "model", bench.folder() / "ran"
        folder.mkdir()
        (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
        auto = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoProcessor": "own.Own", "AutoTokenizer": "own.Own"}
        kind = {"model_type": "git" if option == "captioner" else "clip", "auto_map": auto}
        for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "processor_config.json"):
            (folder / file).write_text(json.dumps(kind))
        out = bench.stages(before)
        changes = (
            {"evaluate": {"captioner": str(folder)}}
            if option == "captioner"
            else {"image": {"encoder": str(folder), "layer": None}}
        )
        if option == "encoder":
            shutil.rmtree(out)
            stage = "pretrain"
        found = command(stage, *bench.options(out, **changes))
        yield fault(f"{option} folder with code of its own", found, found.refused(str(folder)) and not mark.exists())
