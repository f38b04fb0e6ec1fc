"""Command view: a local page on a run. Whoever asks is told from where, and paths are read as pictures alone."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from pathlib import Path
from urllib.parse import urlencode

from neurobridge.api.model import load
from neurobridge.api.recordings import Recordings, open_recordings
from neurobridge.api.viewed import Question, Viewed
from neurobridge.errors import UserError, needs
from neurobridge.terminal import console

with needs("view"):
    from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, MethodNotAllowed, NotFound
    from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
    from werkzeug.wrappers import Request, Response

    from neurobridge.evaluation.report import page

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def view(
    run: Path, *, data: Path | None = None, host: str = "127.0.0.1", port: int = 8420, everyone: bool = False
) -> None:
    """Look at a run in the browser: spikes, expected rates, images found and drawn, and what hiding units changes.

    Args:
        run: Folder of a run whose stage pretrain is done.
        data: Data folder of sessions that the model knows; empty: the run's own.
        host: Address to listen at; this machine alone by default.
        port: Port to listen at; 0: any that is free.
        everyone: Allow a host that other machines can reach. There is no password.
    """
    server = serve(run, data=data, host=host, port=port, everyone=everyone)
    shown = f"[{host}]" if ":" in host else host
    console.print(f"http://{shown}:{server.port}/  (Ctrl-C ends it)", markup=False, soft_wrap=True)
    if host not in LOOPBACK:
        console.print(
            "every machine that reaches this one can look at the recordings and have pictures on this disk read",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    threading.Thread(target=server.app.warm, daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.print("ended", markup=False)
    finally:
        server.server_close()


def serve(
    run: Path, *, data: Path | None = None, host: str = "127.0.0.1", port: int = 0, everyone: bool = False
) -> BaseWSGIServer:
    """A server that listens already. Raises UserError for a host or port that cannot be used, or that is not meant."""
    if host not in LOOPBACK and not everyone:
        raise UserError(
            f"--host {host} can be reached from other machines, which could look at the recordings and have pictures "
            "on this disk read: leave --host out, or add --everyone if that is meant"
        )
    model = load(run)
    found = model.recordings if data is None else open_recordings(data)
    found = Recordings([r for r in found if set(r.unit_keys) <= set(model.net.units.rows)])
    if not found:
        raise UserError(f"no session of {data or model.settings.data} is known to the model of {run}: give --data")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen at {host}, port {port} ({error}): choose another --port") from error
    shown = Page(Viewed(model, found), title=str(run), everyone=everyone)
    with listening:
        return make_server(host, port, shown, threaded=True, request_handler=Quiet, fd=listening.fileno())


class Quiet(WSGIRequestHandler):
    """A handler that does not print every request."""

    def log(self, type: str, message: str, *args: object) -> None:
        pass


class Page:
    """The page as a WSGI application; one answer is computed at a time."""

    def __init__(self, viewed: Viewed, *, title: str, everyone: bool = False) -> None:
        self.viewed, self.title, self.everyone = viewed, title, everyone
        self.lock = threading.Lock()
        self.template = page("view.html.j2")

    def warm(self) -> None:
        """Open every session and judge its twin before anyone asks, so that no first answer has to wait for it."""
        for name in self.viewed.recordings:
            with self.lock, contextlib.suppress(UserError):
                self.viewed.known(name)
                self.viewed.twin(name).trust  # noqa: B018

    def __call__(self, environ: dict, start_response) -> object:
        request = Request(environ)
        try:
            response = self.answer(request)
        except HTTPException as error:
            response = error.get_response(environ)
        response.headers.extend(HEADERS)
        return response(environ, start_response)

    def answer(self, request: Request) -> Response:
        """The whole page, for one question. Refuses names of other hosts (rebinding) and other sites' requests."""
        name = request.host.rpartition(":")[0] if not request.host.endswith("]") else request.host
        if not self.everyone and (name or request.host).strip("[]") not in LOOPBACK:
            raise Forbidden("this page is for the machine that it runs on")
        if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.args:
            raise Forbidden("another site may not ask in your name")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        if request.path != "/":
            raise NotFound
        once = secrets.token_urlsafe(16)
        with self.lock:
            html = self.template.render(once=once, title=self.title, **self.content(request))
        policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-{once}'"
        policy += "; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        return Response(html, mimetype="text/html", headers={"Content-Security-Policy": policy})

    def content(self, request: Request) -> dict[str, object]:
        """What the template shows; a mistake in the question is one sentence beside the answer to the rest."""
        viewed, names = self.viewed, list(self.viewed.recordings)
        errors: list[str] = []
        session = request.args.get("session", names[0])
        if session not in names:
            errors.append(f"there is no session '{session}': {', '.join(names)}")
            session = names[0]
        splits = viewed.known(session).splits
        split = request.args.get("split", next(iter(splits)))
        if split not in splits:
            errors.append(f"session {session} has no windows in the split '{split}': {', '.join(splits)}")
            split = next(iter(splits))
        try:
            trial = int(request.args.get("trial", "0"))
        except ValueError as error:
            raise BadRequest("a trial is a whole number") from error
        last = len(splits[split]) - 1
        if not 0 <= trial <= last:
            errors.append(f"trial {trial} is not there: the split '{split}' has trials 0 to {last}")
            trial = min(max(trial, 0), last)
        recording = viewed.recordings[session]
        areas, ids = sorted(set(recording.regions.tolist())), recording.unit_ids.tolist()
        q = Question(
            session=session,
            split=split,
            trial=trial,
            areas=tuple(a for a in request.args.getlist("area") if a in areas),
            units=tuple(u for u in request.args.getlist("unit") if u in ids),
            picture=request.args.get("picture", "").strip(),
        )
        try:
            viewed.hidden(q)
        except UserError as error:
            errors.append(str(error))
            q = Question(session=session, split=split, trial=trial, picture=q.picture)
        answer = None
        if q.picture:
            try:
                answer = viewed.answer(q)
            except UserError as error:
                errors.append(str(error))
        spikes, changes = viewed.spikes(q)
        units = dict(zip(ids, recording.regions.tolist(), strict=True))
        return {
            "q": q, "names": names, "splits": splits, "last": last, "areas": areas, "units": units, "errors": errors,
            "facts": viewed.facts(q), "seen": viewed.seen(q), "spikes": spikes, "changes": changes,
            "retrieved": viewed.retrieved(q) if viewed.retrieves and viewed.seen(q) else {},
            "retrieves": viewed.retrieves, "drawings": viewed.drawings(q), "answer": answer, "link": link,
        }  # fmt: skip


def link(q: Question, **changes: object) -> str:
    """The address of a question, with changes."""
    asked = {"session": q.session, "split": q.split, "trial": q.trial, "area": q.areas, "unit": q.units} | changes
    return "?" + urlencode(asked | ({"picture": q.picture} if q.picture else {}), doseq=True)
