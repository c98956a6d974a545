"""The child process of the fuzz harness: imports targets and tries mutations of their inputs, one after the other."""

import contextlib
import ctypes
import dataclasses
import faulthandler
import hashlib
import itertools
import json
import math
import os
import re
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrbench.core.errors import LrbenchError

from .harness import FAILURES, Target, load_module, mutated

# Beyond what counts as too much, so that the machine survives: allocations fail at this many bytes over the start.
_CEILING = 4


class Sandbox:
    """A folder that is restored after each mutation; files that nothing touched keep their inodes and times."""

    def __init__(self, target: Target) -> None:
        self.folder, self._copy = (Path(target.name, part).absolute() for part in ("input", "pristine"))
        self.folder.parent.mkdir()
        self.folder.mkdir()
        self.file = target.make(self.folder)
        self.content = self.file.read_bytes()
        self._clock = self.file.stat().st_mtime_ns
        shutil.copytree(self.folder, self._copy, symlinks=True)
        self._states = self._tree()

    def write(self, content: bytes) -> None:
        """Put mutated content into the file, with a new time: the product may remember files by size and time."""
        self.file.write_bytes(content)
        self._clock += 1_000_000
        os.utime(self.file, ns=(self._clock, self._clock))

    def restore(self) -> None:
        """Undo whatever was written, deleted or added."""
        now = self._tree()
        for path in sorted(now, reverse=True):
            if path not in self._states:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        for path, state in self._states.items():
            if now.get(path) == state:
                continue
            original = self._copy / path.relative_to(self.folder)
            if original.is_dir() and not original.is_symlink():
                path.mkdir(exist_ok=True)
            elif original.is_symlink():
                path.unlink(missing_ok=True)
                path.symlink_to(os.readlink(original))
            else:
                path.write_bytes(original.read_bytes())
                os.utime(path, ns=(state[2], state[2]))
                self._states[path] = self._state(path)

    @staticmethod
    def _state(path: Path) -> tuple[int, int, int, int]:
        status = path.lstat()
        size, modified = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
        return status.st_ino, size, modified, status.st_mode

    def _tree(self) -> dict[Path, tuple[int, int, int, int]]:
        return {path: self._state(path) for path in sorted(self.folder.rglob("*"))}


def comparable(value: object) -> object:
    """A value with arrays and tensors replaced by their hashes, so that `==` compares it."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [comparable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: comparable(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        array: Any = value
        return str(array.dtype), tuple(array.shape), hashlib.sha256(array.tobytes()).hexdigest()
    return value


def attempt(target: Target, path: Path, expected: object) -> tuple[str, str]:
    """Outcome and detail of one use."""
    try:
        value = target.use(path)
        with _deep_values():
            value = comparable(value)
    except LrbenchError as error:
        return "refused", str(error)
    except MemoryError as error:
        return "memory", _place(error)
    except BaseException as error:
        return "unforeseen", _place(error)
    with _deep_values():
        if value == expected:
            return "same", ""
        detail = f"{str(expected)[:500]}\nbecame\n{str(value)[:500]}"
    return ("silent-change" if target.covered else "changed"), detail


@contextlib.contextmanager
def _deep_values() -> Iterator[None]:
    """Allow the harness more recursion than the product, which may accept a value nested as deeply as its own limit."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _place(error: BaseException) -> str:
    """The error, its last calls, and the last calls within lrbench before them."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames if f"{os.sep}lrbench{os.sep}" in f.filename]
    last = "".join(traceback.format_list(frames[-3:]))
    return f"{type(error).__name__}: {str(error)[:500]}\nin lrbench: {' > '.join(ours[-6:])}\n{last}"


def _memory(key: str) -> int:
    match = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) << 10 if match else 0


def _baseline(target: Target, sandbox: Sandbox) -> object:
    values = []
    for _ in range(2):
        values.append(comparable(target.use(sandbox.file)))
        sandbox.restore()
    if values[0] != values[1]:
        raise AssertionError(f"two uses of the unmutated input differ: {values[0]} and {values[1]}")
    return values[0]


def _keep(save: str | None, target: Target, seed: int, name: str, content: bytes) -> Path | None:
    """Save a mutation's input before it is tried, since the child may not survive it."""
    if save is None:
        return None
    folder = Path(save, f"{target.name}-{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


def serve(request: dict[str, Any], pipe: int) -> None:
    """Try the mutations of a request; write a message before and after each."""
    for name, trials in itertools.groupby(request["trials"], key=lambda trial: trial[0]):
        (target,) = [target for target in load_module(request["targets"][name]) if target.name == name]
        if not _serve_target(target, [seed for _, seed in trials], request, pipe):
            return


def _serve_target(target: Target, seeds: list[int], request: dict[str, Any], pipe: int) -> bool:
    """Try the mutations of one target; returns False where it is broken."""

    def tell(**message: object) -> None:
        os.write(pipe, json.dumps({"name": target.name, **message}).encode() + b"\n")

    try:
        sandbox = Sandbox(target)
        expected = _baseline(target, sandbox)
    except BaseException:
        tell(seed=-1)
        tell(seed=-1, outcome="broken", detail=traceback.format_exc())
        return False
    ceiling = _memory("VmData") + _CEILING * request["memory"]
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, resource.RLIM_INFINITY))
    for seed in seeds:
        content = mutated(target, seed, sandbox.content)
        tell(seed=seed)
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
        sandbox.write(content)
        kept = _keep(request["save"], target, seed, sandbox.file.name, content)
        outcome, detail = attempt(target, sandbox.file, expected)
        grown = _memory("VmHWM") - before
        if grown > request["memory"] and outcome != "memory":
            outcome, detail = "memory", f"{grown >> 20} MiB; then {outcome}: {detail}"
        if kept and outcome not in FAILURES:
            shutil.rmtree(kept)
        elif kept:
            (kept / "why.txt").write_text(f"{outcome}\n{detail}\n", errors="backslashreplace")
        tell(seed=seed, outcome=outcome, detail=detail)
        sandbox.restore()
    return True


def main() -> None:
    """Read a request from standard input and serve it."""
    # PR_SET_PDEATHSIG: end with the parent, also when that is killed.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    warnings.simplefilter("ignore")
    # Dumps of memory for each crash would fill the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(json.load(sys.stdin), int(sys.argv[1]))


if __name__ == "__main__":
    main()
