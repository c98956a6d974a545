"""Devices: choice, CPU threads, random generators, memory formats, and out-of-memory errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def pick_device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def set_cpu_threads(device: torch.device, threads: int) -> None:
    """Set the number of CPU threads for computing on a CPU; do nothing for a GPU."""
    if device.type == "cpu":
        torch.set_num_threads(threads)


@contextmanager
def computing_threads(device: torch.device, threads: int) -> Iterator[None]:
    """Compute with a fixed number of CPU threads within the context, so that results do not depend on the machine."""
    before = torch.get_num_threads()
    set_cpu_threads(device, threads)
    try:
        yield
    finally:
        set_cpu_threads(device, before)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the random generators of the CPU and of a device.

    `torch.manual_seed` seeds every possible device and takes 60 times as long if CUDA is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, in place, in the memory format in which convolutions are fastest.

    The format is channels last, except for networks with 5-dimensional parameters, which do not support it.
    """
    if any(parameter.ndim == 5 for parameter in model.parameters()):
        return model.to(device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and _breaks_on_cpu(module):
                module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)
                if _make_contiguous not in module._forward_pre_hooks.values():
                    module.register_forward_pre_hook(_make_contiguous)
    return model


def _breaks_on_cpu(module: nn.Conv2d) -> bool:
    # torch 2.14 writes out of bounds in the backward pass of such a convolution if input or weight is channels last.
    return module.kernel_size == (1, 1) and module.stride != (1, 1) and module.in_channels < 16


def _make_contiguous(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in inputs)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that a device or the CPU is out of memory."""
    # The CPU's allocator has no exception class. The last text is cuDNN's if no algorithm fits in memory.
    texts = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED", "unable to find an engine")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)
