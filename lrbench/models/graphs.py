"""CUDA graphs: kernels of a forward and backward pass that are launched together.

A small network is bound by the launches of its kernels. A graph launches them at once, with the same kernels and numbers.
"""

import os
from contextlib import AbstractContextManager

import torch
from torch import nn

from lrbench.models.networks import drops_at_random

SWITCH = "LRBENCH_CUDA_GRAPHS"
"""Environment variable that turns graphs on with the value 1."""


def can_capture(model: nn.Module, device: torch.device) -> bool:
    """Return whether training passes of a network can become graphs, and graphs are turned on.

    A graph would repeat the random numbers of dropout, and torch does not capture networks with hooks.
    """
    has_hooks = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return os.environ.get(SWITCH) == "1" and device.type == "cuda" and not has_hooks and not drops_at_random(model)


def capture(model: nn.Module, inputs: torch.Tensor, autocast: AbstractContextManager[object]) -> str | None:
    """Replace a network's passes in training mode by graphs, in place, for inputs of one shape.

    Weights and BatchNorm statistics do not change.

    Args:
        model: The network in training mode, on the device.
        inputs: Inputs of the shape of every later call. Shape `(B, 3, H, W)`.
        autocast: Context of the forward pass, without a cache of weights.

    Returns:
        Why the network stays as it was, or None.
    """
    # The passes that come before the capture update BatchNorm statistics.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with autocast:
            torch.cuda.make_graphed_callables(model, (inputs.clone(),))
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    return None
