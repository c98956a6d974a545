"""Fuzzing of what lrbench reads: targets, outcomes, and the child processes in which mutations are tried.

A mutation is reproducible from its target's name and its seed. It is tried in a child process, so that a crash, a hang or
a grab for memory is caught and belongs to one seed. Only `_child.py` imports the product.
"""

import contextlib
import importlib
import json
import os
import queue
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGETS_FOLDER = Path(__file__).with_name("targets")

OUTCOMES = ("same", "refused", "changed", "silent-change", "unforeseen", "hang", "memory", "crash", "broken")
"""What a mutation can lead to. `broken` is a target whose unmutated input is refused or read differently each time."""

FAILURES = frozenset(OUTCOMES[3:])


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of input, and the code that reads it.

    Attributes:
        name: Unique among all targets; names the target on the command line.
        make: Writes a valid input into an empty folder and returns the file that is mutated. Called once a child; after
            each mutation the folder is restored, and files that nothing touched keep their inodes and times.
        mutate: Returns mutated content; see `mutations.py`.
        use: Calls the product on the mutated file. Returns a value that `==` compares, arrays and tensors within it too.
            An `LrbenchError` is a refusal, any other exception a failure.
        covered: Whether a checksum covers the content, so that `use` refuses or returns the value of the unmutated input.
    """

    name: str
    make: Callable[[Path], Path]
    mutate: Callable[[random.Random, bytes], bytes]
    use: Callable[[Path], object]
    covered: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a mutation counts as a hang or as a grab for memory.

    Attributes:
        cpu_seconds: Processor time of one mutation.
        wall_seconds: Elapsed time of one mutation: waiting for a pipe takes no processor time.
        memory: Growth in bytes of the resident memory during one mutation.
    """

    cpu_seconds: float = 10.0
    wall_seconds: float = 60.0
    memory: int = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One mutation that failed."""

    target: str
    seed: int
    outcome: str
    detail: str


@dataclass(kw_only=True)
class Report:
    """What the mutations of one target led to."""

    target: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Trial] = field(default_factory=list)

    def add(self, seed: int, outcome: str, detail: str) -> None:
        """Count one mutation."""
        self.counts[outcome] += 1
        if outcome in FAILURES:
            self.failures.append(Trial(target=self.target, seed=seed, outcome=outcome, detail=detail))


def generator(target: str, seed: int) -> random.Random:
    """The random numbers of one mutation."""
    return random.Random(f"{target}/{seed}")


def mutated(target: Target, seed: int, content: bytes) -> bytes:
    """The content of one mutation; never the unmutated content unless twenty draws give just that."""
    numbers = generator(target.name, seed)
    for _ in range(20):
        changed = target.mutate(numbers, content)
        if changed != content:
            break
    return changed


def load_module(module: str) -> list[Target]:
    """The targets of one module."""
    targets: list[Target] = importlib.import_module(module).TARGETS
    return targets


def discover() -> dict[str, str]:
    """Names of all targets, sorted, and the module of each."""
    modules = {}
    for path in sorted(TARGETS_FOLDER.glob("[!_]*.py")):
        module = f"tests.fuzz.targets.{path.stem}"
        for target in load_module(module):
            if target.name in modules:
                raise ValueError(f"two fuzz targets are called {target.name!r}: {modules[target.name]} and {module}")
            modules[target.name] = module
    return dict(sorted(modules.items()))


def fuzz(
    targets: dict[str, str], seeds: Sequence[int], *, limits: Limits = Limits(), save: Path | None = None
) -> list[Report]:
    """Try one mutation a seed of each of several targets, one after the other in one child as long as that lives.

    Args:
        targets: Names of the targets, and the module of each.
        seeds: The mutations.
        limits: What one mutation may take.
        save: Folder that receives the input of each failing mutation; None to keep none.

    Returns:
        A report for each target.
    """
    reports = {name: Report(target=name) for name in targets}
    remaining = [(name, seed) for name in targets for seed in seeds]
    while remaining:
        tried = _run_child(targets, remaining, reports, limits, save)
        remaining = [(name, seed) for name, seed in remaining[tried:] if not reports[name].counts["broken"]]
    return list(reports.values())


def fuzz_all(
    targets: dict[str, str],
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    limits: Limits = Limits(),
    save: Path | None = None,
    finished: Callable[[Report], None] = lambda report: None,
) -> list[Report]:
    """Try the same seeds on several targets, `jobs` children at a time, in the order of `targets`."""
    work: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for item in targets.items():
        work.put(item)
    reports: dict[str, Report] = {}

    def serve() -> None:
        while True:
            try:
                name, module = work.get_nowait()
            except queue.Empty:
                return
            (reports[name],) = fuzz({name: module}, seeds, limits=limits, save=save)
            finished(reports[name])

    threads = [threading.Thread(target=serve) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [reports[name] for name in targets]


def _run_child(
    targets: dict[str, str],
    trials: list[tuple[str, int]],
    reports: dict[str, Report],
    limits: Limits,
    save: Path | None,
) -> int:
    """Have a new child try targets and seeds until it dies, is killed, or is done; returns how many were begun."""
    with tempfile.TemporaryDirectory(prefix="lrbench-fuzz-") as scratch:
        reading, writing = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "TMPDIR": scratch,
            "LRBENCH_HOME": str(Path(scratch, "home")),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "-1",
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("LRBENCH_DEBUG", None)
        request = {
            "targets": targets,
            "trials": trials,
            "memory": limits.memory,
            "save": save and str(save.absolute()),
        }
        with Path(scratch, "output").open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz._child", str(writing)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                cwd=scratch,
                env=environment,
                start_new_session=True,
            )
        os.close(writing)
        watcher = _Watcher(child, reading, Path(scratch, "output"), limits)
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps(request).encode())
            child.stdin.close()
            return watcher.follow(reports)
        finally:
            os.close(reading)
            _kill(child)


class _Watcher:
    """Reads a child's messages and ends it when it hangs or takes too much memory."""

    def __init__(self, child: subprocess.Popen[bytes], pipe: int, output: Path, limits: Limits) -> None:
        self.child, self.pipe, self.output, self.limits = child, pipe, output, limits
        self.trial: tuple[str, int] | None = None
        self.begun, self.cpu, self.resident = 0.0, 0.0, 0

    def follow(self, reports: dict[str, Report]) -> int:
        """Count outcomes into the reports until the child ends; returns how many trials were begun."""
        tried, pending = 0, b""
        while True:
            if select.select([self.pipe], [], [], 0.05)[0]:
                received = os.read(self.pipe, 1 << 16)
                if not received:
                    break
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if "outcome" in message:
                        reports[message["name"]].add(message["seed"], message["outcome"], message["detail"])
                        self.trial = None
                    else:
                        tried += 1
                        self._begin(message["name"], message["seed"])
            elif self.trial is not None and (outcome := self._excess()):
                name, seed = self.trial
                reports[name].add(seed, outcome, self._end_of_output())
                return tried
        status = self.child.wait()
        if self.trial is not None:
            name, seed = self.trial
            reports[name].add(seed, "crash", f"{_ending(status)}\n{self._end_of_output()}")
        elif status != 0:
            for report in reports.values():
                report.add(-1, "broken", f"the child {_ending(status)}\n{self._end_of_output()}")
        return tried

    def _begin(self, name: str, seed: int) -> None:
        self.trial, self.begun = (name, seed), time.monotonic()
        self.cpu, self.resident = _usage(self.child.pid)

    def _excess(self) -> str | None:
        """`hang` or `memory` where the mutation in work takes too much; the child's stacks are then in its output."""
        cpu, resident = _usage(self.child.pid)
        elapsed = time.monotonic() - self.begun
        if resident - self.resident > self.limits.memory:
            return "memory"
        if cpu - self.cpu > self.limits.cpu_seconds or elapsed > self.limits.wall_seconds:
            self.child.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
            return "hang"
        return None

    def _end_of_output(self) -> str:
        return self.output.read_bytes()[-4000:].decode(errors="replace")


def _usage(process: int) -> tuple[float, int]:
    """Processor seconds and resident bytes of a process."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0, 0
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def _ending(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
