"""Tensors by name: read from safetensors files, checked, and loaded into a network only if all names and shapes match."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile
from lrbench.store.headers import GET_IT_AGAIN, read_header

# Differences in one message.
_SHOWN = 3


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Load the tensors of a safetensors file.

    Raises:
        InputError: The file is missing or damaged.
    """
    from safetensors.torch import load_file

    read_header(path)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except Exception as error:
        # Unsupported types and wrong offsets raise exceptions of several kinds.
        raise DamagedFile(path, " ".join(str(error).split())[:200], GET_IT_AGAIN) from error
    return tensors


class MismatchError(InputError):
    """Tensors do not fit a network.

    Attributes:
        problems: All differences, if the message does not list them all.
    """

    problems: tuple[str, ...] = ()


def load_strictly(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, architecture: str, advice: str = GET_IT_AGAIN
) -> None:
    """Load tensors into a network; all names and shapes must match.

    Args:
        model: The network.
        tensors: By name.
        path: File that the tensors were read from.
        architecture: Name of the network, for the message.
        advice: What to do if they do not match.

    Raises:
        MismatchError: Names or shapes differ; the message lists the first differences.
    """
    problems = mismatches(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if problems:
        more = f"; and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        error = MismatchError(
            f"{path} does not hold the weights of {architecture}: {'; '.join(problems[:_SHOWN])}{more}. {advice}"
        )
        error.problems = tuple(problems) if more else ()
        raise error
    model.load_state_dict(dict(tensors))


def mismatches(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the differences between the tensors of a network and tensors of these names and shapes, one phrase each."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"{name} is missing" for name in expected if name not in shapes]
    problems += [f"{name} is not a part of it" for name in shapes if name not in expected]
    problems += [
        f"{name} has shape {list(shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    return problems


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of a tensor with values that are not finite, or None."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)


def negative_variance(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of running variances with a value below zero, or None."""
    variances = ((name, tensor) for name, tensor in tensors.items() if name.endswith("running_var"))
    return next((name for name, tensor in variances if bool((tensor < 0).any())), None)
