"""Training state on disk: the optimiser's state at a boundary, and the progress inside a segment.

Both load with `weights_only=True`: tensors, numbers and strings, no code.
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
# A damaged file may refer to one dictionary from many places, each of which counts.
_MAX_PARTS = 1_000_000


@dataclass
class Progress:
    """State of a segment between two updates.

    Attributes:
        update: Updates done since the start of pretraining.
        weights: The network's state dict.
        momentum: SGD's momentum buffers by parameter name; empty before the first update.
        mean: Sum of this segment's epoch-end weights in float64; empty if no arm needs it.
        mean_count: Number of epochs in the sum.
        tail: Sum of the weights after every update of the segment's last epoch in float64; empty if no arm needs it.
        tail_count: Number of updates in the sum.
        moving: Sum of the weights after every update of the segment, each times a power of the decay, in float64; empty if no
            arm needs it.
        moving_count: Number of updates in the sum.
        kept: Weights that other arms need, by epoch.
        kept_momentum: Momentum buffers of the kept epochs from which another arm trains.
        loss: Sum of the current epoch's losses.
        correct: Correct predictions on the current epoch's training batches.
        direction_square: Sum over the current epoch's updates of the squared norm of their directions; 0 if the log lacks it.
        records: Log records of the segment's finished epochs.
        batchnorm_shared: Images that share BatchNorm statistics; None without such layers.
        parent_sha256: Hash of the parent's weights when the segment started; None without a parent.
    """

    update: int
    weights: dict[str, torch.Tensor]
    momentum: dict[str, torch.Tensor] = field(default_factory=dict)
    mean: dict[str, torch.Tensor] = field(default_factory=dict)
    mean_count: int = 0
    tail: dict[str, torch.Tensor] = field(default_factory=dict)
    tail_count: int = 0
    moving: dict[str, torch.Tensor] = field(default_factory=dict)
    moving_count: int = 0
    kept: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    kept_momentum: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    loss: float = 0.0
    correct: int = 0
    direction_square: float = 0.0
    records: list[dict[str, Any]] = field(default_factory=list)
    batchnorm_shared: int | None = None
    parent_sha256: str | None = None

    def not_finite(self) -> str | None:
        """Return the name of a tensor of weights that is not finite, or None."""
        return not_finite(self.weights)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers and strings with their hash, atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "sha256": _hash(content), **content}, buffer)
    write_bytes(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        InputError: The file is missing, damaged, or contains anything but tensors, numbers and strings.
    """
    try:
        with open_regular(path) as file:
            # torch writes a checksum of each part but does not verify it, and compresses none.
            with zipfile.ZipFile(file) as parts:
                is_intact = all(part.compress_type == zipfile.ZIP_STORED for part in parts.infolist())
                is_intact = is_intact and parts.testzip() is None
            file.seek(0)
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True) if is_intact else {}
        version = int(content.pop("format"))
        # Files of format 2 contain no hash.
        is_intact = version != FORMAT or content.pop("sha256") == _hash(content)
    except FileNotFoundError:
        raise InputError(f"The next stage starts from {path}, which is missing. {advice(path)}") from None
    except InputError:
        raise
    except Exception as error:
        # A damaged file raises a dozen kinds of exceptions.
        raise DamagedFile(path, "lrbench did not write this content", advice(path)) from error
    if not 2 <= version <= FORMAT:
        raise InputError(f"{path} has format {version}; this lrbench reads formats up to {FORMAT}. {advice(path)}")
    if not is_intact:
        raise DamagedFile(path, "its content does not match its hash", advice(path))
    return content


def _hash(content: dict[str, Any]) -> str:
    """Return the SHA-256 of nested dictionaries and lists: tensors with type and shape, other values by their `repr`."""
    digest = hashlib.sha256()
    parts = 0

    def feed(value: Any) -> None:
        nonlocal parts
        parts += 1
        if parts > _MAX_PARTS:
            raise ValueError("too many parts")
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
    """Return the progress in a file.

    Args:
        content: The return value of `load`.
        first: The segment's first update.
        last: One after the segment's last update.

    Raises:
        ValueError: It is not a progress of this segment.
    """
    progress = Progress(**{field.name: content[field.name] for field in fields(Progress) if field.name in content})
    kept = (progress.kept, progress.kept_momentum)
    if not all(isinstance(epochs, dict) for epochs in kept) or not isinstance(progress.records, list):
        raise ValueError("not a progress of this segment")
    sums = (progress.mean, progress.tail, progress.moving)
    sets = (progress.weights, progress.momentum, *sums, *(value for sets in kept for value in sets.values()))
    numbers = (progress.update, progress.mean_count, progress.tail_count, progress.moving_count, progress.correct)
    counts = (*numbers, *(epoch for sets in kept for epoch in sets))
    if not (
        all(type(count) is int and count >= 0 for count in counts)
        and first <= progress.update < last
        and all(are_tensors(tensors) for tensors in sets)
        and all(
            isinstance(value, float) and math.isfinite(value) for value in (progress.loss, progress.direction_square)
        )
        and all(isinstance(record, dict) and type(record.get("update")) is int for record in progress.records)
    ):
        raise ValueError("not a progress of this segment")
    return progress


def are_tensors(value: Any) -> bool:
    """Return whether a value is a dictionary of tensors by name."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def advice(path: Path) -> str:
    """Return a sentence on how to replace an unusable state."""
    snapshot = path.name.partition(".")[0]
    return f"Delete {path.with_name(snapshot + '.safetensors')} and run the same pretraining again."
