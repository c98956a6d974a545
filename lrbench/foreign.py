"""Weights from elsewhere, taken in as snapshots: tensors only, and every name and shape must fit."""

import argparse
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.errors import InputError
from lrbench.machine import library_versions
from lrbench.models import create_model
from lrbench.snapshots import SnapshotMetadata, write_snapshot
from lrbench.weights import (
    input_of,
    load_strictly,
    load_tensors,
    mismatches,
    not_finite,
    pretrained_configuration,
)

# What training scripts of timm and torchvision keep beside the weights: a bag of values, whose making runs nothing.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]
# Put before each name by those that wrap a model.
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which of a file's tensors are meant, and what they are of.

    Attributes:
        architecture: The timm model.
        arguments: Keyword arguments of `timm.create_model` beside the number of classes.
        key: Which of the file's state dicts, where it holds several.
        prefix: What the names of the tensors meant begin with, which is taken off; others are left out.
        without: Beginnings of names that are left out, after the prefix was taken off.
    """

    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    prefix: str = ""
    without: Sequence[str] = ()


def take_in(file: Path, origin: Origin, folder: Path, name: str) -> tuple[Path, list[str]]:
    """Take in foreign weights as a snapshot.

    Args:
        file: safetensors, or a file of `torch.save` that loads with `weights_only=True`; with a classifier of any number of
            classes, or without one, as self-supervised pretraining leaves them.
        origin: Which of its tensors are meant, and what they are of.
        folder: Where the snapshot goes.
        name: What it is called.

    Returns:
        The snapshot's path, and the names of the tensors that were left out because `origin` says so.

    Raises:
        InputError: The file is missing or damaged, would run code, or does not fit the architecture; or the name is taken.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"{name!r} cannot be a snapshot's name: that is letters, digits, dots, underscores and hyphens, and begins with a "
            "letter or a digit. Give another with --name."
        )
    path = folder / f"{name}.safetensors"
    if path.exists():
        raise InputError(f"{path} is there already. Give the new one another name with --name.")
    held = _tensors(file, origin.key)
    if not held:
        raise InputError(f"{file} holds no tensors, so it is no file of weights.")
    tensors = _meant(file, held, origin)
    given = dict(origin.arguments)
    layers = pretrained_configuration(create_model(origin.architecture, given, classes=10)).get("classifier")
    # Distilled networks have two classifiers.
    found = (
        tensors.get(f"{layer}.{part}")
        for layer in ([layers] if isinstance(layers, str) else layers or ())
        for part in ("bias", "weight")
    )
    classes = next((len(tensor) for tensor in found if tensor is not None), 0)
    model = create_model(origin.architecture, given, classes=classes)
    load_strictly(model, tensors, file, origin.architecture, _advice(model, held, origin))
    if (broken := not_finite(tensors)) is not None:
        raise InputError(f"{file} holds values in {broken} that are not finite, so nothing can be transferred from it.")
    metadata = SnapshotMetadata(
        architecture=origin.architecture,
        arguments=given,
        classes=classes,
        input=input_of(model).model_copy(update={"size": given["img_size"]} if "img_size" in given else {}),
        origin=file.name,
        versions=library_versions(),
    )
    write_snapshot(path, model.state_dict(), metadata)
    return path, [each for each in held if each.removeprefix(origin.prefix) not in tensors]


def _meant(file: Path, held: Mapping[str, torch.Tensor], origin: Origin) -> dict[str, torch.Tensor]:
    """The tensors meant, under the names that the network gives them.

    Raises:
        InputError: A beginning of names that none has.
    """
    under = {name.removeprefix(origin.prefix): each for name, each in held.items() if name.startswith(origin.prefix)}
    for option, start, names in (
        ("--prefix", origin.prefix, held),
        *(("--without", each, under) for each in origin.without),
    ):
        if not any(name.startswith(start) for name in names):
            shown = ", ".join(list(names)[:3])
            raise InputError(
                f"{file} holds no tensor whose name begins with {start!r} ({option}). Its names: {shown}, …"
            )
    return {name: each for name, each in under.items() if not name.startswith(tuple(origin.without))}


def _advice(model: nn.Module, held: Mapping[str, torch.Tensor], origin: Origin) -> str:
    """What to do where names or shapes do not fit."""
    advice = (
        "Name the timm model that they are of (--architecture), and the arguments that it was made with (--argument)."
    )
    wanted = list(model.state_dict())
    first = wanted[0]
    for prefix in dict.fromkeys(name[: -len(first)] for name in held if name.endswith(f".{first}")):
        under = {name.removeprefix(prefix): each for name, each in held.items() if name.startswith(prefix)}
        problems = mismatches(model, {name: tuple(each.shape) for name, each in under.items()})
        strangers = [name for name in under if name not in wanted]
        if prefix == origin.prefix or len(problems) > len(strangers):
            continue
        # A head that is none of the network's: all its names begin alike.
        heads = dict.fromkeys(f"{name.partition('.')[0]}." for name in strangers)
        left_out = "".join(f" --without {each}" for each in heads)
        return f"What it holds under {prefix!r} fits: --prefix {prefix}{left_out}"
    return advice


def _tensors(file: Path, key: str | None) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise InputError(f"there is no file {file}.")
    if not file.stat().st_size:
        raise InputError(f"{file} is empty. Copy it again.")
    if file.suffix == ".safetensors":
        return load_tensors(file)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged files and forbidden pickles each end in several kinds of exception.
        raise InputError(f"{file} was not loaded: {_not_loaded(file)}") from error
    # Training scripts keep the weights under a name, and wrapped models put a word before each.
    held = _state_dicts(content)
    if key is None and len(held) > 1:
        raise InputError(
            f"{file} holds several sets of weights: {', '.join(held)}. Say with --key which of them is meant."
        )
    if key is not None and key not in held:
        raise InputError(
            f"{file} holds no weights under the key {key!r}; it holds {', '.join(held) or 'none under a key'}."
        )
    if held:
        content = held[key or next(iter(held))]
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}, not a state dict of named tensors.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _not_loaded(file: Path) -> str:
    """Why a file that is not safetensors was not loaded, and what to do; nothing in it is run."""
    with file.open("rb") as opened:
        start = opened.read(2)
    if not start.startswith((b"PK", b"\x80")):
        return "it is no file that torch.save writes. Name the file of weights, or a .safetensors file."
    if start.startswith(b"PK") and not zipfile.is_zipfile(file):
        return "it is cut short. Copy it again."
    saved = "Save its state dict alone (torch.save(model.state_dict(), ...)), best as safetensors, where you trust it."
    try:
        others = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(file)))
    except Exception:
        # Files of old versions cannot be looked into without loading.
        others = []
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        return (
            f"beside tensors, numbers and words it holds {shown}, which could run code. Nothing in it was run. {saved}"
        )
    return (
        "it is damaged, or it holds more than tensors, numbers and words, which could run code. Nothing in it was run. "
        f"{saved}"
    )


def _state_dicts(content: Any) -> dict[str, Any]:
    """The state dicts that a checkpoint holds under names, as `state_dict` and `state_dict_ema`."""
    if not isinstance(content, dict):
        return {}
    return {
        str(name): value
        for name, value in content.items()
        if isinstance(value, dict) and any(isinstance(each, torch.Tensor) for each in value.values())
    }
