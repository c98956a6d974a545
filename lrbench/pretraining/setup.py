"""Set-up of training: the optimiser, the wrapper of several processes, and the arithmetic of a GPU."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from lrbench.config.pretraining import Schedule
from lrbench.core.distributed import ProcessGroup
from lrbench.core.machine import set_cublas_workspace


def create_optimiser(
    model: nn.Module, schedule: Schedule, momentum: Mapping[str, torch.Tensor]
) -> torch.optim.Optimizer:
    """Create SGD and load momentum buffers into it.

    Args:
        model: The network on its device.
        schedule: Momentum and weight decay.
        momentum: Buffers by parameter name; parameters without one start at zero.
    """
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=schedule.rates[0],
        momentum=schedule.momentum,
        nesterov=schedule.nesterov,
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    for name, parameter in model.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter, memory_format=torch.preserve_format)
            buffer.copy_(momentum[name])
            optimiser.state[parameter]["momentum_buffer"] = buffer
    return optimiser


def momentum_buffers(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the momentum buffers by parameter name; parameters that had no gradient have none."""
    state = optimiser.state
    return {
        name: state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if state.get(parameter, {}).get("momentum_buffer") is not None
    }


def parallel(model: nn.Module, ranks: ProcessGroup) -> Any:
    """Return a network whose gradients are averaged over all processes; with one process, the network."""
    if ranks.is_single:
        return model
    wrapper: Any = nn.parallel.DistributedDataParallel
    # Each process has its own BatchNorm running statistics; the first one's are saved. Newer versions of torch renamed
    # the option.
    known = inspect.signature(wrapper).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return wrapper(model, **{option: False})


def gradient_sync(model: Any, *, enabled: bool) -> AbstractContextManager[Any]:
    """Context in which processes exchange gradients, or accumulate them without exchange.

    Args:
        model: What `parallel` returned.
        enabled: Whether to exchange: once an update, with the last micro-batch.
    """
    accumulates = not enabled and isinstance(model, nn.parallel.DistributedDataParallel)
    return model.no_sync() if accumulates else nullcontext()


@contextmanager
def arithmetic(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Context in which a GPU computes the same bits each time, or with the fastest convolutions for the shapes."""
    if device.type != "cuda":
        yield
        return
    if deterministic:
        set_cublas_workspace()
    searches = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = searches
