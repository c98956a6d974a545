"""Targets that fail in every way that the harness knows, for its own tests."""

import ctypes
import os
import random
import time
from pathlib import Path

from lrbench.core.errors import InputError
from tests.fuzz.harness import Target

BAD = b"bad"


def make(folder: Path) -> Path:
    (folder / "beside").write_text("whole")
    path = folder / "file"
    path.write_bytes(b"good")
    return path


def damage(numbers: random.Random, content: bytes) -> bytes:
    """Damage every second mutation."""
    return BAD if numbers.random() < 0.5 else b"good enough"


def target(name: str, action, *, covered: bool = False) -> Target:
    def use(path: Path) -> object:
        return action(path) if path.read_bytes() == BAD else "value"

    return Target(name=name, make=make, mutate=damage, use=use, covered=covered)


def refuse(path: Path) -> object:
    raise InputError(f"{path} is bad.")


def crash(path: Path) -> object:
    return ctypes.string_at(1)


def spin(path: Path) -> object:
    while True:
        pass


def wait(path: Path) -> object:
    time.sleep(600)
    return None


def grab(path: Path) -> object:
    return len(bytearray(256 << 20))


def leave(path: Path) -> object:
    os._exit(0)


def litter(path: Path) -> object:
    """Damage the folder, and succeed only in a whole one."""
    if (path.parent / "beside").read_text() != "whole" or (path.parent / "new").exists():
        raise RuntimeError("the folder was not restored")
    (path.parent / "beside").unlink()
    (path.parent / "new").mkdir()
    (path.parent / "new" / "file").write_text("x")
    return "value"


TARGETS = [
    target("refuses", refuse),
    target("changes", lambda path: "other"),
    target("silent", lambda path: "other", covered=True),
    target("unforeseen", lambda path: {}["missing"]),
    target("exits", lambda path: exit(3)),
    target("crashes", crash),
    target("leaves", leave),
    target("spins", spin),
    target("waits", wait),
    target("grabs", grab),
    target("litters", litter),
    Target(name="broken", make=make, mutate=damage, use=refuse),
    Target(name="differs", make=make, mutate=damage, use=lambda path: time.monotonic_ns()),
]
