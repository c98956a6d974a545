"""From a reference to a network: strict about names and shapes, and never through a pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lrbench.config.loading import validated
from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile
from lrbench.core.seeds import derive
from lrbench.models.limits import refuse_misfit
from lrbench.models.networks import batchnorm_layers, create_model
from lrbench.models.published import fetch_model, published_classes, refuse_unknown_tag
from lrbench.store.headers import GET_IT_AGAIN, read_header, read_record
from lrbench.store.references import PretrainedWeights, Reference, snapshot_file
from lrbench.store.snapshots import (
    SnapshotMetadata,
    batchnorm_mode,
    batchnorm_path,
    hash_tensors,
    identity,
    read_metadata,
    remade_parent,
)

# Differences that a message holds.
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class LoadedSnapshot:
    """A snapshot's network.

    Attributes:
        reference: As a user would type it.
        model: The network with its weights and BatchNorm statistics, in evaluation mode, on the CPU.
        metadata: What is known of it.
        sha256: Hash of what was loaded.
        batchnorm: Whether its BatchNorm statistics were re-estimated at the boundary.
        random: True when the weights were never trained.
    """

    reference: str
    model: nn.Module
    metadata: SnapshotMetadata
    sha256: str
    batchnorm: Literal["re-estimated", "raw"]
    random: bool = False


def load_snapshot(reference: Reference) -> LoadedSnapshot:
    """Load the network that a reference means.

    Raises:
        InputError: No such snapshot, a damaged one, a pickle, tensors that do not fit the architecture, or a model that
            cannot be fetched.
    """
    if isinstance(reference, PretrainedWeights):
        return _load_pretrained(reference)
    return _from_file(reference.text, snapshot_file(reference))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: It is damaged.
    """
    from safetensors.torch import load_file

    read_header(path)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except Exception as error:
        # Types that torch lacks and offsets that do not fit end in exceptions of several kinds.
        raise DamagedFile(path, " ".join(str(error).split())[:200], GET_IT_AGAIN) from error
    return tensors


class MismatchError(InputError):
    """Tensors are those of another network.

    Attributes:
        problems: Every difference, in a few words each, where the message does not hold them all.
    """

    problems: tuple[str, ...] = ()


def load_strictly(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, architecture: str, advice: str = GET_IT_AGAIN
) -> None:
    """Put tensors into a network; every name and shape must fit.

    Args:
        model: The network.
        tensors: By name.
        path: Where they come from.
        architecture: What the network is called.
        advice: What to do if they do not fit.

    Raises:
        MismatchError: The tensors are those of another network; the first differences are listed.
    """
    problems = mismatches(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (
            f"; and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
        )
        error = MismatchError(f"{path} does not hold the weights of {architecture}: {shown}. {advice}")
        error.problems = tuple(problems) if len(problems) > _SHOWN else ()
        raise error
    model.load_state_dict(dict(tensors))


def mismatches(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What stands between tensors of these names and shapes and a network, each in a few words."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"{name} is missing" for name in wanted if name not in shapes]
    problems += [f"{name} is not a part of it" for name in shapes if name not in wanted]
    problems += [
        f"{name} is {list(shapes[name])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    return problems


def load_weights(path: Path) -> tuple[nn.Module, SnapshotMetadata]:
    """The network of a snapshot's file with its raw BatchNorm statistics.

    Raises:
        InputError: As `load_snapshot`.
    """
    metadata = read_metadata(path)
    architecture, arguments, classes = metadata.architecture, metadata.arguments, metadata.classes
    refuse_misfit(architecture, arguments, classes=classes, size=metadata.input.size, where=f"{path}: ")
    model = create_model(architecture, arguments, classes=classes)
    load_into(model, path, metadata)
    return model, metadata


def load_into(model: nn.Module, path: Path, metadata: SnapshotMetadata) -> dict[str, torch.Tensor]:
    """Put a snapshot's tensors, with its raw BatchNorm statistics, into a network.

    Args:
        model: A network of the snapshot's architecture.
        path: The snapshot.
        metadata: What its header says.

    Returns:
        The tensors by name.

    Raises:
        InputError: They do not fit, or are not those that the snapshot was written with.
    """
    tensors = load_tensors(path)
    load_strictly(model, tensors, path, metadata.architecture)
    _refuse_changed(path, tensors, metadata.tensors_sha256, path)
    return tensors


def _from_file(text: str, path: Path) -> LoadedSnapshot:
    model, metadata = load_weights(path)
    statistics = batchnorm_path(path)
    if statistics.is_file():
        tensors = load_tensors(statistics)
        _refuse_other_statistics(statistics, tensors, model, metadata, path)
        read_record(statistics)
        load_strictly(model, {**model.state_dict(), **tensors}, statistics, metadata.architecture)
        _refuse_changed(statistics, tensors, metadata.batchnorm_sha256, path)
    elif metadata.batchnorm_sha256 is not None:
        raise InputError(
            f"{statistics} is missing: the BatchNorm statistics that transfers of {path.name} start from. Copy it from where "
            f"{path.name} came from; or, if lrbench pretrained it here, delete {path.name} and run the same pretraining."
        )
    return LoadedSnapshot(
        reference=text,
        model=model.eval(),
        metadata=metadata,
        sha256=identity(path),
        batchnorm=batchnorm_mode(path, metadata),
    )


def _refuse_other_statistics(
    statistics: Path, tensors: Mapping[str, torch.Tensor], model: nn.Module, metadata: SnapshotMetadata, path: Path
) -> None:
    """Refuse what lies where a snapshot's BatchNorm statistics do and is another file, as a snapshot whose name ends in `.bn`.

    Raises:
        InputError: The snapshot has no such statistics, or there are other tensors in the file.
    """
    layers = batchnorm_layers(model)
    others = [
        name
        for name in tensors
        if name.rpartition(".")[0] not in layers or name.rpartition(".")[2] not in {"running_mean", "running_var"}
    ]
    # A suite's snapshot from before the hash was recorded has them, too.
    if not others and (metadata.batchnorm_sha256 is not None or metadata.arm is not None):
        return
    why = (
        f"it holds {others[0]}, which is no running statistic of a BatchNorm layer"
        if others
        else f"{path.name} was written without any"
    )
    raise InputError(
        f"{statistics} lies where the BatchNorm statistics of {path.name} would, but {why}. Move it to another folder, or give "
        "it a name that does not end in .bn.safetensors."
    )


def _load_pretrained(weights: PretrainedWeights) -> LoadedSnapshot:
    if weights.is_random:
        classes = published_classes(weights.name)
        model = create_model(weights.name, {}, classes=classes, seed=derive("timm", weights.name))
        refuse_misfit(weights.name, {}, classes=classes, size=input_of(model).size)
    else:
        model = fetch_model(weights)
    metadata = SnapshotMetadata(
        architecture=weights.timm_name,
        classes=int(getattr(model, "num_classes", 0)),
        input=input_of(model),
        origin=weights.text,
    )
    return LoadedSnapshot(
        reference=weights.text,
        model=model.eval(),
        metadata=metadata,
        sha256=hash_tensors(model.state_dict()),
        batchnorm="raw",
        random=weights.is_random,
    )


def pretrained_configuration(model: nn.Module) -> dict[str, Any]:
    """What timm says of a model's published weights: names of its first and last layer, normalisation."""
    configuration: Any = model.pretrained_cfg
    return dict(configuration)


def input_of(model: nn.Module) -> Input:
    """The input that timm says a model was trained for."""
    from timm.data.config import resolve_model_data_config

    configuration: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    interpolation = configuration["interpolation"]
    content = {
        "size": int(max(configuration["input_size"][1:])),
        # A few of timm's ask for more than the image, which would have to be padded.
        "crop_fraction": min(1.0, float(configuration["crop_pct"])),
        "interpolation": interpolation if interpolation in {"bilinear", "bicubic"} else "bicubic",
        "mean": list(configuration["mean"]),
        "std": list(configuration["std"]),
        # What is neither pads small images in a way that only a few networks ask for.
        "crop_mode": "squash" if configuration["crop_mode"] == "squash" else "center",
    }
    return validated(Input, content, "timm's configuration of the network")


def input_for(reference: Reference) -> Input:
    """The input that a snapshot takes; of timm's models without their weights, which would have to be downloaded.

    Raises:
        InputError: As `load_snapshot`.
    """
    if not isinstance(reference, PretrainedWeights):
        return read_metadata(snapshot_file(reference)).input
    if reference.source == "hf-hub":
        return load_snapshot(reference).metadata.input
    if not reference.is_random:
        refuse_unknown_tag(reference.name)
    return input_of(create_model(reference.name, {}, classes=published_classes(reference.name)))


def check_values(path: Path) -> None:
    """Check a snapshot's header, names, shapes, hashes and values, those of its BatchNorm statistics, and its parent.

    Raises:
        InputError: Something is wrong; says what.
    """
    _from_file(str(path), path)
    if (parent := remade_parent(path, read_metadata(path))) is not None:
        raise InputError(
            f"{path} was made from other weights than {parent} holds now, which was made anew or replaced since: they are "
            "not of one run."
        )
    for part in (path, batchnorm_path(path)):
        if part.is_file():
            tensors = load_tensors(part)
            if (name := not_finite(tensors)) is not None:
                raise InputError(f"{part} holds values in {name} that are not finite. {GET_IT_AGAIN}")
            if (name := negative_variance(tensors)) is not None:
                raise InputError(f"{part} holds a negative variance in {name}. {GET_IT_AGAIN}")


def _refuse_changed(part: Path, tensors: Mapping[str, torch.Tensor], promised: str | None, path: Path) -> None:
    if promised not in (None, hash_tensors(tensors)):
        raise InputError(
            f"{part} holds other tensors than {path.name} says (their hash is another): it was damaged or changed after "
            f"it was written. {GET_IT_AGAIN}"
        )


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of a tensor with values that are not finite, or None."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)


def negative_variance(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of running variances of which one is below zero, or None."""
    variances = ((name, tensor) for name, tensor in tensors.items() if name.endswith("running_var"))
    return next((name for name, tensor in variances if bool((tensor < 0).any())), None)
