"""Limits on the networks that are built from outside text, and a forward pass that needs no memory."""

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

# Arguments of `timm.create_model` that fetch or load weights, or say which.
_LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
# timm's largest networks have 2,000 modules and 7 billion parameters.
_MOST_MODULES = 20_000
_MOST_PARAMETERS = 20_000_000_000
# Numbers and words in a network's arguments.
_LARGEST_NUMBER, _MOST_VALUES = 65_536, 2_000
_LONG_DIGITS = re.compile(r"\d{6,}")


def refuse_unknown(architecture: str) -> None:
    """Refuse what is no model of timm's.

    Raises:
        InputError: Says which may have been meant.
    """
    import timm

    if not timm.is_model(architecture):
        raise InputError(
            f"timm {timm.__version__} has no model {architecture!r}.{suggestion(architecture, timm.list_models())} "
            "`timm.list_models()` lists them."
        )


def not_made(architecture: str, arguments: Mapping[str, Any], reason: str) -> InputError:
    """The error for a network that timm does not make."""
    return InputError(
        f"timm could not make {architecture!r} with the arguments {dict(arguments)}: {as_sentence(reason)} Correct "
        "model.architecture or model.arguments."
    )


def refuse_arguments(architecture: str, arguments: Mapping[str, Any], *, classes: int) -> None:
    """Refuse arguments that would load weights, or build a network beyond all that are trained.

    The network is built without memory to find out.

    Raises:
        InputError: An argument fetches or loads weights, or a number in the arguments or the network is too large.
    """
    # `pretrained = false` asks for nothing.
    if loading := sorted(name for name in _LOADING & arguments.keys() if arguments[name]):
        raise InputError(
            f"{architecture!r} is asked for with the argument `{loading[0]}`, which would have timm fetch or load weights. "
            "Leave it out: a suite's networks begin untrained, and `lrbench snapshots add` or timm:NAME bring weights."
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
            f"{architecture} is asked for with {what} in its arguments, more than any network that timm has. Correct "
            f"model.arguments; the largest number lrbench accepts there is {_LARGEST_NUMBER:,}."
        )
    _verdict(architecture, canonical_json(dict(arguments)), classes, 0)


def refuse_misfit(
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    classes: int,
    size: int,
    where: str = "",
    keys: tuple[str, str] = ("input.size", "model.arguments"),
) -> None:
    """Refuse a network that does not turn square colour images of a size into a score for each class.

    Args:
        architecture: The timm model.
        arguments: Keyword arguments of `timm.create_model`.
        classes: Number of outputs; 0 for a network without a classifier.
        size: Side of the input in pixels.
        where: What says so, as `FILE: `.
        keys: What the user calls the size and the arguments.

    Raises:
        InputError: Names the key to change and gives timm's reason.
    """
    refuse_unknown(architecture)
    refuse_arguments(architecture, arguments, classes=classes)
    text = canonical_json(dict(arguments))
    if reason := _verdict(architecture, text, classes, 0):
        raise not_made(architecture, arguments, reason)
    if reason := _verdict(architecture, text, classes, size):
        own = _verdict(architecture, text, classes, -1)
        key = keys[1] if own else " or ".join(keys)
        raise InputError(
            f"{where}{architecture} does not turn images of {size} × {size} pixels and 3 channels into features and scores: "
            f"{as_sentence(reason)} Correct {key}."
        )


@lru_cache(maxsize=256)
def _verdict(architecture: str, arguments: str, classes: int, size: int) -> str:
    """Why a network built without memory does not work; empty where it does. A size of 0 only builds it, -1 is its own.

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
        # Every architecture has exceptions of its own.
        return reason_of(error)


def forward_problem(model: nn.Module, classes: int, size: int) -> str:
    """Why a network on the device `meta` gives no features and scores of an image, in training and in evaluation."""
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
        # Every architecture has exceptions of its own.
        return reason_of(error)
    return (
        ""
        if features.ndim > 1 and len(features) == 2
        else f"it gives features of shape {list(features.shape)} for 2 images"
    )


@contextmanager
def limited(architecture: str) -> Iterator[None]:
    """Stop the building of a network that grows beyond the limits.

    Raises:
        InputError: It does.
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
    """What an error of timm's says; a missing key says its name alone."""
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
