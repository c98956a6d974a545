"""The process group that `torchrun` starts for pretraining on several processes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from lrbench.core.errors import InputError, LrbenchError
from lrbench.core.machine import available_cores, local_world_size

if TYPE_CHECKING:
    import torch

# A process may wait for hours until another has prepared a data set or finished fine-tuning. torchrun ends the others when one
# process dies.
_TIMEOUT = timedelta(days=7)

Value = TypeVar("Value")


def launched_by_torchrun() -> bool:
    """Return True if `torchrun` started this process together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """This process within a group. Its collective methods return only after every process of the group has called them.

    Attributes:
        rank: Index of this process, from 0.
        world_size: Number of processes.
        store: `torch.distributed.Store` of the processes; None for a single one.
    """

    rank: int = 0
    world_size: int = 1
    store: Any = None

    @property
    def is_main(self) -> bool:
        """True for rank 0, the process that writes files and prints."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """True when the group has one process."""
        return self.world_size == 1

    def run_on_main(self, work: Callable[[], Value]) -> Value:
        """Call `work` on rank 0 and return its result on every rank.

        Raises:
            LrbenchError: The error that `work` raised on rank 0, on every rank.
        """
        if self.is_single:
            return work()
        outcome: list[Any] = [None]
        if self.is_main:
            try:
                outcome = [(work(), None)]
            except LrbenchError as error:
                outcome = [(None, error)]
        import torch.distributed as distributed

        distributed.broadcast_object_list(outcome, src=0)
        value, failure = outcome[0]
        if failure is not None:
            raise self.mark_shared(failure)
        result: Value = value
        return result

    def mark_shared(self, error: LrbenchError) -> LrbenchError:
        """Return an error that every rank raises, marked so that only rank 0 reports it."""
        error.silent = not self.is_main
        error.shared = True
        return error

    def all_gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in the order of the ranks."""
        if self.is_single:
            return [value]
        import torch.distributed as distributed

        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def claim(self, name: str) -> bool:
        """Return True in the first process that claims a name, without waiting for the others."""
        return self.store is None or bool(self.store.add(f"claim {name}", 1) == 1)

    def all_reduce(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Sum a tensor over all ranks, in place."""
        if not self.is_single:
            import torch.distributed as distributed

            distributed.all_reduce(tensor)
        return tensor


SINGLE_PROCESS = ProcessGroup()
"""The group of a process that works by itself."""


@contextmanager
def init_process_group() -> Iterator[ProcessGroup]:
    """Join the processes that `torchrun` started: with NCCL when there are GPUs, else with Gloo.

    Raises:
        InputError: There are more processes on this machine than GPUs.
    """
    import torch

    # The first optimiser step imports torch._dynamo. Imported while a process group exists, it keeps a reference to the group:
    # the group's threads then outlive destroy_process_group and can abort the process at exit.
    import torch._dynamo
    import torch.distributed as distributed
    from torch.distributed.rendezvous import rendezvous

    processes, gpus = local_world_size(), torch.cuda.device_count()
    if gpus and processes > gpus:
        raise InputError(
            f"{processes} processes were started on this machine, which has {gpus} GPU{'s' if gpus > 1 else ''}: each needs "
            f"its own. Start at most {gpus} (--nproc-per-node {gpus}), or hide the GPUs (CUDA_VISIBLE_DEVICES=-1) to work on "
            "the CPU."
        )
    on_gpus = gpus > 0
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        # torchrun limits each process to one thread.
        torch.set_num_threads(max(1, available_cores() // processes))
    store, rank, world_size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    # Processes that torchrun restarts share the store with the previous ones; the prefix hides the old addresses.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = distributed.PrefixStore(f"lrbench attempt {attempt}", store)  # type: ignore[attr-defined]
    distributed.init_process_group(
        "nccl" if on_gpus else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=_TIMEOUT,
    )
    all_finished = False
    try:
        yield ProcessGroup(rank=rank, world_size=world_size, store=store)
        all_finished = True
    except LrbenchError as error:
        all_finished = error.shared
        raise
    finally:
        # NCCL waits here for ranks that may be waiting for this one. A process that failed by itself just exits, and torchrun
        # ends the others.
        if all_finished or not on_gpus:
            distributed.destroy_process_group()
