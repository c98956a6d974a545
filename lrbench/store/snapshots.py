"""Snapshots on disk: one safetensors file with its metadata, and the re-estimated BatchNorm statistics beside it.

Reading a snapshot's metadata or its hash imports no torch, so that planning is quick. Nothing is ever unpickled.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lrbench.config.schedule import SnapshotKey
from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, canonical_json, sha256_bytes, sha256_file, write_bytes
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.store.headers import FORMAT, GET_IT_AGAIN, read_record, sealed

# What a header may say: headers of format 1 have no hash, and a value that no training can have is a damaged one.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/@+-]{1,200}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Number = Annotated[int, Field(ge=0, le=10**12)]
_Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


class SnapshotMetadata(BaseModel):
    """What a snapshot's header says of it, under the key `lrbench`.

    Attributes:
        format: Version of this record. Of version 1 nothing says whether the header is as it was written.
        architecture, arguments, classes: What `timm.create_model` is called with.
        input: Size and normalisation of the input.
        arm, stage, seed: Where it stands in its suite; None for foreign weights.
        epoch, update: Where in pretraining it was taken.
        rate: Learning rate of the stage that it ends; None for the initialisation.
        next_rate: Learning rate after the boundary; None where training ends.
        parent: The snapshot whose training went on to this one, as `step/seed0/stage1`; None for the initialisation.
        parent_sha256: The parent's `tensors_sha256` at that time.
        kept: Epochs of its stage of which the state beside it keeps the weights for another arm, and whether the momentum
            too; None for what is not trained, and where it is not known.
        batchnorm_shared: Training images that shared batch statistics in the network's BatchNorm layers; None where it has none
            or where that is not known.
        threads: CPU threads that computed its training; None on a GPU, and where that is not known.
        recipe: Hash of everything in the suite that pretraining depends on.
        source_accuracy: Top-1 on the source's test split with the re-estimated BatchNorm statistics.
        source_accuracy_raw: The same with the running statistics of the instant.
        source_report: `simple`, `complex` (accuracy on test images with that evidence) and `memorised` (share of wrongly
            labelled training images predicted as labelled), where the source's annotations say which is which.
        origin: File name or reference that foreign weights came from.
        tensors_sha256: Hash of the tensors in the file, as `hash_tensors`.
        batchnorm_sha256: The same of the re-estimated statistics beside it; None where there were none.
        batchnorm_within: Whether the file's own running statistics are the re-estimated ones, as in an export.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    format: int = FORMAT
    architecture: _Name
    arguments: dict[str, Any] = {}
    classes: Annotated[int, Field(ge=0, le=10**6)]
    input: Input
    suite: _Name | None = None
    arm: _Name | None = None
    stage: _Number | None = None
    seed: _Number | None = None
    epoch: _Number | None = None
    update: _Number | None = None
    rate: _Rate | None = None
    next_rate: _Rate | None = None
    parent: Annotated[str, Field(pattern=r"^[a-z-]+/seed\d+/stage\d+$")] | None = None
    parent_sha256: _Sha256 | None = None
    kept: dict[int, bool] | None = None
    batchnorm_shared: _Number | None = None
    threads: _Number | None = None
    recipe: _Sha256 | None = None
    source_task: _Name | None = None
    source_fingerprint: _Sha256 | None = None
    source_partial: bool = False
    source_accuracy: _Fraction | None = None
    source_accuracy_raw: _Fraction | None = None
    source_report: dict[str, _Fraction] = {}
    origin: str | None = None
    versions: dict[str, str] = {}
    revision: str | None = None
    tensors_sha256: _Sha256 | None = None
    batchnorm_sha256: _Sha256 | None = None
    batchnorm_within: bool = False

    @property
    def checked(self) -> bool:
        """Whether a hash covers the header."""
        return self.format > 1


def snapshot_files(folder: Path) -> list[Path]:
    """The snapshots in a folder and those below it, by path."""
    # The statistics beside a snapshot are a part of it.
    return [path for path in sorted(folder.rglob("*.safetensors")) if not path.name.endswith(".bn.safetensors")]


def foreign_snapshots(workspace: Workspace) -> list[str]:
    """References of the snapshots that belong to no suite: `foreign/NAME`."""
    paths = snapshot_files(workspace.checkpoints / FOREIGN)
    return [f"{FOREIGN}/{path.name.removesuffix('.safetensors')}" for path in paths]


def segment_folder(checkpoints: Path, suite: str, key: SnapshotKey) -> Path:
    """Folder of one arm and seed: snapshots, the optimiser's state, `log.jsonl`."""
    return checkpoints / suite / key.arm / f"seed{key.seed}"


def snapshot_path(checkpoints: Path, suite: str, key: SnapshotKey) -> Path:
    """Where a suite's snapshot lies."""
    return segment_folder(checkpoints, suite, key) / f"stage{key.stage}.safetensors"


def replaced_parent(path: Path, metadata: SnapshotMetadata) -> Path | None:
    """The snapshot that the one at `path` was made from, where that holds other weights by now.

    Returns:
        None where it holds the same, is not there, or is not known.
    """
    folders = path.absolute().parents
    own = f"{metadata.arm}/seed{metadata.seed}/stage{metadata.stage}.safetensors"
    if metadata.parent is None or metadata.parent_sha256 is None or len(folders) < 3:
        return None
    parent = folders[2] / f"{metadata.parent}.safetensors"
    # What was copied out of its suite's folder lies beside others.
    if path.absolute() != folders[2] / own or not parent.is_file():
        return None
    try:
        now = read_metadata(parent).tensors_sha256
    except InputError:
        # What is wrong with the parent is said of the parent.
        return None
    return parent if now not in (None, metadata.parent_sha256) else None


def batchnorm_path(path: Path) -> Path:
    """Where the re-estimated BatchNorm statistics of the snapshot at `path` lie, if it has any."""
    return path.with_name(path.name.removesuffix(".safetensors") + ".bn.safetensors")


def state_path(snapshot: Path) -> Path:
    """The optimiser's state at the boundary of a snapshot, from which the next stage continues."""
    return snapshot.with_name(snapshot.name.removesuffix(".safetensors") + ".state.pt")


def progress_path(snapshot: Path) -> Path:
    """The progress towards a snapshot; gone once the snapshot is there."""
    return snapshot.with_name(snapshot.name.removesuffix(".safetensors") + ".progress.pt")


def encode(tensors: Any, record: dict[str, Any]) -> bytes:
    """A safetensors file with `record` and its hash as its metadata: equal content gives equal bytes.

    Args:
        tensors: A state dict.
        record: JSON values, kept under the single key `lrbench`.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={"lrbench": canonical_json(sealed(record))})


def write_snapshot(
    path: Path, weights: Any, metadata: SnapshotMetadata, batchnorm: Any = None, sample: dict[str, Any] | None = None
) -> None:
    """Write a snapshot; its weights last, because they mark it as done.

    Args:
        path: Ends in `.safetensors`.
        weights: The network's raw state dict.
        metadata: Its header.
        batchnorm: Re-estimated running statistics by tensor name; None for networks without BatchNorm.
        sample: Which images the statistics were estimated on.
    """
    hashes: dict[str, str] = {"tensors_sha256": hash_tensors(weights)}
    if batchnorm:
        hashes["batchnorm_sha256"] = hash_tensors(batchnorm)
        record = {"format": FORMAT, "sample": sample or {}}
        write_bytes(batchnorm_path(path), encode(batchnorm, record))
    hashed = metadata.model_copy(update=hashes)
    write_bytes(path, encode(weights, hashed.model_dump(mode="json")))


def hash_tensors(tensors: Mapping[str, Any]) -> str:
    """SHA-256 over tensors, their names, types and shapes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_metadata(path: Path) -> SnapshotMetadata:
    """The metadata in a snapshot's header; its tensors are not read.

    Raises:
        InputError: No such file, a pickle, a file that is cut off, or one that lrbench did not write.
    """
    record = read_record(path)
    if record is None:
        raise InputError(
            f"{path} holds weights, but does not say of which network: it was not written by lrbench. Take it in with "
            f"`lrbench snapshots add {path} --architecture NAME`, which writes a snapshot that says so."
        )
    try:
        return SnapshotMetadata.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = f"its header says {repr(first['input'])[:80]} of `{key}` ({first['msg'].lower()})"
        raise DamagedFile(path, reason, GET_IT_AGAIN) from error


def identity(path: Path) -> str:
    """SHA-256 that stands for a snapshot: of its weights' file and, where there is one, of its BatchNorm file.

    Raises:
        InputError: No such file.
    """
    parts = [part for part in (path, batchnorm_path(path)) if part.is_file()]
    if not parts or parts[0] != path:
        raise InputError(f"there is no snapshot {path}.")
    hashes = [_hash(part, part.stat().st_mtime_ns, part.stat().st_size) for part in parts]
    return hashes[0] if len(hashes) == 1 else sha256_bytes("".join(hashes).encode())


@lru_cache(maxsize=4096)
def _hash(path: Path, modified: int, size: int) -> str:
    return sha256_file(path)


def batchnorm_mode(path: Path, metadata: SnapshotMetadata) -> Literal["re-estimated", "raw"]:
    """Which BatchNorm statistics a transfer of this snapshot starts from."""
    return "re-estimated" if metadata.batchnorm_within or batchnorm_path(path).is_file() else "raw"
