"""What a resume needs, on disk: the optimiser's state at a boundary, and the progress inside a segment.

Both load with `weights_only=True`: tensors, numbers and words, nothing that runs.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from lrbench.errors import InputError
from lrbench.files import write_bytes

FORMAT = 1


def state_path(snapshot: Path) -> Path:
    """The optimiser's state at the boundary of a snapshot."""
    return snapshot.with_name(snapshot.name.removesuffix(".safetensors") + ".state.pt")


def progress_path(snapshot: Path) -> Path:
    """The progress towards a snapshot; gone once the snapshot is there."""
    return snapshot.with_name(snapshot.name.removesuffix(".safetensors") + ".progress.pt")


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers and words, atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    write_bytes(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        InputError: The file is missing, damaged, or holds more than tensors, numbers and words.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise InputError(f"{path} has format {content['format']}; this lrbench reads {FORMAT}. {_advice(path)}")
    except FileNotFoundError:
        raise InputError(f"{path} is missing, which the next stage starts from. {_advice(path)}") from None
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError, OSError) as error:
        raise InputError(f"{path} is damaged or is not lrbench's. {_advice(path)}") from error
    return content


def _advice(path: Path) -> str:
    snapshot = path.name.partition(".")[0]
    return f"Delete {path.with_name(snapshot + '.safetensors')} and run the same pretraining again: it makes that stage anew."
