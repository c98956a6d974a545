"""Export of a snapshot to a folder that timm loads, with the re-estimated BatchNorm statistics in the weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from lrbench.core.errors import InputError
from lrbench.core.files import atomic_folder, write_bytes, write_json, write_text
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import batchnorm_layers
from lrbench.models.timm_configuration import pretrained_configuration
from lrbench.store.headers import FORMAT
from lrbench.store.references import WeightsFile
from lrbench.store.snapshots import SnapshotMetadata, encode, hash_tensors


def export_snapshot(
    path: Path, folder: Path, card: Callable[[SnapshotMetadata, str | None], str] | None = None
) -> None:
    """Write `model.safetensors` and `config.json` in timm's format.

    Args:
        path: The snapshot.
        folder: Created if missing; must be empty.
        card: Return the text of `README.md`, given the exported metadata and which BatchNorm statistics the weights
            hold (None for a network without BatchNorm). None to write no card.

    Raises:
        InputError: The snapshot is damaged, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder. Name another one with --out.")
    snapshot = load_snapshot(WeightsFile(text=str(path), path=path))
    metadata = snapshot.metadata
    timm_configuration = pretrained_configuration(snapshot.model)
    features = getattr(snapshot.model, "num_features", None)
    configuration = {
        "architecture": metadata.architecture,
        "num_classes": metadata.classes,
        "num_features": features,
        "model_args": metadata.arguments,
        "pretrained_cfg": {
            "tag": f"lrbench_{metadata.arm or 'foreign'}",
            "num_classes": metadata.classes,
            "input_size": [3, metadata.input.size, metadata.input.size],
            "crop_pct": metadata.input.crop_fraction,
            "crop_mode": metadata.input.crop_mode,
            "interpolation": metadata.input.interpolation,
            "mean": list(metadata.input.mean),
            "std": list(metadata.input.std),
            "first_conv": _first_convolution(snapshot.model, timm_configuration.get("first_conv")),
            "classifier": timm_configuration.get("classifier"),
        },
    }
    weights = snapshot.model.state_dict()
    has_batchnorm = bool(batchnorm_layers(snapshot.model))
    changes = {
        "format": FORMAT,
        "tensors_sha256": hash_tensors(weights),
        "batchnorm_sha256": None,
        "batchnorm_within": snapshot.batchnorm == "re-estimated" and has_batchnorm,
    }
    header = metadata.model_copy(update=changes)
    with atomic_folder(folder) as whole:
        write_bytes(whole / "model.safetensors", encode(weights, header.model_dump(mode="json")))
        write_json(whole / "config.json", configuration)
        if card is not None:
            write_text(whole / "README.md", card(header, snapshot.batchnorm if has_batchnorm else None))


def _first_convolution(model: nn.Module, named: Any) -> Any:
    """Return the first convolution's name; timm's name may be that of a deep stem, which consists of several layers."""
    modules = dict(model.named_modules())
    if not isinstance(named, str) or isinstance(modules.get(named), nn.Conv2d):
        return named
    return next(
        (name for name, module in modules.items() if name.startswith(f"{named}.") and isinstance(module, nn.Conv2d)),
        named,
    )
