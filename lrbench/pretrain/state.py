"""What a resume needs, on disk: the optimiser's state at a boundary, and the progress inside a segment.

Both load with `weights_only=True`: tensors, numbers and words, nothing that runs.
"""

import hashlib
import io
import math
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, open_regular, write_bytes
from lrbench.models.tensors import not_finite

FORMAT = 3
# A dictionary that a damaged file holds in many places counts in each.
_MOST_PARTS = 1_000_000


@dataclass
class Progress:
    """Where a segment stands between two updates.

    Attributes:
        update: Updates done since the start of pretraining.
        weights: The network's state dict.
        momentum: SGD's momentum buffers by parameter name; empty before the first update.
        mean: Sum of epoch-end weights of this segment in float64, where the segment keeps one.
        mean_count: Number of epochs in the sum.
        kept: Weights at the end of epochs that were to be kept, by epoch.
        kept_momentum: Momentum buffers at the end of those of them from which training goes on.
        loss: Sum of the present epoch's losses.
        correct: Correct predictions on the present epoch's training batches.
        records: Log records of the epochs that this segment has finished.
        batchnorm_shared: Images that share BatchNorm statistics; None without such layers.
        parent_sha256: Hash of the weights that the parent held when the segment began; None where it has none.
    """

    update: int
    weights: dict[str, torch.Tensor]
    momentum: dict[str, torch.Tensor] = field(default_factory=dict)
    mean: dict[str, torch.Tensor] = field(default_factory=dict)
    mean_count: int = 0
    kept: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    kept_momentum: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    loss: float = 0.0
    correct: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    batchnorm_shared: int | None = None
    parent_sha256: str | None = None

    def not_finite(self) -> str | None:
        """The name of weights that are not finite, or None."""
        return not_finite(self.weights)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers and words with their hash, atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "sha256": _hash(content), **content}, buffer)
    write_bytes(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        InputError: The file is missing, damaged, or holds more than tensors, numbers and words.
    """
    try:
        with open_regular(path) as file:
            # torch writes a checksum of each part, which it does not look at, and compresses none.
            with zipfile.ZipFile(file) as parts:
                whole = all(part.compress_type == zipfile.ZIP_STORED for part in parts.infolist())
                whole = whole and parts.testzip() is None
            file.seek(0)
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True) if whole else {}
        version = int(content.pop("format"))
        # Files of format 2 have no hash of their own.
        whole = version != FORMAT or content.pop("sha256") == _hash(content)
    except FileNotFoundError:
        raise InputError(f"{path} is missing, which the next stage starts from. {advice(path)}") from None
    except InputError:
        raise
    except Exception as error:
        # A damaged file ends in a dozen kinds of exception.
        raise DamagedFile(path, "it is not what lrbench wrote", advice(path)) from error
    if not 2 <= version <= FORMAT:
        raise InputError(f"{path} has format {version}; this lrbench reads up to {FORMAT}. {advice(path)}")
    if not whole:
        raise DamagedFile(path, "its content differs from its hash", advice(path))
    return content


def _hash(content: dict[str, Any]) -> str:
    """SHA-256 over values within dictionaries and lists: tensors with type and shape, all else as Python writes it."""
    digest = hashlib.sha256()
    parts = 0

    def feed(value: Any) -> None:
        nonlocal parts
        parts += 1
        if parts > _MOST_PARTS:
            raise ValueError("more parts than any state has")
        if isinstance(value, torch.Tensor):
            digest.update(f"tensor {value.dtype} {list(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, dict | list | tuple):
            digest.update(f"{type(value).__name__} {len(value)} ".encode())
            for item in value.items() if isinstance(value, dict) else value:
                feed(item)
        else:
            digest.update(f"{type(value).__name__} {value!r} ".encode())

    feed(content)
    return digest.hexdigest()


def progress_of(content: dict[str, Any], *, first: int, last: int) -> Progress:
    """The progress that a file holds.

    Args:
        content: What `load` read.
        first: The segment's first update.
        last: The update after its last.

    Raises:
        ValueError: It is none of this segment.
    """
    progress = Progress(**{each.name: content[each.name] for each in fields(Progress) if each.name in content})
    kept = (progress.kept, progress.kept_momentum)
    if not all(isinstance(epochs, dict) for epochs in kept) or not isinstance(progress.records, list):
        raise ValueError("it is no progress of this segment")
    sets = (progress.weights, progress.momentum, progress.mean, *(value for sets in kept for value in sets.values()))
    counts = (progress.update, progress.mean_count, progress.correct, *(epoch for sets in kept for epoch in sets))
    if not (
        all(type(count) is int and count >= 0 for count in counts)
        and first <= progress.update < last
        and all(are_tensors(tensors) for tensors in sets)
        and isinstance(progress.loss, float)
        and math.isfinite(progress.loss)
        and all(isinstance(record, dict) and type(record.get("update")) is int for record in progress.records)
    ):
        raise ValueError("it is no progress of this segment")
    return progress


def are_tensors(value: Any) -> bool:
    """Whether a value is tensors by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def advice(path: Path) -> str:
    """What to do about a state that is of no use."""
    snapshot = path.name.partition(".")[0]
    return f"Delete {path.with_name(snapshot + '.safetensors')} and run the same pretraining, which makes that stage again."
