"""The command line, built from signatures: one dictionary of commands, typed options, YAML, no parser code."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a waiting thread sleeps,
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # but not at once: between small operations waits are short

from jsonargparse import ActionYesNo, ArgumentParser, auto_cli

from neurobridge.errors import UserError, is_disk_full
from neurobridge.pipeline import analysis_commands, commands, data_commands, later

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

COMMANDS = {
    "demo": commands.demo,
    "run": commands.run,
    "pretrain": commands.pretrain,
    "adapt": commands.adapt,
    "adapt_later": later.adapt_later,
    "align": commands.align,
    "adapter": commands.adapter,
    "reconstruct": commands.reconstruct,
    "evaluate": commands.evaluate,
    "report": commands.report,
    "analyse": {
        "_help": "Analyse a run folder: areas, time, number of units, retention, drift.",
        "areas": analysis_commands.areas,
        "time": analysis_commands.time,
        "units": analysis_commands.units,
        "retention": analysis_commands.retention,
        "drift": analysis_commands.drift,
    },
    "data": {
        "_help": "Simulate, import, check and show recordings.",
        "simulate": commands.simulate,
        "get": {
            "_help": "Download a public data set; a broken download goes on where it stopped.",
            "allen": data_commands.get_allen,
            "ibl": data_commands.get_ibl,
            "nlb": data_commands.get_nlb,
            "tvsd": data_commands.get_tvsd,
            "v4": data_commands.get_v4,
        },
        "import": {
            "_help": "Bring raw files into the on-disk format.",
            "allen": data_commands.import_allen,
            "ibl": data_commands.import_ibl,
            "lab": data_commands.import_lab,
            "nlb": data_commands.import_nlb,
            "tvsd": data_commands.import_tvsd,
            "v4": data_commands.import_v4,
        },
        "doctor": data_commands.doctor,
        "validate": data_commands.validate,
        "audit": data_commands.audit,
        "list": data_commands.list_sessions,
        "show": data_commands.show,
    },
    "generator": {"_help": "Picture generators.", "train": commands.train_scene_generator},
}


def keep_memory() -> None:
    """Tell glibc to keep freed memory: giving large arrays back at every step costs a fifth of a training step."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


class Parser(ArgumentParser):
    """Truth values are flags: --quick and --no_quick."""

    def add_argument(self, *args, **options):
        if options.get("type") is bool:
            del options["type"]
            options["action"] = ActionYesNo(no_prefix="no_")
        return super().add_argument(*args, **options)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0, 2 for a mistake that the user can mend, 130 after Ctrl-C, 143 after SIGTERM."""
    keep_memory()
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["adapt"] and len(argv) > 1 and not argv[1].startswith("-"):
        argv[0] = "adapt_later"  # adapt RUN: sessions that came after it
    try:
        with terminating():
            auto_cli(
                COMMANDS, args=argv, parser_class=Parser, prog="neurobridge", description="Spike trains to pictures."
            )
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
    return 0


def say(sentence: str) -> None:
    """One sentence on the error output; bytes that would steer the terminal are shown, not sent."""
    print("neurobridge: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence), file=sys.stderr)


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
