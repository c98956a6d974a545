"""Networks: timm architectures, made by name and keyword arguments."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lrbench.errors import InputError
from lrbench.registry import suggestion


def create_model(architecture: str, arguments: Mapping[str, Any], *, classes: int, seed: int | None = None) -> nn.Module:
    """A network with fresh weights.

    Args:
        architecture: A timm model name.
        arguments: Keyword arguments of `timm.create_model`.
        classes: Number of outputs.
        seed: Seeds the initialisation; the caller's random state stays as it was.

    Raises:
        InputError: timm has no such model or does not take these arguments.
    """
    import timm

    if not timm.is_model(architecture):
        raise InputError(
            f"timm {timm.__version__} has no model {architecture!r}.{suggestion(architecture, timm.list_models())} "
            "`timm.list_models()` lists them."
        )
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(architecture, num_classes=classes, **arguments)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise InputError(
                f"timm could not make {architecture!r} with the arguments {dict(arguments)}: {error}. Correct "
                "model.architecture or model.arguments."
            ) from error
    return model


def penultimate(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Features before the classifier: pooled, after whatever the head does before its last layer. Shape `(B, D)`."""
    features: torch.Tensor = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return features.flatten(1)


def has_batchnorm(model: nn.Module) -> bool:
    """Whether the network has BatchNorm layers that keep running statistics."""
    return bool(batchnorm_layers(model))


def batchnorm_layers(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """BatchNorm layers with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }


def pick_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
