"""Limits on networks built from untrusted configuration, and a forward pass on the device `meta`, which needs no memory."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from lrbench.config import suggestion
from lrbench.core.errors import InputError, as_sentence
from lrbench.core.files import canonical_json, parse_json

# Arguments of `timm.create_model` that fetch, load or select weights.
_LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
# timm's largest networks have 2,000 modules and 7 billion parameters.
_MOST_MODULES = 20_000
_MOST_PARAMETERS = 20_000_000_000
# Limits on the values in a network's arguments.
_LARGEST_NUMBER, _MOST_VALUES = 65_536, 2_000
_LONG_DIGITS = re.compile(r"\d{6,}")


def refuse_unknown(architecture: str) -> None:
    """Refuse an architecture that timm does not have.

    Raises:
        InputError: timm has no such model; suggests similar names.
    """
    import timm

    if not timm.is_model(architecture):
        raise InputError(
            f"timm {timm.__version__} has no model {architecture!r}.{suggestion(architecture, timm.list_models())} "
            "`timm.list_models()` lists them."
        )


def creation_error(architecture: str, arguments: Mapping[str, Any], reason: str) -> InputError:
    """Return the error for a network that timm cannot create."""
    return InputError(
        f"timm could not create {architecture!r} with the arguments {dict(arguments)}: {as_sentence(reason)} Correct "
        "model.architecture or model.arguments."
    )


def refuse_arguments(architecture: str, arguments: Mapping[str, Any], *, classes: int) -> None:
    """Refuse arguments that would load weights, or build a network larger than any of timm's.

    The network is built on the device `meta` to measure it.

    Raises:
        InputError: An argument fetches or loads weights, or the network or a number in its arguments is too large.
    """
    # `pretrained = false` is allowed.
    if loading := sorted(name for name in _LOADING & arguments.keys() if arguments[name]):
        raise InputError(
            f"the argument `{loading[0]}` of {architecture!r} would have timm fetch or load weights. Remove it: a suite "
            "trains its networks from random weights. To use other weights, add them with `lrbench snapshots add` or name "
            "timm:NAME."
        )
    numbers = list(_values(dict(arguments)))
    large = next((value for value in numbers if _is_large(value)), None)
    if large is not None or len(numbers) > _MOST_VALUES or classes > 10**6:
        what = (
            f"the value {str(large)[:40]!r}"
            if large is not None
            else f"{max(len(numbers), classes):,} values or classes"
        )
        raise InputError(
            f"{architecture} has {what} in its arguments, more than any of timm's networks. Correct model.arguments; the "
            f"largest number accepted there is {_LARGEST_NUMBER:,}."
        )
    _problem(architecture, canonical_json(dict(arguments)), classes, 0)


def refuse_misfit(
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    classes: int,
    size: int,
    where: str = "",
    keys: tuple[str, str] = ("input.size", "model.arguments"),
) -> None:
    """Refuse a network that does not turn square colour images of a size into one score per class.

    Args:
        architecture: The timm model.
        arguments: Keyword arguments of `timm.create_model`.
        classes: Number of outputs; 0 for a network without a classifier.
        size: Side of the input in pixels.
        where: Prefix of the message, as `FILE: `.
        keys: The user's names for the size and the arguments.

    Raises:
        InputError: The network does not; gives timm's reason and the key to change.
    """
    refuse_unknown(architecture)
    refuse_arguments(architecture, arguments, classes=classes)
    text = canonical_json(dict(arguments))
    if reason := _problem(architecture, text, classes, 0):
        raise creation_error(architecture, arguments, reason)
    if reason := _problem(architecture, text, classes, size):
        fails_at_own_size = _problem(architecture, text, classes, -1)
        key = keys[1] if fails_at_own_size else " or ".join(keys)
        raise InputError(
            f"{where}{architecture} does not turn images of {size} × {size} pixels and 3 channels into features and scores: "
            f"{as_sentence(reason)} Correct {key}."
        )


@lru_cache(maxsize=256)
def _problem(architecture: str, arguments: str, classes: int, size: int) -> str:
    """Return why a network does not work, or an empty text if it does.

    Args:
        architecture: The timm model.
        arguments: Keyword arguments as JSON.
        classes: Number of outputs.
        size: Side of the input; 0 only builds the network, -1 takes the size that timm states.

    Raises:
        InputError: It is too large.
    """
    import timm

    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), limited(architecture):
            model: nn.Module = timm.create_model(architecture, num_classes=classes, **parse_json(arguments))
        return forward_problem(model, classes, size) if size else ""
    except InputError:
        raise
    except Exception as error:
        # Architectures raise exceptions of any kind.
        return reason_of(error)


def forward_problem(model: nn.Module, classes: int, size: int) -> str:
    """Return why a network on the device `meta` gives no features or scores of images, or an empty text if it does.

    Args:
        model: The network.
        classes: Number of outputs.
        size: Side of the input; -1 takes the size that timm states.
    """
    from timm.data.config import resolve_model_data_config

    if size < 0:
        size = int(max(resolve_model_data_config(model)["input_size"][1:]))  # type: ignore[no-untyped-call]
    images = torch.empty(2, 3, size, size, device="meta")
    try:
        with torch.no_grad():
            for training in (False, True):
                outputs: Any = model.train(training)(images)
                if not isinstance(outputs, torch.Tensor):
                    return f"it gives a {type(outputs).__name__} instead of one tensor"
                if classes and tuple(outputs.shape) != (2, classes):
                    return f"it gives scores of shape {list(outputs.shape)} for 2 images and {classes} classes"
            features: torch.Tensor = model.eval().forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    except Exception as error:
        # Architectures raise exceptions of any kind.
        return reason_of(error)
    return (
        ""
        if features.ndim > 1 and len(features) == 2
        else f"it gives features of shape {list(features.shape)} for 2 images"
    )


@contextmanager
def limited(architecture: str) -> Iterator[None]:
    """Limit the number of modules and parameters of a network while it is built.

    Raises:
        InputError: It exceeds a limit.
    """
    modules = parameters = 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > _MOST_MODULES:
            raise InputError(f"{architecture} would have more than {_MOST_MODULES:,} layers. Correct model.arguments.")

    def count_parameter(_: nn.Module, __: str, parameter: Any) -> None:
        nonlocal parameters
        parameters += parameter.numel() if isinstance(parameter, torch.Tensor) else 0
        if parameters > _MOST_PARAMETERS:
            raise InputError(
                f"{architecture} would have more than {_MOST_PARAMETERS:,} parameters. Correct model.arguments."
            )

    hooks = (
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_parameter),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def reason_of(error: Exception) -> str:
    """Return the text of an error of timm's, with the kind of those whose text is only a name."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, LookupError | AttributeError) else str(error)
    return " ".join((text or type(error).__name__).split())[:400]


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _values(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _values(inner)
    else:
        yield value


def _is_large(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > 10_000 or _LONG_DIGITS.search(value) is not None
    return isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER
