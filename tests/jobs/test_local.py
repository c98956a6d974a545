"""Jobs in worker processes: order, failures, interrupts, and workers that die."""

import errno
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass

import pytest

from lrbench.core.control import Control, stopping_on_signals
from lrbench.core.errors import FailureError, InputError, InterruptedWork, OutOfMemory
from lrbench.jobs.gpus import Load
from lrbench.jobs.job import Job
from lrbench.jobs.local import run_jobs
from lrbench.jobs.preparation import PrepareJob
from lrbench.jobs.worker import WorkerSettings, work
from tests.jobs.helpers import Watcher, notes


@dataclass(frozen=True, kw_only=True)
class Note(Job):
    """Append its name to a file of the workspace."""

    def run(self, suite, place, control):
        with (place.workspace.root / "notes.txt").open("a") as file:
            file.write(f"{self.name}\n")
        return f"{self.name} noted"

    def task_of(self, suite):
        return suite.source


@dataclass(frozen=True, kw_only=True)
class Fails(Job):
    kind: str = "input"

    def run(self, suite, place, control):
        if self.kind == "input":
            raise InputError(f"{self.name} has bad input")
        if self.kind == "surprise":
            raise ZeroDivisionError("division by zero")
        if self.kind == "disk":
            raise OSError(errno.EIO, os.strerror(errno.EIO), "a.json")
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    def task_of(self, suite):
        return suite.source


@dataclass(frozen=True, kw_only=True)
class Tells(Note):
    """Report an environment variable."""

    def run(self, suite, place, control):
        return os.environ["LRBENCH_TEST_WORD"]


def test_jobs_run_once_and_after_their_needs(tiny, place):
    jobs = [
        Note(name="a"),
        Note(name="b", needs=("a",)),
        Note(name="c", needs=("a",)),
        Note(name="d", needs=("b", "c")),
    ]
    watcher = Watcher()
    run_jobs(jobs, tiny, place, Control(), watcher, workers=2)
    done = notes(place)
    assert sorted(done) == ["a", "b", "c", "d"] and done[0] == "a" and done[-1] == "d"
    assert sorted(watcher.lines) == ["a noted", "b noted", "c noted", "d noted"]


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("input", InputError, "broken has bad input"),
        ("surprise", FailureError, "Unexpected error in `broken`: ZeroDivisionError: division by zero. Results"),
        ("disk", FailureError, "a.json could not be read or written: input/output error. Check the disk"),
        ("dies", FailureError, "the worker process of `broken` died twice (exit status -9)"),
    ],
)
def test_failed_job_stops_only_its_dependents(tiny, place, kind, error, message):
    jobs = [
        Fails(name="broken", kind=kind),
        Note(name="needs-it", needs=("broken",)),
        Note(name="other"),
        Note(name="another", needs=("other",)),
    ]
    with pytest.raises(error, match="1 job that depends on it was not started") as caught:
        run_jobs(jobs, tiny, place, Control(), Watcher(), workers=2)
    assert message in str(caught.value)
    assert sorted(notes(place)) == ["another", "other"]


def test_dead_worker_does_not_stop_other_jobs(tiny, place):
    with pytest.raises(FailureError, match="--workers 1"):
        run_jobs(
            [Fails(name="broken", kind="dies", weight=9.0), Note(name="other")],
            tiny,
            place,
            Control(),
            Watcher(),
            workers=1,
        )
    assert notes(place) == ["other"]


def test_no_job_starts_after_a_stop_request(tiny, place):
    control = Control()
    control.stop()
    with pytest.raises(InterruptedWork):
        run_jobs([Note(name="a")], tiny, place, control, Watcher(), workers=1)
    assert notes(place) == []


# Replacements of the worker function; a spawned process imports them from this module.


def never_ready(connection, stop, *_):
    """A worker whose imports never end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def never_done(connection, stop, *_):
    """A worker whose job never ends and ignores signals."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send(("device", "cpu"))
    connection.recv()
    while True:
        time.sleep(60)


def done_once(connection, stop, *_):
    """A worker that dies after its first job."""
    connection.send(("device", "cpu"))
    connection.recv()
    connection.send(("done", "done"))


def never_exits(connection, stop, *_):
    """A worker whose process stays after its last job, as with a thread of a library."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    connection.send(("device", "cpu"))
    while connection.recv() is not None:
        connection.send(("done", "done"))
    while True:
        time.sleep(60)


def dies_on_the_second_gpu(connection, stop, suite, place, settings):
    """A worker for which torch finds no GPU, or that dies after another one has reported that."""
    reported = place.workspace.root / "reported"
    if settings.gpu == "1":
        while not reported.exists():
            time.sleep(0.05)
        time.sleep(0.3)
        os._exit(1)
    connection.send(("device", "cpu"))
    reported.touch()
    while connection.recv() is not None:
        connection.send(("done", "done"))


def on_a_gpu(connection, stop, suite, place, settings):
    """A worker on a GPU that its jobs leave idle; jobs called `large` run out of memory beside another worker's."""
    gpu = place.workspace.root / f"gpu{settings.gpu}"
    gpu.mkdir(exist_ok=True)
    (gpu / str(os.getpid())).touch()
    connection.send(("device", "cuda"))
    while (job := connection.recv()) is not None:
        connection.send(("load", Load(waiting=0.1, reserved=1 << 30, free=60 << 30)))
        time.sleep(0.5)
        company = len(list(gpu.iterdir())) > 1
        if job.name.startswith("huge") or (job.name.startswith("large") and company):
            connection.send(("failed", OutOfMemory("no memory")))
        else:
            connection.send(("done", settings.gpu))
    (gpu / str(os.getpid())).unlink()


def test_run_ends_although_a_worker_does_not_exit(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", never_exits)
    monkeypatch.setattr("lrbench.jobs.local._EXIT_SECONDS", 0.2)
    watcher = Watcher()
    run_jobs([Note(name="a")], tiny, place, Control(), watcher, workers=1)
    assert watcher.lines == ["done"]


def test_all_gpus_are_used_and_idle_ones_get_more_workers(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", on_a_gpu)
    monkeypatch.setattr("lrbench.jobs.local.visible_gpus", lambda: ("0", "GPU-5e1f"))
    monkeypatch.setattr("lrbench.jobs.local.available_cores", lambda: 16)
    watcher = Watcher()
    run_jobs([Note(name=f"job{number}") for number in range(12)], tiny, place, Control(), watcher)
    assert len(watcher.lines) == 12 and set(watcher.lines) == {"0", "GPU-5e1f"}
    assert any("GPU 0 is idle" in text and "2 worker processes" in text for text in watcher.messages)


def test_death_on_a_gpu_that_torch_does_not_find_is_survived(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", dies_on_the_second_gpu)
    monkeypatch.setattr("lrbench.jobs.local.visible_gpus", lambda: ("0", "1"))
    monkeypatch.setattr("lrbench.jobs.local.available_cores", lambda: 2)
    watcher = Watcher()
    run_jobs([Note(name=f"job{number}") for number in range(3)], tiny, place, Control(), watcher)
    assert watcher.lines == ["done"] * 3


def test_chosen_workers_are_spread_over_gpus_and_not_added_to(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", on_a_gpu)
    monkeypatch.setattr("lrbench.jobs.local.visible_gpus", lambda: ("0", "1"))
    watcher = Watcher()
    run_jobs([Note(name=f"job{number}") for number in range(4)], tiny, place, Control(), watcher, workers=2)
    assert sorted(watcher.lines) == ["0", "0", "1", "1"] and watcher.messages == []


def test_job_without_memory_on_a_shared_gpu_starts_again_alone(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", on_a_gpu)
    monkeypatch.setattr("lrbench.jobs.local.visible_gpus", lambda: ("0",))
    watcher = Watcher()
    jobs = [Note(name="large", weight=9.0), *(Note(name=f"job{number}") for number in range(3))]
    run_jobs(jobs, tiny, place, Control(), watcher, workers=2)
    assert len(watcher.lines) == 4
    assert watcher.messages == ["large ran out of memory; it starts again, with one worker process on this device"]


def test_job_without_memory_on_a_gpu_of_its_own_fails(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", on_a_gpu)
    monkeypatch.setattr("lrbench.jobs.local.visible_gpus", lambda: ("0",))
    watcher = Watcher()
    jobs = [Note(name="huge", weight=9.0), Note(name="job"), Note(name="needs-it", needs=("huge",))]
    with pytest.raises(FailureError, match="no memory 1 job that depends on it was not started"):
        run_jobs(jobs, tiny, place, Control(), watcher, workers=2)
    # It starts again once, alone; the others go on.
    assert len(watcher.lines) == 1
    assert watcher.messages == ["huge ran out of memory; it starts again, with one worker process on this device"]


def test_images_are_prepared_beside_the_gpus(tiny, place, monkeypatch):
    """One worker without a GPU prepares them; jobs on GPUs wait for their images alone."""
    monkeypatch.setattr("lrbench.jobs.local.work", on_a_gpu)
    monkeypatch.setattr("lrbench.jobs.local.visible_gpus", lambda: ("0",))
    watcher = Watcher()
    slow = PrepareJob(name="prepare", task="a")
    run_jobs([slow, Note(name="other"), Note(name="reads", needs=("prepare",))], tiny, place, Control(), watcher)
    assert sorted(watcher.lines) == ["", "0", "0"]
    assert multiprocessing.active_children() == []


def test_starting_workers_are_stopped_at_once(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", never_ready)
    control = Control()

    class Stopping(Watcher):
        def started(self, job):
            control.stop()

    with pytest.raises(InterruptedWork, match="Run the same command again to continue"):
        run_jobs([Note(name="a"), Note(name="b")], tiny, place, control, Stopping(), workers=2)
    assert multiprocessing.active_children() == []


def test_second_interrupt_ends_workers_at_once(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", never_done)
    control = Control()

    class Interrupting(Watcher):
        def started(self, job):
            control.stop()

        def reported(self, text):
            assert "Ctrl-C again stops at once" in text
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([Note(name="a")], tiny, place, control, Interrupting(), workers=1)
    assert multiprocessing.active_children() == []


def test_job_of_a_worker_that_died_starts_again(tiny, place, monkeypatch):
    monkeypatch.setattr("lrbench.jobs.local.work", done_once)

    class Waiting(Watcher):
        def finished(self, job, line):
            super().finished(job, line)
            for process in multiprocessing.active_children():
                process.join()

    watcher = Waiting()
    run_jobs([Note(name="a", weight=2.0), Note(name="b")], tiny, place, Control(), watcher, workers=1)
    assert watcher.lines == ["done", "done"]
    assert watcher.messages == [
        "b lost its worker process (exit status 0); it starts again, with one worker process on this device"
    ]


def test_workers_have_the_environment_of_their_run(tiny, place, monkeypatch):
    """Workers are forked from a process that has the environment of the first run."""
    watcher = Watcher()
    for word in ("one", "two"):
        monkeypatch.setenv("LRBENCH_TEST_WORD", word)
        run_jobs([Tells(name="a")], tiny, place, Control(), watcher, workers=1)
    assert watcher.lines == ["one", "two"]


def test_worker_ends_when_its_parent_is_gone(tiny, place, monkeypatch):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    mine.close()
    try:
        assert work(theirs, context.Event(), tiny, place, WorkerSettings(threads=1)) is None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_interrupt_during_worker_start_reaches_the_parent(tiny, place, monkeypatch):
    """It is delivered after the start; the child blocks it and continues."""
    control = Control()
    monkeypatch.setattr(signal, "pthread_sigmask", interrupting(signal.pthread_sigmask))
    with stopping_on_signals(control), pytest.raises(InterruptedWork):
        run_jobs([Note(name="a")], tiny, place, control, Watcher(), workers=1)
    assert control.stop_requested()


def interrupting(set_mask):
    """Send an interrupt to this process as soon as the signal is blocked."""

    def blocked(how, signals):
        before = set_mask(how, signals)
        if how == signal.SIG_BLOCK:
            os.kill(os.getpid(), signal.SIGINT)
        return before

    return blocked
