"""Pretraining of a snapshot by several processes of this machine, which torchrun's agent starts."""

import logging
import multiprocessing
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Mapping
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any

from lrbench.config import Suite
from lrbench.core.control import Control
from lrbench.core.distributed import init_process_group
from lrbench.core.errors import FailureError, LrbenchError, as_user_error, picklable
from lrbench.core.machine import share_cores, sharing_processes
from lrbench.core.workspace import Place
from lrbench.jobs.job import PRELOADED, PretrainJob

# Seconds between two looks at the processes.
_POLL_SECONDS = 0.2
# Seconds in which a process whose partner died may end before it is killed.
_SHUTDOWN_SECONDS = 5
# Seconds in which a process whose parent died may save and stop.
_ORPHAN_SECONDS = 600
# Seconds after which a request to stop that reaches all processes has reached the first.
_SHARED_STOP_SECONDS = 1
# Variables that the agent sets for each process. A cluster may have set them for this one, as Kubeflow does.
_AGENT_VARIABLES = re.compile(
    r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|TORCH_NCCL_ASYNC_ERROR_HANDLING"
)
# torch's loggers warn of signals, which this module handles, and of deaths, which it reports.
_LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")


class _MemberControl(Control):
    """Sends progress to the process that started the group, and stops with it."""

    def __init__(self, stop: Event, messages: "SimpleQueue[tuple[Any, ...]]") -> None:
        super().__init__()
        self._event, self._messages = stop, messages
        self._parent = multiprocessing.parent_process()
        self._sent = self._looked = 0.0

    @property
    def was_stopped(self) -> bool:
        """True if this process alone was asked to stop."""
        return super().stop_requested()

    def stop_requested(self) -> bool:
        now = time.monotonic()
        if now - self._looked > _POLL_SECONDS:
            self._looked = now
            if self._parent is not None and not self._parent.is_alive():
                self.stop()
        return super().stop_requested() or self._event.is_set()

    def progress(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if os.environ["RANK"] == "0" and (now - self._sent > _POLL_SECONDS or done == total):
            self._sent = now
            self._messages.put(("progress", done, total, unit))

    def say(self, text: str) -> None:
        self._messages.put(("message", text))


def _member(
    job: PretrainJob,
    suite: Suite,
    place: Place,
    stop: Event,
    messages: "SimpleQueue[tuple[Any, ...]]",
    environment: Mapping[str, str],
    sharing: int,
) -> tuple[str, object]:
    """Train together with the other processes.

    Returns:
        `done` with the report, or `failed` with an error that every process raises. After an error of its own, the process
        sends it and exits, so that the agent ends the others, which wait for it.
    """
    # The process from which this one was forked may have others.
    os.environ.update(environment)
    share_cores(sharing)
    control, finished = _MemberControl(stop, messages), threading.Event()
    threading.Thread(target=_end_with_parent, args=(finished,), daemon=True).start()
    # Ctrl-C reaches all processes of a terminal; only the first one handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: control.stop())
    outcome: tuple[str, object]
    try:
        with init_process_group() as ranks:
            outcome = "done", job.run_together(suite, place, control, ranks)
    except Exception as error:
        if not (isinstance(error, LrbenchError) and error.shared):
            if not _has_lost_partner(error):
                messages.put(("failed", picklable(as_user_error(error, f"`{job.name}`"))))
            os._exit(1)
        outcome = "failed", picklable(error)
    # The agent ends a process whose partner died, and waits for no outcome.
    if control.was_stopped and not stop.wait(_SHARED_STOP_SECONDS):
        os._exit(1)
    # The process waits for the agent from here on.
    finished.set()
    return outcome


def _end_with_parent(finished: threading.Event) -> None:
    """End this process after its parent, also where it waits for the agent or for a process that died, too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    finished.wait(_ORPHAN_SECONDS)
    os._exit(1)


def _has_lost_partner(error: Exception) -> bool:
    """Return whether an exchange failed, as after the end of another process, whose error is the cause."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def pretrain_in_group(job: PretrainJob, suite: Suite, place: Place, control: Control, processes: int) -> str:
    """Pretrain a snapshot with several processes, and return the job's report.

    Args:
        job: The job.
        suite: Passed to the job.
        place: Passed to the job.
        control: Receives progress; asked whether to stop.
        processes: Number of processes, with one GPU each if there are GPUs.

    Raises:
        LrbenchError: The first error of the processes, or one of them died.
        InterruptedWork: Stopped; the progress was saved.
    """
    from lrbench.models.devices import pick_device

    # On CPUs, processes are forked from one that has imported their libraries. CUDA may not survive a fork.
    method = "spawn" if pick_device().type == "cuda" else "forkserver"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([PRELOADED])
    stop, messages = context.Event(), context.SimpleQueue()
    outcomes: list[tuple[str, object]] = []
    # The agent handles signals only in the main thread, where they request a stop.
    arguments = (job, suite, place, stop, messages, processes, method, outcomes)
    agent = threading.Thread(target=_launch, args=arguments, daemon=True)
    agent.start()
    while agent.is_alive() or not messages.empty():
        if control.stop_requested():
            stop.set()
        while not messages.empty():
            name, *content = messages.get()
            if name == "message":
                control.say(*content)
            elif name == "progress":
                control.progress(*content)
            else:
                # Before the agent's report that the process exited.
                outcomes.insert(0, (name, *content))
        agent.join(_POLL_SECONDS)
    # The agent loses sight of processes whose fork server was killed.
    stop.set()
    kind, result = next((outcome for outcome in outcomes if outcome[0] == "failed"), outcomes[0])
    if kind == "failed":
        assert isinstance(result, LrbenchError)
        raise result
    return str(result)


def _launch(
    job: PretrainJob,
    suite: Suite,
    place: Place,
    stop: Event,
    messages: "SimpleQueue[tuple[Any, ...]]",
    processes: int,
    method: str,
    outcomes: list[tuple[str, object]],
) -> None:
    """Start the processes, wait for them, and append their outcomes in the order of their ranks."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    configuration = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        # Without it, every launch leaves a folder in the system's temporary one.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=_SHUTDOWN_SECONDS,
        start_method=method,
    )
    try:
        environment = {name: value for name, value in os.environ.items() if not _AGENT_VARIABLES.fullmatch(name)}
        by_rank = elastic_launch(configuration, _member)(
            job, suite, place, stop, messages, environment, sharing_processes()
        )
        outcomes += [by_rank[rank] for rank in sorted(by_rank)]
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        died = FailureError(
            f"a process of `{job.name}` died (exit status {first.exitcode}). The usual cause is that the machine ran out of "
            "memory. Run the same command again; what was saved is kept."
        )
        outcomes.append(("failed", died))
    except Exception as error:
        outcomes.append(("failed", as_user_error(error, f"`{job.name}`")))
