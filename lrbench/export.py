"""Snapshots for others: a folder that timm loads, with the re-estimated BatchNorm statistics built in."""

import json
from pathlib import Path

import timm

from lrbench.errors import InputError
from lrbench.files import write_bytes, write_json, write_text
from lrbench.references import Reference
from lrbench.snapshots import SnapshotMetadata, encode
from lrbench.weights import load_snapshot, pretrained_configuration


def export_snapshot(path: Path, folder: Path, *, card: bool) -> None:
    """Write `model.safetensors` and `config.json` in timm's form.

    Args:
        path: The snapshot.
        folder: Made when it is not there; must be empty.
        card: Whether to write a model card (`README.md`) too.

    Raises:
        InputError: The snapshot is damaged, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and is not an empty folder. Name another one with --out.")
    snapshot = load_snapshot(Reference(text=str(path), path=path))
    metadata = snapshot.metadata
    known = pretrained_configuration(snapshot.model)
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
            "interpolation": metadata.input.interpolation,
            "mean": list(metadata.input.mean),
            "std": list(metadata.input.std),
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }
    write_bytes(folder / "model.safetensors", encode(snapshot.model.state_dict(), metadata.model_dump(mode="json")))
    write_json(folder / "config.json", configuration)
    if card:
        write_text(folder / "README.md", _card(metadata, snapshot.batchnorm))


def _card(metadata: SnapshotMetadata, batchnorm: str) -> str:
    where = (
        f"{metadata.suite}/{metadata.arm}/seed{metadata.seed}/stage{metadata.stage}"
        if metadata.suite
        else metadata.origin
    )
    lines = [
        "---\nlibrary_name: timm\ntags:\n- image-classification\n- lrbench\n---",
        f"# {metadata.architecture}, snapshot `{where}`",
        "Weights at a boundary of the learning rate, saved by lrbench.",
        f"- Source: {metadata.source_task}, {metadata.classes} classes"
        + (" (not whole)" if metadata.source_partial else "")
        + f"\n- Learning rate of the stage it ends: {metadata.rate}; epoch {metadata.epoch}, update {metadata.update}"
        + (f"\n- Source accuracy (top-1): {100 * metadata.source_accuracy:.2f} %" if metadata.source_accuracy else "")
        + f"\n- BatchNorm statistics: {batchnorm}\n- timm {timm.__version__}",
        "```json\n" + json.dumps(metadata.model_dump(mode="json"), indent=1, sort_keys=True) + "\n```",
    ]
    return "\n\n".join(lines) + "\n"
