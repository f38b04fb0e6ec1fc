"""The command line, built from signatures: one dictionary of commands, typed options, YAML.

Of all commands only the one that is asked for is imported.
"""

from __future__ import annotations

import ast
import ctypes
import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a waiting thread sleeps,
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # but not at once: between small operations waits are short

from neurobridge import __version__
from neurobridge.errors import UserError, is_disk_full, printable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

STAGES, ANALYSES = "neurobridge.pipeline.commands", "neurobridge.pipeline.analysis_commands"
DATA, SOURCES, GET = "neurobridge.pipeline.data_commands", "neurobridge.data.sources", "neurobridge.data.get"
COMMANDS = {
    "demo": f"{STAGES}:demo",
    "run": f"{STAGES}:run",
    "pretrain": f"{STAGES}:pretrain",
    "adapt": f"{STAGES}:adapt",
    "adapt_later": "neurobridge.pipeline.later:adapt_later",
    "align": f"{STAGES}:align",
    "adapter": f"{STAGES}:adapter",
    "reconstruct": f"{STAGES}:reconstruct",
    "evaluate": f"{STAGES}:evaluate",
    "report": f"{STAGES}:report",
    "probe": f"{ANALYSES}:probe",
    "predict": "neurobridge.api.written:predict",
    "movie": "neurobridge.api.movie:movie_command",
    "live": "neurobridge.api.live:live",
    "view": "neurobridge.api.view:view",
    "embed": "neurobridge.api.written:embed",
    "completion": "neurobridge.completion:completion",
    "doctor": "neurobridge.pipeline.machine:doctor",
    "export": "neurobridge.api.share:export",
    "experiment": "neurobridge.api.experiments:experiment",
    "plan": "neurobridge.pipeline.plan:plan",
    "analyse areas": f"{ANALYSES}:areas",
    "analyse time": f"{ANALYSES}:time",
    "analyse units": f"{ANALYSES}:units",
    "analyse retention": f"{ANALYSES}:retention",
    "analyse drift": f"{ANALYSES}:drift",
    "analyse labels": f"{ANALYSES}:labels",
    "data simulate": "neurobridge.data.simulate.simulation:simulate",
    "data movies": "neurobridge.data.simulate.drifting:simulate_movies",
    "data get allen": f"{GET}:get_allen",
    "data get ibl": f"{GET}:get_ibl",
    "data get nlb": f"{GET}:get_nlb",
    "data get retina": f"{GET}:get_retina",
    "data get tvsd": f"{GET}:get_tvsd",
    "data get v4": f"{GET}:get_v4",
    "data import allen": f"{SOURCES}.allen:import_allen",
    "data import ibl": f"{SOURCES}.ibl:import_ibl",
    "data import lab": f"{SOURCES}.lab:import_lab",
    "data import nlb": f"{SOURCES}.nlb:import_nlb",
    "data import retina": f"{SOURCES}.retina:import_retina",
    "data import tvsd": f"{SOURCES}.tvsd:import_tvsd",
    "data import v4": f"{SOURCES}.v4:import_v4",
    "data doctor": f"{DATA}:doctor",
    "data validate": f"{DATA}:validate",
    "data audit": f"{DATA}:audit",
    "data list": f"{DATA}:list_sessions",
    "data show": f"{DATA}:show",
    "generator train": f"{STAGES}:train_scene_generator",
}  # what is typed -> module:function, imported when it is asked for
NO_RUN = ("demo",)  # commands of that module that are no stages
ON_A_RUN = ("adapt", "align", "adapter", "reconstruct", "evaluate", "report")  # stages that begin none
LATER = "adapt_later"  # what 'adapt RUN --sessions ...' is short for


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, 2 for a mistake that the user can mend, 130 after Ctrl-C, 143 after SIGTERM."""
    keep_memory()
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        with terminating():
            return run(argv)
    except UserError as error:
        say(str(error))
        return 2
    except OSError as error:
        if is_disk_full(error):
            where = Path(error.filename).parent if error.filename else "the output folder"
            say(f"the disk that holds {where} is full: free some space or choose another --out")
        elif error.filename and error.strerror:
            say(f"{error.filename} cannot be used ({error.strerror}): check the path and its permissions")
        else:
            raise
        return 2
    except KeyboardInterrupt:
        say("stopped; run the same command again to go on from the last checkpoint")
        return 130
    except Terminated:
        say("terminated; run the same command again to go on from the last checkpoint")
        return 143


def say(sentence: str) -> None:
    """One sentence on the error output; bytes that would steer the terminal are shown, not sent."""
    print(f"neurobridge: {printable(sentence)}", file=sys.stderr)


class Terminated(BaseException):
    """SIGTERM came: what is half-written is cleared up on the way out."""


@contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated`; a Trainer takes it in its own way while it trains."""

    def hear(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # no other thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(argv: list[str]) -> int:
    """Find the command that ``argv`` names, import it and call it. Raises UserError for one that is not there."""
    if "--json" in argv:
        from neurobridge.terminal import console

        console.as_json = True
        try:
            return run([word for word in argv if word != "--json"])
        finally:
            console.as_json = False
    if argv[:1] == ["--complete"]:
        from neurobridge.completion import offered

        print("\n".join(offered(argv[1:])))
        return 0
    if argv[:1] == ["--version"]:
        print(f"neurobridge {__version__}")
        return 0
    if len(argv) == 1 and argv[0] in ON_A_RUN:
        raise UserError(
            f"'neurobridge {argv[0]}' works on a run: give the folder that pretrain or run has made, as in "
            f"'neurobridge {argv[0]} runs/mine'"
        )
    if len(argv) > 1 and not argv[1].startswith("-") and COMMANDS.get(argv[0], "").startswith(f"{STAGES}:"):
        argv = in_run(argv)
    if "--window" in argv[:-1] and argv[at := argv.index("--window") + 1] == "auto":
        argv[at - 1 : at + 1] = ["--advise"]
    words: list[str] = []
    for word in argv:
        if word.startswith("-") or not any(c.split()[: len(words) + 1] == [*words, word] for c in COMMANDS):
            break
        words.append(word)
    name, rest = " ".join(words), argv[len(words) :]
    if name in COMMANDS:
        call(name, rest)
        return 0
    if not rest or rest[0] in ("-h", "--help"):
        print(overview(words))
        return 0
    given = f"neurobridge {' '.join([*words, rest[0]])}"
    there = {c.split()[len(words)] for c in COMMANDS if c.split()[: len(words)] == words}
    near = difflib.get_close_matches(rest[0], there)
    hint = f"did you mean '{near[0]}'?" if near else "there is none of that name"
    raise UserError(f"'{given}' is no command: {hint} 'neurobridge {' '.join([*words, '--help'])}' lists them")


def in_run(argv: list[str]) -> list[str]:
    """``evaluate RUN ...`` in full: the stage with the options of that run, but for those that follow.

    ``adapt RUN`` with new sessions or data is of those that came after the run. Raises UserError where no run is.
    """
    stage, folder, rest = argv[0], argv[1], argv[2:]
    if stage == "adapt" and any(word.startswith(("--sessions", "--data")) for word in rest):
        return [LATER, folder, *rest]
    if stage in NO_RUN:
        return argv
    config = Path(folder) / "config.yaml"
    if not config.is_file():
        raise UserError(f"{folder} holds no run (no config.yaml): give the folder of a run, or --out for a new one")
    return [stage, "--config", str(config), "--out", folder, *rest]


def call(name: str, argv: list[str]) -> None:
    """Import the command ``name`` and call it with the options in ``argv``."""
    from neurobridge.options import call_with

    module, function = COMMANDS[name].split(":")
    call_with(getattr(import_module(module), function), argv, name)


def overview(words: list[str]) -> str:
    """The commands that begin with ``words``, with the first sentence of each."""
    listed = [name for name in COMMANDS if name.split()[: len(words)] == words]
    width = max(map(len, listed))
    lines = [f"  {name:{width}}  {summary(COMMANDS[name])}" for name in listed]
    usage = " ".join(["neurobridge", *words, "COMMAND"])
    head = [] if words else [f"NeuroBridge {__version__}: spike trains in, a picture out.", ""]
    codes = "Exit codes: 0 done, 2 a mistake to mend, 130 stopped by Ctrl-C, 143 terminated."
    tail = ["", f"'{usage} --help' shows the options of a command; --json prints tables as JSON.", codes]
    return "\n".join([*head, f"usage: {usage} [options]", "", *lines, *tail])


def summary(target: str) -> str:
    """First sentence of the docstring of module:function, read from its source."""
    module, function = target.split(":")
    path = Path(__file__).parent.joinpath(*module.split(".")[1:])
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    found = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    return (ast.get_docstring(found) or "").split("\n\n")[0].replace("\n", " ")


def keep_memory() -> None:
    """Tell glibc to keep freed memory: giving large arrays back at every step costs a fifth of a training step."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
