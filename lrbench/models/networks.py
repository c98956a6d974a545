"""Networks of timm: creation, features, BatchNorm layers and operation counts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lrbench.core.errors import InputError
from lrbench.models.limits import creation_error, limited, reason_of, refuse_arguments, refuse_unknown


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


def count_operations(model: nn.Module, size: int) -> int:
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


def drops_at_random(model: nn.Module) -> bool:
    """Return whether a network drops activations or paths at random, in layers or by a rate that a module stores."""
    return any(
        isinstance(value, float) and value > 0
        for module in model.modules()
        for name, value in vars(module).items()
        if "drop" in name.lower() or (name == "p" and "drop" in type(module).__name__.lower())
    )
