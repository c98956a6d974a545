"""Run a suite's jobs as Ray tasks, on one machine or on many.

The driver holds the schedule and hands over only as many jobs as fit, because Ray's queue knows no urgency. Files on a file
system that all nodes share are the only results: Ray carries jobs, progress and errors. A job whose worker or node is lost
starts again, and continues from its last save.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, LrbenchError
from lrbench.core.locks import use_leases
from lrbench.core.machine import DISTRIBUTION, library_versions
from lrbench.core.workspace import Place
from lrbench.jobs.job import Job, PretrainJob
from lrbench.jobs.nodes import inspect_node, node_problem, probing
from lrbench.jobs.preparation import PrepareJob
from lrbench.jobs.ray_task import Board, Room, load_ray, perform
from lrbench.jobs.schedule import Observer, Schedule

# Seconds for which the driver waits for jobs before it looks at messages.
_POLL_SECONDS = 1.0
_PROBE_SECONDS = 120.0
# Seconds after which a driver without a node that fits gives up.
_PATIENCE_SECONDS = 600.0
# Times that a job starts again after the loss of its worker or node, and after its node ran out of memory.
_MOST_LOSSES, _MOST_OUT_OF_MEMORY = 10, 1


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Cluster and resources requested of Ray.

    Attributes:
        address: Address of a running cluster, or `auto`; None starts Ray on this machine.
        gpus: GPUs on which a snapshot is pretrained, which may be a fraction; other jobs get at most one. None for one if the
            cluster has GPUs.
        cpus: CPU cores of each job; None for the share of its GPUs, or on CPUs for the suite's threads.
    """

    address: str | None = None
    gpus: float | None = None
    cpus: int | None = None


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
        ray = load_ray()
    except ImportError as error:
        raise InputError(f"--engine ray needs Ray. Install it with `pip install '{DISTRIBUTION}[ray]'`.") from error
    # Tasks load lrbench from their node's environment; variables that change what they read are passed on.
    names = (
        "LRBENCH_TASKS",
        "LRBENCH_CACHE",
        "LRBENCH_DEBUG",
        "LRBENCH_LOCKS",
        "PYTHONPATH",
        "CUBLAS_WORKSPACE_CONFIG",
    )
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
        ray = load_ray()

        self._ray = ray
        self._jobs = {job.name: job for job in jobs}
        self._schedule = Schedule(jobs)
        self._suite, self._place, self._control, self._observer = suite, place, control, observer
        nodes = [Room(gpus=node.get("GPU", 0.0), cpus=int(node.get("CPU", 0))) for node in self._nodes()]
        has_gpus = any(node.gpus for node in nodes)
        self._gpus = float(has_gpus) if options.gpus is None else options.gpus
        shares = [int(self._gpus * node.cpus / node.gpus) for node in nodes if node.gpus]
        self._cpus = options.cpus or max(1, min(shares) if shares and self._gpus else suite.training.threads)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._task = ray.remote(perform)
        self._running: dict[Any, Job] = {}
        self._started: set[str] = set()
        self._losses: dict[str, int] = {}
        self._out_of_memory: dict[str, int] = {}
        self._idle_since = time.monotonic()
        self._leases = False

    def run(self) -> None:
        self._leases = check_nodes(self._place)
        if self._leases:
            root = self._place.workspace.root
            self._observer.reported(f"locks in {root} do not reach all nodes, so that leases are used instead")
        while True:
            self._hand_over()
            if not self._running and (not self._schedule.waiting or not self._awaits_nodes()):
                break
            self._receive()
        self._forward(self._take_messages())
        if (error := self._schedule.error(stopped=self._control.stop_requested())) is not None:
            raise error

    def _nodes(self) -> list[dict[str, float]]:
        """Return the resources of the nodes that are alive."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _room(self, job: Job) -> Room:
        """Return what a job needs."""
        if isinstance(job, PrepareJob):
            return Room(gpus=0.0, cpus=self._cpus)
        return Room(gpus=self._gpus if isinstance(job, PretrainJob) else min(self._gpus, 1.0), cpus=self._cpus)

    def _hand_over(self) -> None:
        """Submit the most urgent jobs, as many as fit."""
        if self._control.stop_requested():
            return
        nodes = self._nodes()
        taken = [self._room(job) for job in self._running.values()]
        gpus = sum(node.get("GPU", 0) for node in nodes) - sum(room.gpus for room in taken)
        cpus = sum(node.get("CPU", 0) for node in nodes) - sum(room.cpus for room in taken)

        def fits(job: Job) -> bool:
            room = self._room(job)
            # Sums of fractions may be off by a rounding error.
            return room.gpus <= gpus + 1e-9 and room.cpus <= cpus and _has_room(nodes, room)

        while (job := self._schedule.take(running=list(self._running.values()), fits=fits)) is not None:
            room = self._room(job)
            gpus, cpus = gpus - room.gpus, cpus - room.cpus
            # This class counts losses itself: a job that is out of memory must not start again forever.
            task = self._task.options(num_cpus=room.cpus, num_gpus=room.gpus, max_retries=0)
            reference = task.remote(job, self._suite, self._place, self._board, room, str(Path.cwd()), self._leases)
            self._running[reference] = job

    def _awaits_nodes(self) -> bool:
        """Return whether to wait for a node with room for the next job.

        Raises:
            FailureError: There has been none for ten minutes.
        """
        if self._control.stop_requested() or not self._schedule.has_ready():
            # The waiting jobs need a job that failed.
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
            outcome = self._ray.get(reference)
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
        if (report := self._schedule.end(job, outcome)) is not None:
            self._observer.finished(job, report)

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


def _has_room(nodes: Sequence[Mapping[str, float]], room: Room) -> bool:
    """Return whether a job fits on one node that does nothing else."""
    return any(room.gpus <= node.get("GPU", 0) and room.cpus <= node.get("CPU", 0) for node in nodes)


def check_nodes(place: Place) -> bool:
    """Check that every node sees the same folders and libraries as this process; return whether nodes need leases for locks.

    Raises:
        InputError: A node lacks the workspace or data, or has other versions; the message names it.
    """
    ray = load_ray()

    nodes = [node for node in ray.nodes() if node["Alive"]]
    with probing(place) as probe:
        references = [
            ray.remote(inspect_node)
            .options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    node["NodeID"], soft=False
                ),
            )
            .remote(probe)
            for node in nodes
        ]
        are_local = False
        for node, reference in zip(nodes, references, strict=True):
            name = node["NodeManagerHostname"]
            try:
                report = ray.get(reference, timeout=_PROBE_SECONDS)
            except (ray.exceptions.RayError, TimeoutError) as error:
                if not any(other["Alive"] for other in ray.nodes() if other["NodeID"] == node["NodeID"]):
                    # The node was lost in the meantime; no job will run there.
                    continue
                reason = str(error).strip().splitlines()[-1]
                raise InputError(
                    f"the node {name} cannot run lrbench: {reason} Install the same environment on every node."
                ) from error
            if (problem := node_problem(name, report, place.workspace.root, library_versions())) is not None:
                raise InputError(problem)
            are_local |= not report.shares_locks
    if are_local:
        use_leases()
    return are_local
