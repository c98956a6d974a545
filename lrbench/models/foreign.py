"""Import of foreign weights as snapshots. Only tensors are read, and all names and shapes must match."""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.config.loading import validate
from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.core.files import canonical_json, parse_json
from lrbench.core.machine import library_versions
from lrbench.models.conversion import Converted, convention, convert
from lrbench.models.foreign_files import named_tensors
from lrbench.models.limits import refuse_misfit
from lrbench.models.networks import batchnorm_layers, create_model
from lrbench.models.tensors import MismatchError, load_strictly, mismatches, negative_variance, not_finite
from lrbench.models.timm_configuration import input_of, pretrained_configuration
from lrbench.store.snapshots import SnapshotMetadata, write_snapshot

_COUNT = "num_batches_tracked"
# Parts of a file that a suggestion considers.
_MOST_PARTS = 6
_NAME_IT = (
    "Name the timm model of these weights (--architecture) and the arguments that it was created with (--argument)."
)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of an import: the network, and which of a file's tensors are its weights.

    Attributes:
        architecture: The timm model.
        arguments: Keyword arguments of `timm.create_model`, without the number of classes.
        input: Keys and values of `Input` that differ from what timm states for the model.
        key: Keys that lead to the state dict in a nested file, separated by dots. None if it holds only one.
        prefix: Prefix of the names, which is removed; tensors without it are left out.
        without: Prefixes of names to leave out, after `prefix` was removed.
    """

    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    prefix: str = ""
    without: Sequence[str] = ()

    def describe(self, file: Path) -> str:
        """Return the file's name and the options that select tensors, as the snapshot records them."""
        parts = (("--key", self.key), ("--prefix", self.prefix), *(("--without", start) for start in self.without))
        return " ".join([file.name, *(f"{option} {value}" for option, value in parts if value)])


@dataclass(frozen=True, kw_only=True)
class ImportedSnapshot:
    """Outcome of an import.

    Attributes:
        path: The snapshot.
        input: Input of the network.
        assumed: Keys of `input` whose values are those that timm states for the model.
        left_out: Names of tensors that were left out because of the options.
        uncounted: BatchNorm layers without a count of batches in the file, which was set to 0.
        converted: Whether timm's conversion changed names or shapes.
    """

    path: Path
    input: Input
    assumed: list[str]
    left_out: list[str]
    uncounted: list[str]
    converted: bool = False


def import_weights(file: Path, options: ImportOptions, folder: Path, name: str) -> ImportedSnapshot:
    """Import foreign weights as a snapshot.

    Args:
        file: safetensors, or a file of `torch.save` that loads with `weights_only=True`. The classifier may have any number
            of classes or be missing, as after self-supervised pretraining.
        options: The network, and which tensors are its weights.
        folder: Folder of the snapshot.
        name: Name of the snapshot.

    Raises:
        InputError: The file is missing or damaged, would run code, or does not fit the architecture; the input is invalid;
            or the name is invalid or exists already.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"{name!r} cannot be a snapshot's name: a name has letters, digits, dots, underscores and hyphens, and starts with "
            "a letter or a digit. Give another with --name."
        )
    if name.lower().endswith(".bn"):
        raise InputError(
            f"{name!r} cannot be a snapshot's name: {name}.safetensors would be the BatchNorm statistics of {name[:-3]}. Give "
            "another with --name."
        )
    path = folder / f"{name}.safetensors"
    in_file = named_tensors(file, options.key)
    selected = _select(file, in_file, options)
    used = set(selected)
    model = _network(options, selected)
    uncounted = _uncounted(model, selected)
    tensors = _with_counts(selected, uncounted)
    fits = not mismatches(model, _shapes(tensors))
    advice = "" if fits else _suggest_options(in_file, options)
    converted = None if fits or advice else _convert(options, selected)
    if converted is not None:
        model, used = _network(options, converted.tensors), used.difference(converted.dropped)
        uncounted = _uncounted(model, converted.tensors)
        tensors = _with_counts(converted.tensors, uncounted)
    try:
        load_strictly(model, tensors, file, options.architecture, advice or f"{_NAME_IT}{convention(list(selected))}")
    except MismatchError as error:
        if advice:
            # The advice is enough.
            error.problems = ()
        raise
    _refuse_values(file, tensors, model)
    if path.exists():
        raise InputError(
            f"{path} exists already. Give the new snapshot another name with --name, or delete that file first."
        )
    arguments = dict(options.arguments)
    model_input = _input(model, options)
    classes = int(getattr(model, "num_classes", 0))
    keys = ("--input size", "--argument")
    refuse_misfit(options.architecture, arguments, classes=classes, size=model_input.size, where=f"{file}: ", keys=keys)
    metadata = SnapshotMetadata(
        architecture=options.architecture,
        arguments=arguments,
        classes=classes,
        input=model_input,
        origin=options.describe(file),
        versions=library_versions(),
    )
    write_snapshot(path, model.state_dict(), metadata)
    stated = {*options.input, *(("size",) if "img_size" in arguments else ())}
    return ImportedSnapshot(
        path=path,
        input=model_input,
        assumed=[key for key in Input.model_fields if key not in stated],
        left_out=[
            name
            for name in in_file
            if not name.startswith(options.prefix) or name.removeprefix(options.prefix) not in used
        ],
        uncounted=uncounted,
        converted=converted is not None,
    )


def _with_counts(tensors: Mapping[str, torch.Tensor], layers: Sequence[str]) -> dict[str, torch.Tensor]:
    return {**tensors, **{f"{layer}.{_COUNT}": torch.tensor(0) for layer in layers}}


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _convert(options: ImportOptions, tensors: Mapping[str, torch.Tensor]) -> Converted | None:
    """Return the tensors under timm's names, or None if timm's conversion does not make all of them fit."""
    trial = convert(options.architecture, options.arguments, tensors, classes=10)
    if trial is None:
        return None
    # The number of classes is known only from the converted classifier.
    final = convert(options.architecture, options.arguments, tensors, classes=_classes(options, trial.tensors))
    if final is None:
        return None
    model = _network(options, final.tensors)
    fits = not mismatches(model, _shapes(_with_counts(final.tensors, _uncounted(model, final.tensors))))
    return final if fits else None


def _uncounted(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the BatchNorm layers that lack only the count of batches, which torch saves since 0.4.1."""
    uncounted = []
    for name, layer in batchnorm_layers(model).items():
        shapes = {f"{name}.{part}": tensor.shape for part, tensor in layer.state_dict().items()}
        count = shapes.pop(f"{name}.{_COUNT}", None)
        has_rest = all(part in tensors and tensors[part].shape == shape for part, shape in shapes.items())
        if count is not None and f"{name}.{_COUNT}" not in tensors and has_rest:
            uncounted.append(name)
    return uncounted


def _refuse_values(file: Path, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    """Refuse quantised weights, and values that are not finite in the network's type.

    Args:
        file: The file.
        tensors: As read from the file.
        model: The network, with the tensors loaded.

    Raises:
        InputError: There are such tensors.
    """
    loaded = model.state_dict()
    quantised = next(
        (name for name, value in loaded.items() if value.is_floating_point() > tensors[name].is_floating_point()), None
    )
    if quantised is not None:
        raise InputError(
            f"{file} holds {quantised} as whole numbers ({str(tensors[quantised].dtype).removeprefix('torch.')}): quantised "
            "weights without their scale. Save weights in float32 or float16."
        )
    if (name := not_finite(tensors)) is not None:
        raise InputError(
            f"{file} holds values in {name} that are not finite. Use weights of a run that did not diverge."
        )
    if (name := negative_variance(loaded)) is not None:
        raise InputError(f"{file} holds a negative variance in {name}. Copy the file again, or use other weights.")
    if (name := not_finite(loaded)) is not None:
        raise InputError(
            f"{file} holds values in {name} that are too large for {str(loaded[name].dtype).removeprefix('torch.')}, the "
            "network's type. Use other weights."
        )


def _input(model: nn.Module, options: ImportOptions) -> Input:
    size = {"size": options.arguments["img_size"]} if "img_size" in options.arguments else {}
    return validate(Input, {**input_of(model).model_dump(mode="json"), **size, **options.input}, "--input")


def _classes(options: ImportOptions, tensors: Mapping[str, torch.Tensor]) -> int:
    """Return the number of outputs of the classifier among tensors; 0 if there is none."""
    layers = _classifier_layers(options.architecture, canonical_json(dict(options.arguments)))
    parameters = (tensors.get(f"{layer}.{part}") for layer in layers for part in ("bias", "weight"))
    return next((len(tensor) for tensor in parameters if tensor is not None and tensor.ndim), 0)


@lru_cache(maxsize=64)
def _classifier_layers(architecture: str, arguments: str) -> tuple[str, ...]:
    """Return the names of a network's classifiers, of which distilled networks have two, given its arguments as JSON."""
    model = create_model(architecture, parse_json(arguments), classes=10)
    layers = pretrained_configuration(model).get("classifier")
    return (layers,) if isinstance(layers, str) else tuple(layers or ())


def _network(options: ImportOptions, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    return create_model(options.architecture, options.arguments, classes=_classes(options, tensors))


def _select(file: Path, tensors: Mapping[str, torch.Tensor], options: ImportOptions) -> dict[str, torch.Tensor]:
    """Return the tensors that `prefix` and `without` select, under the network's names.

    Raises:
        InputError: No tensor has one of the prefixes.
    """
    under = {
        name.removeprefix(options.prefix): value for name, value in tensors.items() if name.startswith(options.prefix)
    }
    for option, start, names in (
        ("--prefix", options.prefix, tensors),
        *(("--without", start, under) for start in options.without),
    ):
        if not any(name.startswith(start) for name in names):
            words = dict.fromkeys(name.partition(".")[0] + "." * ("." in name) for name in names)
            shown = ", ".join(list(words)[:12]) + (", …" if len(words) > 12 else "")
            raise InputError(
                f"{file} holds no tensor whose name begins with {start!r} ({option}). Its names begin with: {shown}"
            )
    return {name: value for name, value in under.items() if not name.startswith(tuple(options.without))}


def _suggest_options(tensors: Mapping[str, torch.Tensor], options: ImportOptions) -> str:
    """Return the values of --prefix and --without with which a part of the tensors fits; empty if there are none."""
    first = next(iter(_network(options, {}).state_dict()))
    prefixes = (name[: -len(first)] for name in tensors if name == first or name.endswith(f".{first}"))
    fitting: dict[str, str] = {}
    for prefix in itertools.islice(dict.fromkeys(prefixes), _MOST_PARTS):
        under = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        model = _network(options, under)
        expected = model.state_dict().keys()
        extra = [name for name in under if name not in expected]
        # Extra tensors can be left out, and missing counts are set to 0; any other mismatch cannot be repaired.
        if len(mismatches(model, _shapes(under))) > len(extra) + len(_uncounted(model, under)):
            continue
        modules = dict(model.named_modules())
        if any(_is_of_larger_network(name, modules) for name in extra):
            continue
        starts = dict.fromkeys(_start(name, expected) for name in extra)
        fitting[prefix] = " ".join([f"--prefix {prefix}"] * bool(prefix) + [f"--without {start}" for start in starts])
    if len(fitting) > 1:
        parts = ", ".join(f"{selection} selects the tensors under {prefix!r}" for prefix, selection in fitting.items())
        return f"Several parts of the file fit; choose one: {parts}"
    for prefix, selection in fitting.items():
        part = f"The part under {prefix!r}" if prefix else "The rest of the file"
        return f"{part} fits: {selection}"
    return ""


def _is_of_larger_network(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether a name is that of a layer missing inside a module that the network has, as of a deeper network."""
    top, parent = name.partition(".")[0], name.rpartition(".")[0]
    return top in modules and next(modules[top].parameters(), None) is not None and parent not in modules


def _start(extra: str, expected: Collection[str]) -> str:
    """Return the first word of an extra name, or all of it if a name of the network starts with that word."""
    word, dot, _ = extra.partition(".")
    head = word + dot
    return extra if not dot or any(name.startswith(head) for name in expected) else head
