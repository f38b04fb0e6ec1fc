"""Faults while a Trainer works: numbers, signals, disks, checkpoints, several processes."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from _faults import Bench, Fault, Outcome, command, ended, fault, process, until, weights

LONG = {"steps": 60, "windows": 8, "groups": 1, "checkpoint_every": 5, "images": False}
KILL_AT_RENAME = """
import os, signal
rename, seen = os.replace, []
def replace(source, target):
    if str(target).endswith('.ckpt'):
        seen.append(target)
        if len(seen) == 3:
            with open(source, 'r+b') as file:
                file.truncate(os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.replace = replace
"""
LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, resource.RLIM_INFINITY))"


def faults(bench: Bench) -> Iterator[Fault]:
    whole = bench.folder() / "run"
    assert command("pretrain", *bench.options(whole, pretrain=LONG)).code == 0
    yield from numbers(bench)
    yield from processes(bench, whole)
    yield from disks(bench, whole)
    yield from checkpoints(bench, whole)
    yield from precision(bench)


def same(out: Path, whole: Path) -> bool:
    """The same weights bit for bit, and nothing half-written left."""
    return weights(out) == weights(whole) and not list(out.rglob("*.part"))


def numbers(bench: Bench) -> Iterator[Fault]:
    """Losses that are no numbers, in every stage that trains."""
    out = bench.folder() / "run"
    steep = LONG | {"learning_rate": 1e6}
    found = command("pretrain", *bench.options(out, pretrain=steep))
    right = found.refused("pretrain stopped at step", "no finite number") and not (out / "pretrain").exists()
    yield fault("learning rate 1e6 in pretrain", found, right)
    for stage, before, changes in (
        ("adapt", "pretrain", {"adapt": {"learning_rate": 1e30}}),
        ("align", "adapt", {"align": {"joint_learning_rate": 1e30, "joint_unit_learning_rate": 1e30}}),
        ("adapter", "align", {"generator": {"adapter_learning_rate": 1e30, "sketch_steps": 20}}),
    ):
        out = bench.stages(before)
        for folder in out.glob(f"checkpoints/{stage}*"):
            shutil.rmtree(folder)
        found = command(stage, *bench.options(out, **changes))
        right = found.refused("stopped at step", "no finite number") and not (out / stage / "done.json").exists()
        yield fault(f"learning rate 1e30 in {stage}", found, right)


def processes(bench: Bench, whole: Path) -> Iterator[Fault]:
    """Two runs at once, SIGTERM, kill -9, also while a checkpoint is written."""
    out = bench.folder() / "run"
    arguments = bench.options(out, pretrain=LONG | {"steps": 3000, "checkpoint_every": 100})
    running = process("pretrain", *arguments)
    until(running, lambda: list(out.glob("checkpoints/pretrain/*.ckpt")))
    found = command("pretrain", *arguments)
    yield fault("two runs in one --out", found, found.refused("in use by another run"))
    running.send_signal(signal.SIGTERM)
    found = ended(running)
    right = found.code == 143 and not found.traceback and "run the same command again" in found.said
    yield fault("SIGTERM in training", found, right and bool(list(out.glob("checkpoints/pretrain/*.ckpt"))))

    yield killed(bench, whole, bench.folder() / "run", "kill -9 while a checkpoint is written")
    disk = mounted(bench, "size=40m")
    if disk is not None:
        try:
            yield killed(bench, whole, disk / "run", "the same, --out on another file system than temporary files")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)

    out = bench.stages("evaluate")
    running = process("report", *bench.options(out))
    until(running, lambda: "report" in (out / "lock").read_text() or list(out.glob(".report*")))
    running.send_signal(signal.SIGTERM)
    found = ended(running)
    right = found.code in (143, 0) and not found.traceback and not list(out.rglob("*.part"))
    yield fault("SIGTERM in report", found, right)


def killed(bench: Bench, whole: Path, out: Path, name: str) -> Fault:
    """Killed when the third checkpoint is half-written, and run again."""
    arguments = bench.options(bench.folder() / "run", pretrain=LONG)
    arguments[-1] = str(out)
    running = process("pretrain", *arguments, before=KILL_AT_RENAME)
    running.communicate(timeout=240)
    left = len(list(out.rglob("*.part")))
    found = command("pretrain", *arguments)
    right = running.returncode == -9 and left == 1 and found.code == 0 and same(out, whole)
    return fault(name, found, right, "went on, the same weights bit for bit" if right else "")


def disks(bench: Bench, whole: Path) -> Iterator[Fault]:
    """A full one in three guises, one that can only be read."""
    size = max(path.stat().st_size for path in whole.glob("checkpoints/pretrain/*.ckpt"))
    out = bench.folder() / "run"
    arguments = bench.options(out, pretrain=LONG)
    found = ended(process("pretrain", *arguments, before=LIMIT.format(bytes=size // 2)))
    right = found.refused("is full", str(out)) and not list(out.rglob("*.part"))
    again = command("pretrain", *arguments)
    yield fault("largest file limited below a checkpoint", found, right and again.code == 0 and same(out, whole))

    for name, stage in (("the disk full in training", "pretrain"), ("the disk full in report", "report")):
        disk = mounted(bench, "size=1500k" if stage == "pretrain" else "size=40m")
        if disk is None:
            continue
        try:
            out = disk / "run"
            if stage == "pretrain":
                arguments = bench.options(bench.folder() / "run", pretrain=LONG | {"steps": 400, "checkpoint_every": 1})
                arguments[-1] = str(out)
                (disk / "filler").write_bytes(b"0" * 1_000_000)
            else:
                subprocess.run(["cp", "-r", str(bench.stages("evaluate")), str(out)], check=True)
                arguments = bench.options(bench.folder() / "run")
                arguments[-1] = str(out)
                free = int(
                    subprocess.run(
                        ["df", "--output=avail", "-B1", str(disk)], capture_output=True, text=True
                    ).stdout.split()[1]
                )
                (disk / "filler").write_bytes(b"0" * max(0, free - 100_000))
            found = command(stage, *arguments)
            left = list(disk.rglob("*.part"))
            (disk / "filler").unlink()
            again = (
                command(stage, *arguments) if stage == "report" else Outcome(code=0, said="", text="", traceback=False)
            )
            yield fault(name, found, found.refused("is full", str(disk)) and not left and again.code == 0)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)

    disk = mounted(bench, "size=20m")
    if disk is not None:
        try:
            subprocess.run(["cp", "-r", str(bench.data), str(disk / "data")], check=True)
            subprocess.run(["rm", "-rf", str(disk / "data" / "embeddings")], check=True)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            out = bench.folder() / "run"
            found = command("pretrain", *bench.options(out, data=disk / "data"))
            yield fault(
                "data folder that can only be read", found, found.code == 0 and (out / "pretrain/done.json").is_file()
            )
            arguments = bench.options(bench.folder() / "run")
            arguments[-1] = str(disk / "run")
            found = command("pretrain", *arguments)
            yield fault("output that cannot be written to", found, found.refused(str(disk)))
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def mounted(bench: Bench, size: str) -> Path | None:
    """A small file system of its own, or None where this user may not mount one."""
    disk = bench.folder() / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], capture_output=True)
    if done.returncode:
        print("a fault of the disk is left out: this user may not mount a small file system", flush=True)
        return None
    return disk


def checkpoints(bench: Bench, whole: Path) -> Iterator[Fault]:
    """The newest, or every checkpoint damaged in mid-run."""
    begun = bench.folder() / "run"
    arguments = bench.options(begun, pretrain=LONG)
    running = process("pretrain", *arguments)
    until(running, lambda: len(list(begun.glob("checkpoints/pretrain/*.ckpt"))) >= 2)
    running.kill()
    running.communicate()
    for how, spoil in {
        "cut off": lambda c: c[: len(c) // 2],
        "emptied": lambda c: b"",
        "four bytes flipped": lambda c: c[:900] + bytes(b ^ 255 for b in c[900:904]) + c[904:],
        "garbage": lambda c: b"none of ours" * 1000,
        **{
            f"bit {b} of byte 1/{n} flipped": lambda c, b=b, n=n: flipped(c, len(c) // n, b)
            for b, n in ((0, 2), (7, 3), (4, 7), (1, 1000), (2, 5), (3, 11), (5, 50), (6, 200))
        },
    }.items():
        for which in ("newest", "all") if how in ("cut off", "emptied", "four bytes flipped") else ("newest",):
            out = bench.copied(begun, "run")
            paths = sorted(out.glob("checkpoints/pretrain/*.ckpt"), key=lambda p: p.stat().st_mtime)
            for path in paths if which == "all" else paths[-1:]:
                path.write_bytes(spoil(path.read_bytes()))
            found = command("pretrain", *arguments[:-1], out)
            right = found.told("cannot be used", paths[-1].name) and same(out, whole)
            yield fault(f"{which} checkpoint {how}", found, right)
    out = bench.copied(begun, "run")
    found = command("pretrain", *bench.options(out, pretrain=LONG | {"learning_rate": 0.5}))
    yield fault("checkpoint of another learning rate", found, found.refused("begun stage pretrain", "learning_rate"))


def flipped(content: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[min(at, len(content) - 1)] ^= 1 << bit
    return bytes(changed)


def precision(bench: Bench) -> Iterator[Fault]:
    out = bench.folder() / "run"
    found = command("pretrain", *bench.options(out), "--precision", "bf16-mixed")
    yield fault("--precision bf16-mixed", found, found.code == 0 and not found.traceback)
    out = bench.folder() / "run"
    found = ended(process("pretrain", *bench.options(out), "--devices", "2"))
    yield fault("pretrain --devices 2", found, found.code == 0 and not found.traceback)
    out = bench.stages("adapt")
    for folder in out.glob("checkpoints/align*"):
        shutil.rmtree(folder)
    found = ended(process("align", *bench.options(out), "--devices", "2"))
    yield fault(
        "align --devices 2, joint_blocks above depth", found, found.code == 0 and (out / "align/done.json").is_file()
    )
