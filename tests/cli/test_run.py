"""`lrbench run`: complete, repeated, interrupted and killed."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from tests.helpers import Forked, command, make_home, run_here, run_with_forks

SMALL = ["run", "tiny.toml", "--set", 'targets=["tiny-objects"]', "--set", "seeds=[0]"]


def contents(home, *patterns):
    """Return the bytes of every file that must not depend on interruptions."""
    files = {}
    for pattern in patterns:
        for path in sorted(home.glob(pattern)):
            files[str(path.relative_to(home))] = path.read_bytes()
    return files


COMPARED = ("checkpoints/**/*.safetensors", "checkpoints/**/log.jsonl", "leaderboard/*.md", "leaderboard/figures/*.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of an uninterrupted run; tests that change it work on a copy."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = make_home(tmp_path_factory.mktemp("finished"), monkeypatch)
        assert run_here(monkeypatch, *SMALL) == 0
    return home


@pytest.fixture
def copy(home, finished):
    """A workspace with a copy of the uninterrupted run."""
    shutil.copytree(finished, home, dirs_exist_ok=True)
    return home


def test_task_without_training_images_is_refused_before_any_work(home, lrbench):
    refused = lrbench("run", "tiny.toml", "--set", 'targets=["imagenet-v2"]')
    assert refused.status == 2 and "suite tiny: imagenet-v2 has only test images" in refused.err


def test_second_run_does_nothing(copy, lrbench):
    snapshots = [path for path in copy.glob("checkpoints/**/*.safetensors") if ".bn." not in path.name]
    assert len(snapshots) == 9
    assert "| [average/stage3](" in (copy / "leaderboard" / "tiny.md").read_text()
    results = sorted((copy / "leaderboard" / "results" / "tiny").glob("*.seed0.json"))
    # Two cells of each snapshot, and its predictions of the source.
    assert len(results) == 27 and sum(".tiny-source.source." in path.name for path in results) == 9
    # The copied files differ from those in the index of results, which is rebuilt.
    files = [path for path in copy.rglob("*") if path.is_file() and "lock" not in path.name and path.suffix != ".arrow"]
    stamps = {path: path.stat().st_mtime_ns for path in files}
    again = lrbench(*SMALL)
    assert again.status == 0 and "9 of 9 snapshots and 18 of 18 cells are done" in again.err
    # The verdict, and the paths of the pages.
    assert "no claim is decided, because at least 3 pretraining seeds are needed." in again.err
    assert [path.split("leaderboard/")[1] for path in again.out.split()] == ["tiny.md", "index.html"]
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    planned = json.loads(lrbench("plan", *SMALL[1:], "--json").out)
    assert all(cell["done"] for cell in planned["cells"]) and planned["missing_epochs"] == 0


def test_seeds_can_run_as_separate_jobs(lrbench, home):
    """As in a job array: the page shows the results of finished seeds, and the next seed adds to them."""
    both = ["run", "tiny.toml", "--set", 'targets=["tiny-objects"]', "--set", "seeds=[0, 1]", "--set", 'arms=["step"]']
    both += ["--set", 'protocols=["knn"]']
    refused = lrbench(*both, "--seed", "2")
    assert refused.status == 2 and "has no seed 2. It has 0, 1" in refused.err
    assert lrbench(*both, "--seed", "1", "--workers", "1").status == 0
    assert {path.name for path in (home / "checkpoints" / "tiny").glob("*/seed*")} == {"seed1"}
    assert "(1 of 2 seeds)" in (home / "leaderboard" / "tiny.md").read_text()
    assert lrbench(*both, "--seed", "0", "--workers", "1").status == 0
    assert "(1 of 2 seeds)" not in (home / "leaderboard" / "tiny.md").read_text()
    assert json.loads(lrbench("plan", *both[1:], "--json").out)["missing_epochs"] == 0


def test_kill_and_rerun_gives_the_same_bytes(home, finished, lrbench):
    running = Forked(run_with_forks, *SMALL)
    for _ in range(5):
        running.err.readline()
    # Kill parent and workers at once, as in a power cut.
    os.killpg(running.process.pid, signal.SIGKILL)
    running.finished()
    assert not (home / "leaderboard" / "tiny.md").exists()
    again = lrbench(*SMALL)
    assert again.status == 0, again.err
    assert contents(home, *COMPARED) == contents(finished, *COMPARED)


def test_result_of_another_machine_is_recomputed(copy, lrbench):
    """A fresh clone has results but no checkpoints: `run` recomputes, `leaderboard` uses the results."""
    page = copy / "leaderboard" / "tiny.md"
    before = page.read_bytes()
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "cache")
    assert lrbench("leaderboard", "--check").status == 0
    planned = json.loads(lrbench("plan", *SMALL[1:], "--json").out)
    assert not any(cell["done"] for cell in planned["cells"])
    again = lrbench(*SMALL)
    assert again.status == 0 and page.read_bytes() == before
    assert "27 results of suite tiny have no snapshots here" in again.err
    assert "no snapshots here" not in lrbench(*SMALL).err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_saves_and_explains_resuming(home, lrbench, monkeypatch, number):
    snapshot = home / "checkpoints" / "tiny" / "step" / "seed0" / "stage0.safetensors"
    received = []
    # SIGHUP stops a run unless it is ignored, as under nohup.
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def send():
        while not snapshot.exists():
            time.sleep(0.01)
        # Without a handler, it would end the tests.
        if callable(signal.getsignal(number)):
            os.kill(os.getpid(), number)
            received.append(number)

    sender = threading.Thread(target=send)
    sender.start()
    stopped = lrbench(*SMALL)
    sender.join()
    signal.signal(number, before)
    assert received and stopped.status == 130
    assert "Run the same command again" in stopped.err and "Traceback" not in stopped.err
    assert not (home / "leaderboard" / "tiny.md").exists()


def test_workers_end_when_their_parent_is_killed(home):
    running = subprocess.Popen(command(*SMALL), stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in running.stderr:
        if "stage0" in line:
            break
    session = subprocess.run(["ps", "-o", "pid=", "--sid", str(running.pid)], capture_output=True, text=True)
    children = set(session.stdout.split()) - {str(running.pid)}
    assert len(children) > 1
    running.kill()
    running.wait()
    running.stderr.close()
    deadline = time.monotonic() + 30
    alive = children
    while alive and time.monotonic() < deadline:
        time.sleep(0.2)
        alive = [child for child in children if os.path.exists(f"/proc/{child}")]
    assert not alive


def test_two_concurrent_runs_do_the_work_once(home, lrbench):
    running = Forked(run_with_forks, *SMALL)
    # Both begin at about the same time: imports are over with the first line.
    running.err.readline()
    here = lrbench(*SMALL)
    there = running.finished()
    assert there.status == 0 and here.status == 0, there.err + here.err
    timings = (home / "checkpoints" / "tiny" / "step" / "seed0" / "timings.jsonl").read_text().splitlines()
    assert len(timings) == 3
