"""Kill lrbench at random moments, run it again, and compare the outcome with that of an undisturbed run.

    python tests/fuzz/kills.py --count 1000                      # every verb and signal
    python tests/fuzz/kills.py --count 50 --verb run --signal worker

A chain starts one command in a prepared workspace, disturbs it one to four times at random moments, each time starting
the same command again, and lets the last one finish. Then every file must have the bytes of the undisturbed run
(times within results excepted), and no other file may be there: no temporary file, no locks that are not empty.
Commands run in forks of this process, which has imported everything; workers are forks too, but for every kill of the
parent alone, where they are processes of their own as they are in use. Exits with status 1 when a chain fails.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.helpers import TINY_TASKS, tiny_suite_toml

SIGNALS = ("kill", "term", "int-int", "worker", "parent", "stop")
"""SIGKILL to all; SIGTERM to the parent; two SIGINT to all; SIGKILL to a worker; to the parent; SIGSTOP and SIGCONT."""

# Nothing that the tiny suite does takes so long, on any machine.
_PATIENCE = 240.0

_SHARD_BYTES = 16 << 10

_SUITE = tiny_suite_toml(
    targets=["mine"],
    arms=["step", "hold", "average"],
    protocols=["probe", "finetune"],
    seeds=[0],
    schedule={"epochs": 4, "boundaries": [2, 3]},
)

_TASKS = {
    "tiny-source": f'layout = "synthetic"\n{TINY_TASKS["tiny-source"]}',
    "mine": 'layout = "split-folders"\nroot = "mine"',
}

COMMANDS = {
    "pretrain": ["pretrain", "tiny.toml", "--workers", "2"],
    "prepare": ["data", "prepare", "mine", "--suite", "tiny"],
    "probe": ["transfer", "--snapshot", "tiny/step/seed0/stage2", "--task", "mine"],
    "finetune": ["transfer", "--snapshot", "tiny/step/seed0/stage2", "--task", "mine", "--protocol", "finetune"],
    "leaderboard": ["leaderboard"],
    "run": ["run", "tiny.toml", "--workers", "2"],
}


@dataclass
class Reference:
    """What a command starts from, what it comes to, and how long that takes."""

    start: Path
    files: dict[str, str]
    seconds: float


def prepare_imports() -> None:
    """Import all that commands import, so that their forks need not."""
    import torch

    torch.set_num_threads(1)
    import matplotlib.pyplot  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import timm  # noqa: F401

    import lrbench.cli.app
    import lrbench.data.prepare
    import lrbench.data.resized_images
    import lrbench.jobs.local
    import lrbench.jobs.plan
    import lrbench.leaderboard.page
    import lrbench.pretraining.segments
    import lrbench.transfer.cell
    import lrbench.transfer.protocols.finetune

    # A cache of several shards.
    lrbench.data.resized_images._SHARD_BYTES = _SHARD_BYTES


def make_home(folder: Path) -> Path:
    """An empty workspace with the tiny suite, and one task of real files."""
    from tests import trees

    home = folder / "home"
    home.mkdir(parents=True)
    (home / "tiny.toml").write_text(_SUITE)
    (folder / "tasks").mkdir()
    for name, files in _TASKS.items():
        (folder / "tasks" / f"{name}.toml").write_text(f'name = "{name}"\n\n[files]\n{files}\n')
    for split, count in (("train", 16), ("test", 8)):
        for label, name in enumerate("abc"):
            for number in range(count):
                path = home / "data" / "mine" / split / name / f"{number}.png"
                trees.save(path, trees.image(label, number), "PNG")
    return home


def start(verb: str, home: Path, *, spawn: bool = False) -> int:
    """Start a command in a session of its own; returns its process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        output = os.open(home.parent / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(home)
        os.environ |= {"LRBENCH_HOME": str(home), "LRBENCH_TASKS": str(home.parent / "tasks")}
        if spawn:
            # Workers that are processes of their own write shards of the same size.
            os.environ["PYTHONPATH"] = str(_customisation(home.parent))
        else:
            whole = multiprocessing.get_context
            multiprocessing.get_context = lambda method=None: whole("fork")  # type: ignore[assignment]
        sys.argv = ["lrbench", *COMMANDS[verb]]
        from lrbench.cli import main

        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0
    except BaseException as error:
        print(f"unforeseen: {error!r}", file=sys.stderr)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _customisation(folder: Path) -> Path:
    """A folder whose `sitecustomize` sets the size of shards in every Python process that has it in its path."""
    path = folder / "customisation"
    path.mkdir(exist_ok=True)
    code = f"import lrbench.data.resized_images as images\n\nimages._SHARD_BYTES = {_SHARD_BYTES}\n"
    (path / "sitecustomize.py").write_text(code)
    return path


def members(session: int) -> list[int]:
    """The living processes of a session, its leader first."""
    living = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    living.append(int(entry.name))
    return sorted(living, key=lambda process: process != session)


def ended(process: int) -> int | None:
    """The exit status of a child, negative for a signal; None while it runs."""
    done, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def wait_for(process: int) -> int | None:
    """The exit status of a child; None where it does not end, after which it is killed."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if (status := ended(process)) is not None:
            return status
        time.sleep(0.01)
    end_session(process)
    os.waitpid(process, 0)
    return None


def end_session(session: int) -> None:
    """Kill all processes of a session."""
    for process in members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def send(kind: str, session: int, numbers: random.Random) -> bool:
    """Disturb a running command; returns whether it was still there to be disturbed."""
    living = members(session)
    if session not in living:
        return False
    workers = living[1:]
    with contextlib.suppress(ProcessLookupError):
        if kind == "kill":
            for process in living:
                os.kill(process, signal.SIGKILL)
        elif kind == "term":
            os.kill(session, signal.SIGTERM)
        elif kind == "int-int":
            for pause in (numbers.uniform(0.0, 0.5), 0.0):
                os.killpg(session, signal.SIGINT)
                time.sleep(pause)
        elif kind == "worker":
            if not workers:
                return False
            os.kill(numbers.choice(workers), signal.SIGKILL)
        elif kind == "parent":
            os.kill(session, signal.SIGKILL)
        else:
            os.killpg(session, signal.SIGSTOP)
            time.sleep(numbers.uniform(0.05, 0.5))
            os.killpg(session, signal.SIGCONT)
    return True


def contents(home: Path) -> dict[str, str]:
    """Hash of every file but locks, times and mirrors, by path."""
    hashes = {}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_dir() or re.fullmatch(r"cache/results/[^.]*\.arrow", name) or path.name == "timings.jsonl":
            continue
        if re.fullmatch(r"\..*\.lock", path.name):
            if path.stat().st_size:
                hashes[name] = "a lock that is not empty"
            continue
        content = path.read_bytes()
        if name.startswith("leaderboard/results/") and path.suffix == ".json":
            record = json.loads(content)
            # The record's own hash covers its times.
            for key in ("timings", "computed", "record_sha256"):
                record.pop(key, None)
            content = json.dumps(record, sort_keys=True).encode()
        hashes[name] = hashlib.sha256(content).hexdigest()
    return hashes


def differences(files: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What differs between two workspaces, a line a file."""
    lines = [f"{name} is left over" for name in sorted(files.keys() - expected.keys())]
    lines += [f"{name} is missing" for name in sorted(expected.keys() - files.keys())]
    return lines + [
        f"{name} differs" for name in sorted(files.keys() & expected.keys()) if files[name] != expected[name]
    ]


def make_references(folder: Path, verbs: list[str]) -> dict[str, Reference]:
    """Run every command once, undisturbed, from the state that its chains start from."""
    empty = folder / "empty"
    make_home(empty)
    trained = folder / "trained"
    shutil.copytree(empty, trained)
    _undisturbed("pretrain", trained / "home")
    starts = {"pretrain": empty, "run": empty}
    if "leaderboard" in verbs:
        starts["leaderboard"] = _without_pages(trained, folder)
    references = {}
    for verb in verbs:
        # Each chain has the same path: another could appear in an output.
        home = copy_start(starts.get(verb, trained), folder)
        begun = time.monotonic()
        _undisturbed(verb, home)
        seconds = time.monotonic() - begun
        references[verb] = Reference(start=starts.get(verb, trained), files=contents(home), seconds=seconds)
        print(f"{verb}: {len(references[verb].files)} files, {seconds:.1f} s undisturbed", file=sys.stderr, flush=True)
    return references


def _without_pages(trained: Path, folder: Path) -> Path:
    """A workspace with all results and no page."""
    complete = folder / "complete"
    shutil.copytree(trained, complete)
    _undisturbed("run", complete / "home")
    for path in (complete / "home" / "leaderboard").iterdir():
        if path.name != "results":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(complete / "home" / "cache" / "results")
    return complete


def copy_start(start: Path, folder: Path) -> Path:
    """A fresh copy of a prepared workspace, at the place where all commands run."""
    place = folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(start, place)
    return place / "home"


def _undisturbed(verb: str, home: Path) -> None:
    status = wait_for(start(verb, home))
    if status != 0:
        raise SystemExit(f"{verb} ends with {status} undisturbed:\n{(home.parent / 'output').read_text()}")


def chain(
    verb: str, kinds: list[str], reference: Reference, folder: Path, numbers: random.Random, done: Counter[str]
) -> list[str]:
    """Disturb one command several times and let it finish; returns what is wrong afterwards."""
    home = copy_start(reference.start, folder)
    problems = []
    sessions = []
    for kind in kinds:
        session = start(verb, home, spawn=kind == "parent")
        sessions.append(session)
        # Workers of their own import torch first.
        time.sleep(numbers.uniform(0.0, reference.seconds * 0.9 + (8.0 if kind == "parent" else 0.0)))
        done[kind] += send(kind, session, numbers)
        status = wait_for(session)
        if status is None:
            problems.append(f"did not end after {kind}")
        elif status not in _expected(kind):
            problems.append(f"ended with status {status} after {kind}")
        if kind != "parent":
            # Workers outlive a killed parent by a moment, and the next command meets them; nothing else may.
            problems += [f"processes left after {kind}"] * bool(_remaining(session, 15.0))
    status = wait_for(start(verb, home))
    if status != 0:
        problems.append(f"the last run ended with status {status}")
    for session in sessions:
        problems += ["processes left at the end"] * bool(_remaining(session, 60.0))
        end_session(session)
    problems += differences(contents(home), reference.files)
    if problems:
        problems.append((home.parent / "output").read_text()[-3000:])
    return problems


def _expected(kind: str) -> set[int]:
    """Exit statuses after a disturbance: 0 where it came too late."""
    return {
        "kill": {0, -signal.SIGKILL},
        "parent": {0, -signal.SIGKILL},
        "term": {0, 130, -signal.SIGTERM},
        "int-int": {0, 130},
        "worker": {0, 1},
        "stop": {0},
    }[kind]


def _remaining(session: int, seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (living := members(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return living


def disturbances(
    count: int, verbs: list[str], kinds: list[str], numbers: random.Random
) -> Iterator[tuple[str, list[str]]]:
    """Verbs and the signals of their chains, `count` signals in all."""
    while count > 0:
        for verb in verbs:
            # Only suites have workers.
            usable = [kind for kind in kinds if kind != "worker" or verb in {"pretrain", "run"}]
            length = min(count, numbers.randint(1, 4))
            if usable and length:
                yield verb, [numbers.choice(usable) for _ in range(length)]
                count -= length


def campaign(count: int, verbs: list[str], kinds: list[str], seed: int, folder: Path, save: Path | None) -> int:
    """Run chains and print what came of them; returns the number of chains that failed."""
    from tabulate import tabulate

    references = make_references(folder, verbs)
    hits: Counter[tuple[str, str]] = Counter()
    chains: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    begun = time.monotonic()
    # Ctrl-C shows what came out until then.
    with contextlib.suppress(KeyboardInterrupt):
        for number, (verb, signals) in enumerate(disturbances(count, verbs, kinds, random.Random(seed))):
            done: Counter[str] = Counter()
            problems = chain(verb, signals, references[verb], folder, random.Random(f"{seed}/{number}"), done)
            chains[verb] += 1
            hits.update({(verb, kind): hit for kind, hit in done.items()})
            if problems:
                failed[verb] += 1
                print(f"\nchain {number}: {verb}, {', '.join(signals)}:\n" + "\n".join(problems), flush=True)
                if save is not None:
                    shutil.copytree(folder / "place", save / f"chain-{number}", dirs_exist_ok=True)
            if number % 20 == 19:
                print(f"[{time.monotonic() - begun:6.0f} s] {hits.total()} disturbed", file=sys.stderr, flush=True)
    rows = [[verb, *(hits[verb, kind] for kind in kinds), chains[verb], failed[verb]] for verb in verbs]
    rows.append(["all", *(sum(hits[verb, kind] for verb in verbs) for kind in kinds), chains.total(), failed.total()])
    print("\n" + tabulate(rows, ["verb", *kinds, "chains", "failed chains"], tablefmt="github"))
    print(f"{hits.total()} disturbed while running, in {time.monotonic() - begun:.0f} s")
    return failed.total()


def main(options: list[str] | None = None) -> None:
    """Run the command line, or other options, and exit with status 1 if a chain fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000, help="signals sent; those that come too late count, too")
    parser.add_argument("--verb", choices=COMMANDS, nargs="*", action="extend", help="by default all")
    parser.add_argument("--signal", choices=SIGNALS, nargs="*", action="extend", help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder that receives the workspaces of failing chains")
    arguments = parser.parse_args(options)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    for name in ("LRBENCH_DATA", "LRBENCH_DEBUG"):
        os.environ.pop(name, None)
    prepare_imports()
    with tempfile.TemporaryDirectory(prefix="lrbench-kills-") as folder:
        failed = campaign(
            arguments.count,
            arguments.verb or list(COMMANDS),
            arguments.signal or list(SIGNALS),
            arguments.seed,
            Path(folder),
            arguments.save,
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
