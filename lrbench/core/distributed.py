"""Processes that pretrain together, as `torchrun` starts them: which one this is, and what they tell each other."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from lrbench.core.errors import InputError, LrbenchError
from lrbench.core.machine import cores_here, processes_here

if TYPE_CHECKING:
    import torch

# One process may wait long for another: until a large data set is prepared, or the last fine-tuning of a suite is done. When
# one dies, torchrun notices and ends the others; no clock need do it.
_PATIENCE = timedelta(days=7)

Value = TypeVar("Value")


def started_together() -> bool:
    """Whether `torchrun` started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that work together. All of them must call a method for any of them to go on.

    Attributes:
        rank: Which one this is, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world == 1

    def first_does(self, work: Callable[[], Value]) -> Value:
        """Let the first process do something, and give all of them what came out.

        Raises:
            LrbenchError: What the first process met; on all of them.
        """
        if self.alone:
            return work()
        outcome: list[Any] = [None]
        if self.first:
            try:
                outcome = [(work(), None)]
            except LrbenchError as error:
                outcome = [(None, error)]
        import torch.distributed as distributed

        distributed.broadcast_object_list(outcome, src=0)
        value, failed = outcome[0]
        if failed is not None:
            raise self.said_once(failed)
        result: Value = value
        return result

    def said_once(self, error: LrbenchError) -> LrbenchError:
        """An error that all of them meet: the first process says it, the others need not say it again."""
        error.silent = not self.first
        error.shared = True
        return error

    def gather(self, value: Value) -> list[Value]:
        """Everyone's value, in the order of the ranks, to everyone."""
        if self.alone:
            return [value]
        import torch.distributed as distributed

        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def add(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Everyone's tensors added up, in place."""
        if not self.alone:
            import torch.distributed as distributed

            distributed.all_reduce(tensor)
        return tensor


ALONE = Ranks()
"""A process that works by itself."""


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that `torchrun` started: over NCCL where each has a GPU, else over Gloo.

    Raises:
        InputError: There are GPUs, and more processes than these.
    """
    import torch

    # An optimiser's first step imports this, and where a group is there by then, it is held on to for good: its threads then
    # live on after the farewell, and now and then one of them aborts a process that has done all its work.
    import torch._dynamo
    import torch.distributed as distributed
    from torch.distributed.rendezvous import rendezvous

    beside, gpus = processes_here(), torch.cuda.device_count()
    if gpus and beside > gpus:
        raise InputError(
            f"{beside} processes were started on this machine, which has {gpus} GPU{'s' if gpus > 1 else ''}: each needs its "
            f"own. Start at most {gpus} (--nproc-per-node {gpus}), or hide the GPUs (CUDA_VISIBLE_DEVICES=-1) to work on the "
            "CPU."
        )
    on_gpus = gpus > 0
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        # torchrun gives each process one thread, whatever the cores.
        torch.set_num_threads(max(1, cores_here() // beside))
    store, rank, world = next(iter(rendezvous("env://", timeout=_PATIENCE)))
    # Processes that were started again share a store with those before them, whose addresses must not be taken for theirs.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        "nccl" if on_gpus else "gloo",
        store=distributed.PrefixStore(  # type: ignore[attr-defined]
            f"lrbench attempt {attempt}", store
        ),
        rank=rank,
        world_size=world,
        timeout=_PATIENCE,
    )
    together = False
    try:
        yield Ranks(rank=rank, world=world)
        together = True
    except LrbenchError as error:
        together = error.shared
        raise
    finally:
        # NCCL's farewell waits for the others, who may be waiting for this process: where it fails alone it just ends, which
        # torchrun notices.
        if together or not on_gpus:
            distributed.destroy_process_group()
