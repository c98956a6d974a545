"""Loading: from a reference to a network with its weights. Nothing is unpickled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.core.seeds import derive
from lrbench.models.limits import refuse_misfit
from lrbench.models.modules import build, load_module
from lrbench.models.networks import batchnorm_layers, create_model
from lrbench.models.published import fetch_model, published_classes, refuse_unknown_tag
from lrbench.models.tensors import load_strictly, load_tensors
from lrbench.models.timm_configuration import input_of
from lrbench.store.headers import GET_IT_AGAIN, read_record
from lrbench.store.references import PretrainedWeights, PythonModel, Reference, snapshot_file
from lrbench.store.snapshots import (
    SnapshotMetadata,
    batchnorm_mode,
    batchnorm_path,
    hash_tensors,
    identity,
    read_metadata,
)


@dataclass(frozen=True, kw_only=True)
class LoadedSnapshot:
    """A snapshot's network.

    Attributes:
        reference: The reference in full.
        model: The network with its weights and BatchNorm statistics, in evaluation mode, on the CPU.
        metadata: The snapshot's header; of published weights what timm states.
        sha256: Hash of the weights and, if they were loaded, of the re-estimated BatchNorm statistics.
        batchnorm: Whether the BatchNorm statistics are re-estimated ones.
        random: Whether the weights were never trained.
    """

    reference: str
    model: nn.Module
    metadata: SnapshotMetadata
    sha256: str
    batchnorm: Literal["re-estimated", "raw"]
    random: bool = False


def load_snapshot(reference: Reference) -> LoadedSnapshot:
    """Load the network of a reference.

    Raises:
        InputError: The snapshot is missing, damaged or a pickle, its tensors do not fit the architecture, or the weights
            cannot be fetched.
    """
    if isinstance(reference, PretrainedWeights):
        return _load_pretrained(reference)
    if isinstance(reference, PythonModel):
        return _load_python(reference)
    path = snapshot_file(reference)
    model, metadata = load_raw(path)
    _load_statistics(model, path, metadata)
    return LoadedSnapshot(
        reference=reference.text,
        model=model.eval(),
        metadata=metadata,
        sha256=identity(path),
        batchnorm=batchnorm_mode(path, metadata),
    )


def load_raw(path: Path) -> tuple[nn.Module, SnapshotMetadata]:
    """Load a snapshot's network with the BatchNorm statistics of the last update.

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
    """Load a snapshot's tensors, with the BatchNorm statistics of the last update, into a network.

    Args:
        model: A network of the snapshot's architecture.
        path: The snapshot.
        metadata: Its header.

    Returns:
        The tensors by name.

    Raises:
        InputError: They do not fit the network, or their hash differs from the header's.
    """
    tensors = load_tensors(path)
    load_strictly(model, tensors, path, metadata.architecture)
    _check_hash(path, tensors, metadata.tensors_sha256, path)
    return tensors


def _load_statistics(model: nn.Module, path: Path, metadata: SnapshotMetadata) -> None:
    """Load the re-estimated BatchNorm statistics of the snapshot at `path`, if it has any."""
    statistics = batchnorm_path(path)
    if not statistics.is_file():
        if metadata.batchnorm_sha256 is not None:
            raise InputError(
                f"{statistics} is missing: the BatchNorm statistics that transfers of {path.name} start from. Copy it "
                f"from where {path.name} came from. If lrbench pretrained it here, delete {path.name} and run the same "
                "pretraining again."
            )
        return
    tensors = load_tensors(statistics)
    _check_statistics(statistics, tensors, model, metadata, path)
    # Verifies the header's own hash.
    read_record(statistics)
    load_strictly(model, {**model.state_dict(), **tensors}, statistics, metadata.architecture)
    _check_hash(statistics, tensors, metadata.batchnorm_sha256, path)


def _check_statistics(
    statistics: Path, tensors: Mapping[str, torch.Tensor], model: nn.Module, metadata: SnapshotMetadata, path: Path
) -> None:
    """Refuse a file that is named like a snapshot's BatchNorm statistics and is another one, as a snapshot `NAME.bn`.

    Raises:
        InputError: The snapshot has no such statistics, or the file holds other tensors.
    """
    layers = batchnorm_layers(model)
    others = [
        name
        for name in tensors
        if name.rpartition(".")[0] not in layers or name.rpartition(".")[2] not in {"running_mean", "running_var"}
    ]
    # Suites' snapshots of format 1 have statistics without a recorded hash.
    if not others and (metadata.batchnorm_sha256 is not None or metadata.arm is not None):
        return
    reason = (
        f"it holds {others[0]}, which is not a running statistic of a BatchNorm layer"
        if others
        else f"{path.name} was written without BatchNorm statistics"
    )
    raise InputError(
        f"{statistics} has the name of the BatchNorm statistics of {path.name}, but {reason}. Move it to another folder, or "
        "give it a name that does not end in .bn.safetensors."
    )


def _check_hash(part: Path, tensors: Mapping[str, torch.Tensor], expected: str | None, path: Path) -> None:
    if expected not in (None, hash_tensors(tensors)):
        raise InputError(
            f"{part} does not match the hash in {path.name}: it was damaged or changed after it was written. {GET_IT_AGAIN}"
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


def _load_python(reference: PythonModel) -> LoadedSnapshot:
    model, metadata = load_module(build(reference))
    return LoadedSnapshot(
        reference=reference.text,
        model=model,
        metadata=metadata.model_copy(update={"origin": reference.text}),
        sha256=hash_tensors(model.state_dict()),
        batchnorm="raw",
    )


def input_for(reference: Reference) -> Input:
    """Return the input of a snapshot's network; weights of timm's are not downloaded for it.

    Raises:
        InputError: As `load_snapshot`.
    """
    if isinstance(reference, PythonModel):
        return load_snapshot(reference).metadata.input
    if not isinstance(reference, PretrainedWeights):
        return read_metadata(snapshot_file(reference)).input
    if reference.source == "hf-hub":
        return load_snapshot(reference).metadata.input
    if not reference.is_random:
        refuse_unknown_tag(reference.name)
    return input_of(create_model(reference.name, {}, classes=published_classes(reference.name)))
