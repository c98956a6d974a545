"""Networks: creation by timm, features, devices, and inference over prepared images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lrbench.core.errors import InputError
from lrbench.data.pixels import Pixels
from lrbench.data.prefetch import prefetch, prefetch_threads
from lrbench.models.limits import creation_error, limited, reason_of, refuse_arguments, refuse_unknown

# Threads that prepare evaluation batches.
_MOST_THREADS = 8


def create_model(
    architecture: str, arguments: Mapping[str, Any], *, classes: int, seed: int | None = None
) -> nn.Module:
    """Create a network with random weights.

    Args:
        architecture: A timm model name.
        arguments: Keyword arguments of `timm.create_model`.
        classes: Number of outputs.
        seed: Seed of the initialisation. The caller's random state is not changed.

    Raises:
        InputError: timm has no such model or does not take these arguments, or an argument would load weights.
    """
    import timm

    refuse_unknown(architecture)
    refuse_arguments(architecture, arguments, classes=classes)
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            with limited(architecture):
                model: nn.Module = timm.create_model(architecture, num_classes=classes, **arguments)
        except InputError:
            raise
        except Exception as error:
            # Architectures raise exceptions of any kind.
            raise creation_error(architecture, arguments, reason_of(error)) from error
    return model


def penultimate(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the input of the classifier: pooled features, after the head's other layers. Shape `(B, D)`."""
    features: torch.Tensor = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return features.flatten(1)


def stages(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return features after each stage of the network, shallowest first, averaged over positions. Shape `(B, D_i)` each.

    Raises:
        InputError: timm has no intermediate features of this architecture.
    """
    try:
        features = model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")  # type: ignore[operator]
    except (AttributeError, AssertionError, TypeError) as error:
        raise InputError(
            f"timm has no intermediate features of {type(model).__name__}, which the protocol depth needs. Use probe."
        ) from error
    return [stage.mean(dim=(2, 3)) for stage in features]


def batchnorm_layers(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorm layers with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }


def operations(model: nn.Module, size: int) -> int:
    """Count the multiplications and additions of one image's forward pass.

    Args:
        model: The network, on any device, `meta` included.
        size: Side of the square input in pixels.
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    training, counter = model.training, FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, size, size, device=device))
    model.train(training)
    return int(counter.get_total_flops())


def pick_device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cpu_threads(device: torch.device, threads: int) -> None:
    """Set the number of CPU threads for computing on a CPU; do nothing for a GPU."""
    if device.type == "cpu":
        torch.set_num_threads(threads)


@contextmanager
def computing_threads(device: torch.device, threads: int) -> Iterator[None]:
    """Compute with a fixed number of CPU threads within the context, so that results do not depend on the machine."""
    before = torch.get_num_threads()
    cpu_threads(device, threads)
    try:
        yield
    finally:
        cpu_threads(device, before)


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the random generators of the CPU and of a device.

    `torch.manual_seed` seeds every possible device and takes 60 times as long if CUDA is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def placed(model: nn.Module, device: torch.device) -> nn.Module:
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


def no_memory(error: Exception) -> bool:
    """Return whether an error means that a device or the CPU is out of memory."""
    # The CPU's allocator has no exception class. The last text is cuDNN's if no algorithm fits in memory.
    texts = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED", "unable to find an engine")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in texts)


class InputNormalisation:
    """Normalise uint8 images to a network's input on its device.

    Args:
        mean: Subtracted from each channel, on the scale [0, 1].
        std: Divides each channel, on the scale [0, 1].
        device: Device of the network.

    Attributes:
        device: Device of the network.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self._scale = (1.0 / (255.0 * torch.tensor(std))).to(device)
        self._shift = (-torch.tensor(mean) / torch.tensor(std)).to(device)
        self.device = device

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images.

        Args:
            images: uint8, shape `(B, S, S, 3)`.

        Returns:
            float32, shape `(B, 3, S, S)`, channels last in memory.
        """
        moved = images.to(self.device, non_blocking=True)
        return torch.addcmul(self._shift, moved.to(torch.float32), self._scale).permute(0, 3, 1, 2)


def forward_all(
    forward: Callable[[torch.Tensor], torch.Tensor],
    pixels: Pixels,
    normalise: InputNormalisation,
    *,
    indices: npt.NDArray[np.int64] | None = None,
    batch: int = 256,
    each: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Apply a function to evaluation crops in batches, to each image exactly once.

    Args:
        forward: Takes a network's input of shape `(B, 3, S, S)`.
        pixels: Prepared images.
        normalise: Turns them into inputs.
        indices: Images in order; None for all.
        batch: Batch size.
        each: Called with the number of images done, after each batch.

    Returns:
        The outputs in order, on the CPU. Shape `(N, …)`.
    """
    chosen = np.arange(len(pixels)) if indices is None else indices

    def crops(number: int) -> tuple[torch.Tensor]:
        part = chosen[number * batch : (number + 1) * batch]
        return (torch.from_numpy(np.array(pixels.evaluation(part))),)

    device = normalise.device
    # Each thread holds two batches in memory.
    threads = min(prefetch_threads(device), _MOST_THREADS)
    made = prefetch(crops, 0, -(-len(chosen) // batch), threads=threads, pin=device.type == "cuda")
    outputs = []
    with torch.inference_mode(), closing(made):
        for number, (images,) in enumerate(made, start=1):
            outputs.append(forward(normalise(images)))
            if each is not None:
                each(min(number * batch, len(chosen)))
    return torch.cat([output.cpu() for output in outputs])
