"""Weights from elsewhere, taken in as snapshots: tensors only, and every name and shape must fit."""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.config.loading import validate
from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.core.machine import library_versions
from lrbench.models.conversion import Converted, convention, convert
from lrbench.models.foreign_files import named_tensors
from lrbench.models.limits import refuse_misfit
from lrbench.models.networks import batchnorm_layers, create_model
from lrbench.models.tensors import MismatchError, load_strictly, mismatches, negative_variance, not_finite
from lrbench.models.timm_configuration import input_of, pretrained_configuration
from lrbench.store.snapshots import SnapshotMetadata, write_snapshot

_COUNT = "num_batches_tracked"
# Parts of a file that are tried.
_MOST_PARTS = 6
_NAME_IT = (
    "Name the timm model that they are of (--architecture), and the arguments that it was made with (--argument)."
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which of a file's tensors are meant, and what they are of.

    Attributes:
        architecture: The timm model.
        arguments: Keyword arguments of `timm.create_model` beside the number of classes.
        input: What of the network's input is otherwise than timm says of the model: keys and values of `Input`.
        key: Which of the file's state dicts, where it holds several: the keys that lead to it, with dots between them.
        prefix: What the names of the tensors meant begin with, which is taken off; others are left out.
        without: Beginnings of names that are left out, after the prefix was taken off.
    """

    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    prefix: str = ""
    without: Sequence[str] = ()

    def of(self, file: Path) -> str:
        """A file and which of its tensors, for the record."""
        parts = (("--key", self.key), ("--prefix", self.prefix), *(("--without", each) for each in self.without))
        return " ".join([file.name, *(f"{option} {value}" for option, value in parts if value)])


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was taken in.

    Attributes:
        path: The snapshot.
        input: The input that the network is given.
        assumed: What of that is as timm says of the model's default weights, since nothing else was said: keys of `Input`.
        left_out: Names of the tensors that were left out because the origin says so.
        uncounted: BatchNorm layers whose count of batches was not in the file and was set to 0.
        converted: Whether timm's own conversion turned other names or shapes into its own.
    """

    path: Path
    input: Input
    assumed: list[str]
    left_out: list[str]
    uncounted: list[str]
    converted: bool = False


def take_in(file: Path, origin: Origin, folder: Path, name: str) -> Taken:
    """Take in foreign weights as a snapshot.

    Args:
        file: safetensors, or a file of `torch.save` that loads with `weights_only=True`; with a classifier of any number of
            classes, or without one, as self-supervised pretraining leaves them.
        origin: Which of its tensors are meant, and what they are of.
        folder: Where the snapshot goes.
        name: What it is called.

    Raises:
        InputError: The file is missing or damaged, would run code, or does not fit the architecture; the input is none; or
            the name is taken or cannot be a snapshot's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"{name!r} cannot be a snapshot's name: that is letters, digits, dots, underscores and hyphens, and begins with a "
            "letter or a digit. Give another with --name."
        )
    if name.lower().endswith(".bn"):
        raise InputError(
            f"{name!r} cannot be a snapshot's name: {name}.safetensors would be the BatchNorm statistics of {name[:-3]}. Give "
            "another with --name."
        )
    path = folder / f"{name}.safetensors"
    held = named_tensors(file, origin.key)
    meant = _meant(file, held, origin)
    kept = set(meant)
    model = _network(origin, meant)
    uncounted = _uncounted(model, meant)
    tensors = _counted(meant, uncounted)
    fits = not mismatches(model, _shapes(tensors))
    advice = "" if fits else _advice(held, origin)
    # Under other names than timm's, or in other shapes.
    converted = None if fits or advice else _converted(origin, meant)
    if converted is not None:
        model, kept = _network(origin, converted.tensors), kept.difference(converted.dropped)
        uncounted = _uncounted(model, converted.tensors)
        tensors = _counted(converted.tensors, uncounted)
    try:
        load_strictly(model, tensors, file, origin.architecture, advice or f"{_NAME_IT}{convention(list(meant))}")
    except MismatchError as error:
        if advice:
            # Who knows what to do needs no list of everything.
            error.problems = ()
        raise
    _refuse_values(file, tensors, model)
    if path.exists():
        raise InputError(
            f"{path} is there already. Give the new one another name with --name, or delete that file first."
        )
    given = dict(origin.arguments)
    shown = _input(model, origin)
    classes = int(getattr(model, "num_classes", 0))
    options = ("--input size", "--argument")
    refuse_misfit(origin.architecture, given, classes=classes, size=shown.size, where=f"{file}: ", keys=options)
    metadata = SnapshotMetadata(
        architecture=origin.architecture,
        arguments=given,
        classes=classes,
        input=shown,
        origin=origin.of(file),
        versions=library_versions(),
    )
    write_snapshot(path, model.state_dict(), metadata)
    said = {*origin.input, *(("size",) if "img_size" in given else ())}
    return Taken(
        path=path,
        input=shown,
        assumed=[key for key in Input.model_fields if key not in said],
        left_out=[
            name for name in held if not name.startswith(origin.prefix) or name.removeprefix(origin.prefix) not in kept
        ],
        uncounted=uncounted,
        converted=converted is not None,
    )


def _counted(tensors: Mapping[str, torch.Tensor], layers: Sequence[str]) -> dict[str, torch.Tensor]:
    return {**tensors, **{f"{layer}.{_COUNT}": torch.tensor(0) for layer in layers}}


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _converted(origin: Origin, tensors: Mapping[str, torch.Tensor]) -> Converted | None:
    """The tensors under timm's names, where timm's own conversion makes all of them fit."""
    trial = convert(origin.architecture, origin.arguments, tensors, classes=10)
    if trial is None:
        return None
    # Under timm's names the classifier says how many classes it has.
    final = convert(origin.architecture, origin.arguments, tensors, classes=_classes(origin, trial.tensors))
    if final is None:
        return None
    model = _network(origin, final.tensors)
    fits = not mismatches(model, _shapes(_counted(final.tensors, _uncounted(model, final.tensors))))
    return final if fits else None


def _uncounted(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """The BatchNorm layers of which everything is there but the count of batches, which torch saves since 0.4.1."""
    found = []
    for name, layer in batchnorm_layers(model).items():
        shapes = {f"{name}.{part}": tensor.shape for part, tensor in layer.state_dict().items()}
        count = shapes.pop(f"{name}.{_COUNT}", None)
        there = all(each in tensors and tensors[each].shape == shape for each, shape in shapes.items())
        if count is not None and f"{name}.{_COUNT}" not in tensors and there:
            found.append(name)
    return found


def _refuse_values(file: Path, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    """Refuse what is no weights in the network's own kind of number, which it holds by now.

    Raises:
        InputError: Whole numbers in the place of weights, or values that are not finite.
    """
    taken = model.state_dict()
    whole = next(
        (name for name, each in taken.items() if each.is_floating_point() > tensors[name].is_floating_point()), None
    )
    if whole is not None:
        raise InputError(
            f"{file} holds {whole} as whole numbers ({str(tensors[whole].dtype).removeprefix('torch.')}), as quantised weights "
            "are: their scale is not in it. Save plain weights in single or half precision."
        )
    if (broken := not_finite(tensors)) is not None:
        raise InputError(f"{file} holds values in {broken} that are not finite, so nothing can be transferred from it.")
    if (broken := negative_variance(taken)) is not None:
        raise InputError(f"{file} holds a negative variance in {broken}, so nothing can be transferred from it.")
    if (broken := not_finite(taken)) is not None:
        raise InputError(
            f"{file} holds values in {broken} that are too large for {str(taken[broken].dtype).removeprefix('torch.')}, "
            "in which the network computes, so nothing can be transferred from it."
        )


def _input(model: nn.Module, origin: Origin) -> Input:
    size = {"size": origin.arguments["img_size"]} if "img_size" in origin.arguments else {}
    return validate(Input, {**input_of(model).model_dump(mode="json"), **size, **origin.input}, "--input")


def _classes(origin: Origin, tensors: Mapping[str, torch.Tensor]) -> int:
    """How many classes the classifier among tensors tells apart; 0 where there is none."""
    layers = pretrained_configuration(create_model(origin.architecture, origin.arguments, classes=10)).get("classifier")
    # Distilled networks have two classifiers.
    found = (
        tensors.get(f"{layer}.{part}")
        for layer in ([layers] if isinstance(layers, str) else layers or ())
        for part in ("bias", "weight")
    )
    return next((len(tensor) for tensor in found if tensor is not None and tensor.ndim), 0)


def _network(origin: Origin, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    return create_model(origin.architecture, origin.arguments, classes=_classes(origin, tensors))


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
            words = dict.fromkeys(name.partition(".")[0] + "." * ("." in name) for name in names)
            shown = ", ".join(list(words)[:12])
            raise InputError(
                f"{file} holds no tensor whose name begins with {start!r} ({option}). Its names begin with: {shown}"
                f"{', …' if len(words) > 12 else ''}"
            )
    return {name: each for name, each in under.items() if not name.startswith(tuple(origin.without))}


def _advice(held: Mapping[str, torch.Tensor], origin: Origin) -> str:
    """What part of the tensors fits, as options; empty where none does."""
    first = next(iter(_network(origin, {}).state_dict()))
    prefixes = (name[: -len(first)] for name in held if name == first or name.endswith(f".{first}"))
    fitting: dict[str, str] = {}
    for prefix in itertools.islice(dict.fromkeys(prefixes), _MOST_PARTS):
        under = {name.removeprefix(prefix): each for name, each in held.items() if name.startswith(prefix)}
        model = _network(origin, under)
        wanted = model.state_dict().keys()
        strangers = [name for name in under if name not in wanted]
        # All that it lacks to fit is that something is left out, or counts that are set to 0.
        lacking = len(mismatches(model, {name: tuple(each.shape) for name, each in under.items()}))
        if lacking > len(strangers) + len(_uncounted(model, under)):
            continue
        modules = dict(model.named_modules())
        if any(_of_another_body(name, modules) for name in strangers):
            continue
        starts = dict.fromkeys(_start(name, wanted) for name in strangers)
        named = [f"--prefix {prefix}"] * bool(prefix) + [f"--without {start}" for start in starts]
        fitting[prefix] = " ".join(named)
    if len(fitting) > 1:
        parts = ", ".join(f"{options} takes what is under {prefix!r}" for prefix, options in fitting.items())
        return f"Several parts of what it holds fit, of which one must be chosen: {parts}"
    for prefix, options in fitting.items():
        held_by = f"What it holds under {prefix!r}" if prefix else "The rest of what it holds"
        return f"{held_by} fits: {options}"
    return ""


def _of_another_body(stranger: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a name is of a layer that the network lacks inside a part that it has, as a deeper network's: no mere extra."""
    top, parent = stranger.partition(".")[0], stranger.rpartition(".")[0]
    return top in modules and next(modules[top].parameters(), None) is not None and parent not in modules


def _start(stranger: str, wanted: Collection[str]) -> str:
    """What a name that is none of the network's begins with and no name of the network does: its first word, or all of it."""
    word, dot, _ = stranger.partition(".")
    head = word + dot
    return stranger if not dot or any(name.startswith(head) for name in wanted) else head
