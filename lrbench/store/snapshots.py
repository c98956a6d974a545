"""Snapshots on disk: a safetensors file with metadata, and next to it the re-estimated BatchNorm statistics.

Reading metadata or the hash of a snapshot does not import torch, so that planning is fast. Nothing is unpickled.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from lrbench.config.schedule import SnapshotKey
from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, canonical_json, sha256_bytes, sha256_file, write_bytes
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.store.headers import FORMAT, GET_IT_AGAIN, read_record, sealed

# Valid values of a header. Headers of format 1 have no hash; an impossible value shows that one is damaged.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/@+-]{1,200}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Number = Annotated[int, Field(ge=0, le=10**12)]
_Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


class SnapshotMetadata(BaseModel):
    """Metadata of a snapshot, stored in its header under the key `lrbench`.

    Attributes:
        format: Version of this record. Headers of version 1 have no hash.
        architecture, arguments, classes: Arguments of `timm.create_model`.
        input: Size and normalisation of the input.
        arm, stage, seed: Key in its suite; None for foreign weights.
        epoch, update: Position in pretraining.
        rate: Learning rate of the stage that it ends; None for the initialisation.
        next_rate: Learning rate after the boundary; None at the end of training.
        parent: The snapshot from which its training continued, as `step/seed0/stage1`; None for the initialisation.
        parent_sha256: The parent's `tensors_sha256` at that time.
        kept: Epochs of its stage whose weights the training state stores for another arm, with whether it stores the
            momentum, too. None if it was not trained, or if that is unknown.
        stage_end: Decision of the rule that ends stages of adaptive arms (`stats.stage_end.Decision`) with the `epoch` at which
            it ends this stage, or the last decision if it does not; None if no arm of the suite asks for it.
        stage_rules: Epoch at which each of several rules would have ended the stage, or None for a rule that would not
            (`pretrain.update_statistics.ends_by_rule`); None if the suite does not ask for it.
        paced_epochs: Epochs of the run in proportion to which its boundaries are moved; None for the schedule's boundaries.
        batchnorm_shared: Number of images over which BatchNorm layers computed batch statistics; None if the network has no
            such layers, or if that is unknown.
        threads: CPU threads of its training; None on a GPU, or if that is unknown.
        recipe: Hash of the suite's settings that pretraining depends on.
        source_accuracy: Top-1 on the source's test split with the re-estimated BatchNorm statistics.
        source_accuracy_raw: The same with the running statistics of the last update.
        source_report: Scores by kind of evidence and fraction of wrong labels memorised, if the source has annotations
            (`pretrain.source.SourceScores`).
        origin: File name or reference of foreign weights.
        tensors_sha256: `hash_tensors` of the tensors in the file.
        batchnorm_sha256: `hash_tensors` of the re-estimated statistics next to it; None if there are none.
        batchnorm_within: Whether the re-estimated statistics are in the file itself, as in an export.
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
    stage_end: dict[_Name, Annotated[float, Field(allow_inf_nan=False)]] | None = None
    stage_rules: dict[_Name, _Number | None] | None = None
    paced_epochs: _Number | None = None
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

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps the bytes of snapshots that are older than the keys.
        content: dict[str, Any] = write(self)
        for key in ("stage_end", "stage_rules", "paced_epochs"):
            if content.get(key) is None:
                content.pop(key, None)
        return content

    @property
    def checked(self) -> bool:
        """True if a hash covers the header."""
        return self.format > 1


def snapshot_files(folder: Path) -> list[Path]:
    """Return the snapshots in a folder and its subfolders, sorted by path."""
    # BatchNorm statistics are a part of their snapshot.
    return [path for path in sorted(folder.rglob("*.safetensors")) if not path.name.endswith(".bn.safetensors")]


def foreign_snapshots(workspace: Workspace) -> list[str]:
    """Return the references of the snapshots that belong to no suite: `foreign/NAME`."""
    paths = snapshot_files(workspace.checkpoints / FOREIGN)
    return [f"{FOREIGN}/{path.name.removesuffix('.safetensors')}" for path in paths]


def segment_folder(checkpoints: Path, suite: str, key: SnapshotKey) -> Path:
    """Folder of one arm and seed: snapshots, the optimiser's state, `log.jsonl`."""
    return checkpoints / suite / key.arm / f"seed{key.seed}"


def snapshot_path(checkpoints: Path, suite: str, key: SnapshotKey) -> Path:
    """Return the path of a suite's snapshot."""
    return segment_folder(checkpoints, suite, key) / f"stage{key.stage}.safetensors"


def replaced_parent(path: Path, metadata: SnapshotMetadata) -> Path | None:
    """Return the parent of the snapshot at `path` if its weights were replaced since.

    Returns:
        The parent's path; None if its weights are the same, or if the parent is missing or unknown.
    """
    folders = path.absolute().parents
    path_in_suite = f"{metadata.arm}/seed{metadata.seed}/stage{metadata.stage}.safetensors"
    if metadata.parent is None or metadata.parent_sha256 is None or len(folders) < 3:
        return None
    parent = folders[2] / f"{metadata.parent}.safetensors"
    # Outside of its suite's folder, a file of that name is not the parent.
    if path.absolute() != folders[2] / path_in_suite or not parent.is_file():
        return None
    try:
        current = read_metadata(parent).tensors_sha256
    except InputError:
        # Reading the parent itself reports its error.
        return None
    return parent if current not in (None, metadata.parent_sha256) else None


def batchnorm_path(path: Path) -> Path:
    """Return the path of the re-estimated BatchNorm statistics of the snapshot at `path`; it may have none."""
    return path.with_name(path.name.removesuffix(".safetensors") + ".bn.safetensors")


def state_path(snapshot: Path) -> Path:
    """Return the path of the training state at a snapshot's boundary, from which the next stage continues."""
    return snapshot.with_name(snapshot.name.removesuffix(".safetensors") + ".state.pt")


def progress_path(snapshot: Path) -> Path:
    """Return the path of the saved progress towards a snapshot; the file is deleted when the snapshot is complete."""
    return snapshot.with_name(snapshot.name.removesuffix(".safetensors") + ".progress.pt")


def encode(tensors: Any, record: dict[str, Any]) -> bytes:
    """Encode tensors as a safetensors file with `record` and its hash as metadata. Equal content gives equal bytes.

    Args:
        tensors: A state dict.
        record: JSON values, stored under the key `lrbench`.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={"lrbench": canonical_json(sealed(record))})


def write_snapshot(
    path: Path, weights: Any, metadata: SnapshotMetadata, batchnorm: Any = None, sample: dict[str, Any] | None = None
) -> None:
    """Write a snapshot. The weights are written last, because they mark it as complete.

    Args:
        path: Ends in `.safetensors`.
        weights: State dict of the network, with the BatchNorm statistics of the last update.
        metadata: The header, without the hashes of tensors.
        batchnorm: Re-estimated running statistics by tensor name; None for networks without BatchNorm.
        sample: Description of the images on which the statistics were estimated.
    """
    hashes: dict[str, str] = {"tensors_sha256": hash_tensors(weights)}
    if batchnorm:
        hashes["batchnorm_sha256"] = hash_tensors(batchnorm)
        record = {"format": FORMAT, "sample": sample or {}}
        write_bytes(batchnorm_path(path), encode(batchnorm, record))
    hashed = metadata.model_copy(update=hashes)
    write_bytes(path, encode(weights, hashed.model_dump(mode="json")))


def hash_tensors(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 of tensors, their names, types and shapes."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_metadata(path: Path) -> SnapshotMetadata:
    """Read the metadata in a snapshot's header, without its tensors.

    Raises:
        InputError: The file is missing, truncated or a pickle, or was not written by lrbench.
    """
    record = read_record(path)
    if record is None:
        raise InputError(
            f"{path} does not state its network, because lrbench did not write it. Import it with "
            f"`lrbench snapshots add {path} --architecture NAME`."
        )
    try:
        return SnapshotMetadata.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        reason = f"its header has {repr(first['input'])[:80]} as `{key}` ({first['msg'].lower()})"
        raise DamagedFile(path, reason, GET_IT_AGAIN) from error


def identity(path: Path) -> str:
    """Return the SHA-256 that identifies a snapshot: of the files of its weights and its BatchNorm statistics.

    Raises:
        InputError: There is no such file.
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
    """Return which BatchNorm statistics a transfer of a snapshot starts from."""
    return "re-estimated" if metadata.batchnorm_within or batchnorm_path(path).is_file() else "raw"
