"""Run a suite's jobs as Ray tasks, on one machine or on many.

The driver holds the schedule and hands over only as many jobs as fit, because Ray's queue knows no urgency. Files on a file
system that all nodes share are the only results: Ray carries jobs, progress and errors. A job whose worker or node is lost
starts again, and goes on from what it saved.
"""

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork, LrbenchError
from lrbench.core.files import remove_file, write_text
from lrbench.core.machine import DISTRIBUTION, library_versions
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job
from lrbench.jobs.local import STOPPED, Observer
from lrbench.jobs.schedule import Schedule
from lrbench.jobs.worker import WorkerSettings, outcome, prepare_process

# Seconds between two exchanges of a job with the driver.
_POLL_SECONDS = 1.0
# Seconds after which a job without a driver, and a driver without a node that fits, give up.
_LOST_SECONDS = 60.0
_PATIENCE_SECONDS = 600.0
# Times that a job starts again after the loss of its worker or node, and after its node ran out of memory.
_MOST_LOSSES, _MOST_OUT_OF_MEMORY = 10, 1


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """What is asked of Ray.

    Attributes:
        address: Address of a running cluster, or `auto`; None starts Ray on this machine.
        gpus: GPUs of each job, which may be a fraction; None for one if the cluster has GPUs.
        cpus: CPU cores of each job; None for one.
    """

    address: str | None = None
    gpus: float | None = None
    cpus: int | None = None


class _Board:
    """Messages from jobs to the driver, and the driver's request to stop. A Ray actor on the driver's node."""

    def __init__(self) -> None:
        self._messages: list[tuple[Any, ...]] = []
        self._stopped = False

    def exchange(self, messages: list[tuple[Any, ...]]) -> bool:
        """Add messages of a job; return whether it should stop."""
        self._messages += messages
        return self._stopped

    def take(self, stop: bool) -> list[tuple[Any, ...]]:
        """Return all messages since the last call, and request a stop."""
        self._stopped |= stop
        messages, self._messages = self._messages, []
        return messages


class _JobControl(Control):
    """Exchanges progress and stop requests with the board, at most once a second."""

    def __init__(self, board: Any, name: str) -> None:
        super().__init__()
        self._board, self._name = board, name
        self._pending: list[tuple[Any, ...]] = [("started", name)]
        self._progress: tuple[Any, ...] | None = None
        self._exchanged, self._answered = 0.0, time.monotonic()
        self.exchange()

    def stop_requested(self) -> bool:
        self._exchange_if_due()
        return super().stop_requested()

    def progress(self, done: int, total: int, unit: str) -> None:
        self._progress = "progress", self._name, done, total, unit
        self._exchange_if_due()

    def say(self, text: str) -> None:
        self._pending.append(("message", text))

    def exchange(self) -> None:
        """Send all messages and learn of a stop request. Stop if the driver has been gone for a while."""
        import ray

        messages = [*self._pending, *([self._progress] if self._progress else [])]
        self._exchanged = time.monotonic()
        try:
            stop = ray.get(self._board.exchange.remote(messages), timeout=10)
        except (ray.exceptions.RayError, TimeoutError):
            stop = time.monotonic() - self._answered > _LOST_SECONDS
        else:
            self._pending, self._progress, self._answered = [], None, time.monotonic()
        if stop:
            self.stop()

    def _exchange_if_due(self) -> None:
        if time.monotonic() - self._exchanged > _POLL_SECONDS:
            self.exchange()


def _perform(job: Job, suite: Suite, place: Place, board: Any, threads: int, folder: str) -> tuple[str, object]:
    """Run a job in a Ray worker; return `done` with its report, or `failed` with its error."""
    # Task files may be named relative to it.
    with contextlib.suppress(OSError):
        os.chdir(folder)
    prepare_process(WorkerSettings(threads=threads))
    control = _JobControl(board, job.name)
    result = outcome(job, suite, place, control)
    control.exchange()
    return result


def run_jobs_on_ray(
    jobs: Sequence[Job], suite: Suite, place: Place, control: Control, observer: Observer, options: RayOptions
) -> None:
    """Run jobs until all are done.

    Args:
        jobs: Parents before children.
        suite: Passed to each job.
        place: Passed to each job. Every node must see its folders under the same paths.
        control: Says when to stop.
        observer: Called with the progress.
        options: What to ask of Ray.

    Raises:
        InputError: Ray is not installed or cannot be reached, or a node lacks a folder or has other versions.
        LrbenchError: The first error of a job.
        InterruptedWork: Stopped; unfinished work was saved.
    """
    if not jobs:
        return
    # Jobs run in another folder.
    root, roots = place.workspace.root.absolute(), tuple(root.absolute() for root in place.roots)
    absolute = replace(place, workspace=replace(place.workspace, root=root), roots=roots)
    with _connected(options):
        _Driver(jobs, suite, absolute, control, observer, options).run()


@contextmanager
def _connected(options: RayOptions) -> Iterator[None]:
    # No report of usage leaves the machine.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--engine ray needs Ray. Install it with `pip install '{DISTRIBUTION}[ray]'`.") from error
    # Tasks load lrbench from their node's environment; variables that change what they read are passed on.
    names = ("LRBENCH_TASKS", "LRBENCH_DEBUG", "PYTHONPATH", "CUBLAS_WORKSPACE_CONFIG")
    variables = {name: os.environ[name] for name in names if os.environ.get(name)}
    try:
        ray.init(
            address=options.address or "local",
            runtime_env={"env_vars": variables},
            include_dashboard=None if options.address else False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        where = f"at {options.address}" if options.address else "on this machine"
        raise InputError(f"Ray cannot be reached {where}: {str(error).splitlines()[0]} Check `ray status`.") from error
    try:
        yield
    finally:
        ray.shutdown()


class _Driver:
    def __init__(
        self,
        jobs: Sequence[Job],
        suite: Suite,
        place: Place,
        control: Control,
        observer: Observer,
        options: RayOptions,
    ) -> None:
        import ray

        self._ray = ray
        self._jobs = {job.name: job for job in jobs}
        self._schedule = Schedule(jobs)
        self._suite, self._place, self._control, self._observer = suite, place, control, observer
        total = ray.cluster_resources()
        self._gpus = (1.0 if total.get("GPU") else 0.0) if options.gpus is None else options.gpus
        self._cpus = options.cpus or 1
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
        # This class counts losses itself: a job that is out of memory must not start again for ever.
        self._task = ray.remote(_perform).options(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)
        self._running: dict[Any, Job] = {}
        self._started: set[str] = set()
        self._losses: dict[str, int] = {}
        self._out_of_memory: dict[str, int] = {}
        self._idle_since = time.monotonic()

    def run(self) -> None:
        check_nodes(self._place, self._control)
        while True:
            self._hand_over()
            if not self._running and (not self._schedule.waiting or not self._awaits_nodes()):
                break
            self._receive()
        self._forward(self._take_messages())
        if self._control.stop_requested() or self._schedule.was_interrupted:
            raise InterruptedWork(STOPPED)
        if (error := self._schedule.error()) is not None:
            raise error

    def _slots(self) -> int:
        """Return the number of jobs that the present nodes run at the same time."""
        slots = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                fits = int(resources.get("CPU", 0) // self._cpus)
                if self._gpus:
                    fits = min(fits, int(resources.get("GPU", 0) / self._gpus + 1e-9))
                slots += fits
        return slots

    def _hand_over(self) -> None:
        """Submit the most urgent jobs, as many as fit."""
        if self._control.stop_requested():
            return
        slots = self._slots()
        while len(self._running) < slots:
            job = self._schedule.take(running=list(self._running.values()))
            if job is None:
                return
            reference = self._task.remote(job, self._suite, self._place, self._board, self._cpus, str(Path.cwd()))
            self._running[reference] = job

    def _awaits_nodes(self) -> bool:
        """Return whether to wait for a node that fits.

        Raises:
            FailureError: There has been none for ten minutes.
        """
        if self._control.stop_requested() or self._slots():
            # What waits needs a job that failed.
            return False
        if time.monotonic() - self._idle_since > _PATIENCE_SECONDS:
            raise self._no_room()
        return True

    def _no_room(self) -> LrbenchError:
        asked = f"{self._gpus:g} GPUs and {self._cpus} CPU cores"
        nodes = [
            f"{node['NodeManagerHostname']} with {node['Resources'].get('GPU', 0):g} GPUs and "
            f"{node['Resources'].get('CPU', 0):g} cores"
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        return FailureError(
            f"no node of the Ray cluster has had room for a job ({asked}) for {_PATIENCE_SECONDS / 60:g} minutes. The nodes "
            f"are {'; '.join(nodes) or 'none'}. Add a node, end other work, or ask for less with --gpus and --cpus."
        )

    def _receive(self) -> None:
        """Wait a moment for jobs to end, and pass on messages."""
        references = list(self._running)
        ended: list[Any] = []
        if references:
            ended, _ = self._ray.wait(references, timeout=_POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS)
        self._forward(self._take_messages())
        if self._control.stop_requested():
            self._cancel_waiting()
        if self._started or ended:
            self._idle_since = time.monotonic()
        elif self._running and time.monotonic() - self._idle_since > _PATIENCE_SECONDS:
            raise self._no_room()
        for reference in ended:
            job = self._running.pop(reference)
            self._started.discard(job.name)
            self._end(job, reference)

    def _take_messages(self) -> list[tuple[Any, ...]]:
        stop = self._control.stop_requested()
        messages: list[tuple[Any, ...]] = self._ray.get(self._board.take.remote(stop))
        return messages

    def _forward(self, messages: Sequence[tuple[Any, ...]]) -> None:
        for kind, *rest in messages:
            if kind == "message":
                self._observer.reported(rest[0])
                continue
            job = self._jobs[rest[0]]
            if kind == "started":
                self._started.add(job.name)
                self._observer.started(job)
            else:
                self._observer.progressed(job, *rest[1:])

    def _cancel_waiting(self) -> None:
        """Cancel jobs that no worker has started; those that run save and end by themselves."""
        for reference, job in list(self._running.items()):
            if job.name not in self._started:
                with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                    self._ray.cancel(reference)

    def _end(self, job: Job, reference: Any) -> None:
        exceptions = self._ray.exceptions
        try:
            kind, content = self._ray.get(reference)
        except exceptions.TaskCancelledError:
            self._schedule.put_back(job)
            return
        except exceptions.OutOfMemoryError:
            self._start_again(job, self._out_of_memory, _MOST_OUT_OF_MEMORY, "its node ran out of memory")
            return
        except exceptions.RayTaskError as error:
            # Errors of a job are returned; this one is of its start, such as a missing library.
            cause = str(error.cause or error).strip().splitlines()[-1]
            self._schedule.fail(FailureError(f"`{job.name}` could not start on its node: {cause}."))
            return
        except exceptions.RayError as error:
            self._start_again(job, self._losses, _MOST_LOSSES, f"its worker or node was lost ({type(error).__name__})")
            return
        if kind == "done":
            self._schedule.finish(job)
            self._observer.finished(job, str(content))
        else:
            assert isinstance(content, LrbenchError)
            self._schedule.fail(content)

    def _start_again(self, job: Job, counts: dict[str, int], most: int, reason: str) -> None:
        counts[job.name] = counts.get(job.name, 0) + 1
        if counts[job.name] > most:
            self._schedule.fail(
                FailureError(
                    f"`{job.name}` ended {counts[job.name]} times because {reason}. Ask for more memory by --cpus, or use a "
                    "smaller batch; saved results are kept."
                )
            )
            return
        self._observer.reported(f"{job.name} starts again, because {reason}")
        self._schedule.put_back(job)


def check_nodes(place: Place, control: Control) -> None:
    """Check that every node sees the same folders, libraries and locks as this process.

    Raises:
        InputError: A node lacks the workspace or data, has other versions, or has locks of its own; the message names it.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    nonce, lock = place.workspace.root / f".ray-{secrets.token_hex(8)}", place.workspace.root / ".ray-check.lock"
    roots = [str(root) for root in place.roots if root.is_dir()]
    write_text(nonce, nonce.name)
    try:
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            references = [
                ray.remote(_inspect)
                .options(
                    num_cpus=0,
                    max_retries=0,
                    scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                        node["NodeID"], soft=False
                    ),
                )
                .remote(str(nonce), str(lock), roots)
                for node in nodes
            ]
            for node, reference in zip(nodes, references, strict=True):
                name = node["NodeManagerHostname"]
                try:
                    report = ray.get(reference, timeout=120)
                except (ray.exceptions.RayError, TimeoutError) as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise InputError(
                        f"the Ray node {name} cannot run lrbench: {reason} Install the same environment on every node."
                    ) from error
                if (problem := node_problem(name, report, place.workspace.root)) is not None:
                    raise InputError(problem)
    finally:
        remove_file(nonce)
        remove_file(lock)


def _inspect(nonce: str, lock: str, roots: Sequence[str]) -> dict[str, Any]:
    """Return what a node sees; runs on the node."""
    report: dict[str, Any] = {
        "sees_workspace": Path(nonce).is_file(),
        "missing": [root for root in roots if not Path(root).is_dir()],
        "versions": library_versions(),
        "locked_twice": False,
    }
    with contextlib.suppress(OSError), open(lock, "r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        report["locked_twice"] = True
    return report


def node_problem(name: str, report: Mapping[str, Any], root: Path) -> str | None:
    """Return why a node cannot work with this process, or None.

    Args:
        name: The node.
        report: What it sees.
        root: The workspace.
    """
    if not report["sees_workspace"]:
        return f"the Ray node {name} does not see {root}. Mount LRBENCH_HOME under the same path on every node."
    if report["missing"]:
        return f"the Ray node {name} has no folder {report['missing'][0]}. Mount the data under the same path on every node."
    mine = library_versions()
    if different := [library for library in mine if mine[library] != report["versions"].get(library)]:
        library = different[0]
        return (
            f"the Ray node {name} has {library} {report['versions'].get(library)} instead of {mine[library]}. Install the same "
            "environment on every node."
        )
    if report["locked_twice"]:
        return (
            f"a lock in {root} that this machine holds is free on the Ray node {name}, so that two nodes could write one file. "
            "Mount the file system with locks between nodes (NFS with lockd, Lustre with the option flock)."
        )
    return None
