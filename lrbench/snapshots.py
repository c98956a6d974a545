"""Snapshots on disk: one safetensors file with its metadata, and the re-estimated BatchNorm statistics beside it.

Reading a snapshot's metadata or its hash imports no torch, so that planning is quick. Nothing is ever unpickled.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from lrbench.arms import SnapshotKey
from lrbench.errors import InputError
from lrbench.files import canonical_json, sha256_bytes, sha256_file, write_bytes
from lrbench.registry.suite import Input
from lrbench.workspace import FOREIGN, Workspace

FORMAT = 1

# A header is a few kilobytes; a length beyond this is another kind of file.
_LARGEST_HEADER = 100_000_000
GET_IT_AGAIN = (
    "Copy it again from where it came; or, if lrbench pretrained it here, delete it and run the same pretraining, which makes "
    "it anew."
)
"""What to do about a damaged file of weights."""
_PICKLE_PROTOCOLS, _FRAME = (b"\x02", b"\x03", b"\x04", b"\x05"), b"\x95"


class SnapshotMetadata(BaseModel):
    """What a snapshot's header says of it, under the key `lrbench`.

    Attributes:
        format: Version of this record.
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
    architecture: str
    arguments: dict[str, Any] = {}
    classes: int
    input: Input
    suite: str | None = None
    arm: str | None = None
    stage: int | None = None
    seed: int | None = None
    epoch: int | None = None
    update: int | None = None
    rate: float | None = None
    next_rate: float | None = None
    parent: str | None = None
    parent_sha256: str | None = None
    kept: dict[int, bool] | None = None
    batchnorm_shared: int | None = None
    recipe: str | None = None
    source_task: str | None = None
    source_fingerprint: str | None = None
    source_partial: bool = False
    source_accuracy: float | None = None
    source_accuracy_raw: float | None = None
    source_report: dict[str, float] = {}
    origin: str | None = None
    versions: dict[str, str] = {}
    revision: str | None = None
    tensors_sha256: str | None = None
    batchnorm_sha256: str | None = None
    batchnorm_within: bool = False


def snapshot_files(folder: Path) -> list[Path]:
    """The snapshots in a folder and those below it, by path."""
    # The statistics beside a snapshot are a part of it.
    return [path for path in sorted(folder.rglob("*.safetensors")) if not path.name.endswith(".bn.safetensors")]


def snapshots_taken_in(workspace: Workspace) -> list[str]:
    """References of the foreign snapshots that were taken in."""
    paths = snapshot_files(workspace.checkpoints / FOREIGN)
    return [f"{FOREIGN}/{path.name.removesuffix('.safetensors')}" for path in paths]


def segment_folder(checkpoints: Path, suite: str, key: SnapshotKey) -> Path:
    """Folder of one arm and seed: snapshots, the optimiser's state, `log.jsonl`."""
    return checkpoints / suite / key.arm / f"seed{key.seed}"


def snapshot_path(checkpoints: Path, suite: str, key: SnapshotKey) -> Path:
    """Where a suite's snapshot lies."""
    return segment_folder(checkpoints, suite, key) / f"stage{key.stage}.safetensors"


def remade_parent(path: Path, metadata: SnapshotMetadata) -> Path | None:
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


def progress_path(snapshot: Path) -> Path:
    """The progress towards a snapshot; gone once the snapshot is there."""
    return snapshot.with_name(snapshot.name.removesuffix(".safetensors") + ".progress.pt")


def encode(tensors: Any, record: dict[str, Any]) -> bytes:
    """A safetensors file with `record` as its metadata: equal content gives equal bytes.

    Args:
        tensors: A state dict.
        record: JSON values, kept under the single key `lrbench`.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, metadata={"lrbench": canonical_json(record)})


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
    header = _header(path)
    text = header.get("__metadata__", {}).get("lrbench")
    if text is None:
        raise InputError(
            f"{path} holds weights, but does not say of which network: it was not written by lrbench. Take it in with "
            f"`lrbench snapshots add {path} --architecture NAME`, which writes a snapshot that says so."
        )
    try:
        record = json.loads(text)
        version = record.get("format", 0)
        if version > FORMAT:
            raise InputError(
                f"{path} has snapshot format {version}; this lrbench reads up to {FORMAT}. Update lrbench."
            )
        return SnapshotMetadata.model_validate_json(text)
    except (json.JSONDecodeError, AttributeError, ValidationError) as error:
        raise InputError(f"{path} has a damaged header ({error}). {GET_IT_AGAIN}") from error


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


def _header(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(f"{path} is a folder; a snapshot is one .safetensors file in it.")
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size = path.stat().st_size
            # A safetensors file begins with its header's length, whose lowest byte may be a pickle's first; but the length is
            # never so large that the others look like one's.
            pickled = (
                start[:1] == b"\x80" and start[1:2] in _PICKLE_PROTOCOLS and (start[2:3] == _FRAME or any(start[4:]))
            )
            if pickled or start[:4] == b"PK\x03\x04":
                raise InputError(
                    f"{path} is a pickle (a file of torch.save), not a safetensors snapshot. Pickles can run code when "
                    f"they are opened, so lrbench does not read them here. If it holds plain weights, take them in with "
                    f"`lrbench snapshots add {path} --architecture NAME`, which loads tensors only."
                )
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(_LARGEST_HEADER, max(size, 2)):
                raise InputError(f"{path} is not a safetensors file ({size:,} bytes). {GET_IT_AGAIN}")
            content = file.read(length)
    except FileNotFoundError:
        raise InputError(f"there is no snapshot {path}.") from None
    except OSError as error:
        raise InputError(f"{path} could not be read: {(error.strerror or str(error)).lower()}.") from error
    try:
        header: dict[str, Any] = json.loads(content)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a safetensors file, or its header is damaged. {GET_IT_AGAIN}") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise InputError(
            f"{path} is truncated or damaged: it has {size:,} bytes and should have {expected:,}. {GET_IT_AGAIN}"
        )
    return header
