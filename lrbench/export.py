"""Snapshots for others: a folder that timm loads, with the re-estimated BatchNorm statistics built in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import tomli_w
from tabulate import tabulate
from torch import nn

from lrbench.effective import effective_path, read_effective, recipe
from lrbench.errors import InputError
from lrbench.escaping import for_markdown
from lrbench.files import atomic_folder, write_bytes, write_json, write_text
from lrbench.headers import FORMAT
from lrbench.leaderboard.index import Entry, load_index
from lrbench.leaderboard.resampling import Labels
from lrbench.leaderboard.statistics import half_width_over_images, image_variance
from lrbench.models import batchnorm_layers
from lrbench.references import Reference
from lrbench.registry.task import METRIC_NAMES
from lrbench.snapshots import SnapshotMetadata, encode, hash_tensors, identity
from lrbench.weights import load_snapshot, pretrained_configuration
from lrbench.workspace import FOREIGN, Workspace


def export_snapshot(path: Path, folder: Path, workspace: Workspace | None) -> None:
    """Write `model.safetensors` and `config.json` in timm's form.

    Args:
        path: The snapshot.
        folder: Made when it is not there; must be empty.
        workspace: For a model card (`README.md`), where the suite and the snapshot's results lie; None for no card.

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
            "crop_mode": metadata.input.crop_mode,
            "interpolation": metadata.input.interpolation,
            "mean": list(metadata.input.mean),
            "std": list(metadata.input.std),
            "first_conv": _first_convolution(snapshot.model, known.get("first_conv")),
            "classifier": known.get("classifier"),
        },
    }
    # One file, in which the statistics that transfers start from are built in.
    weights = snapshot.model.state_dict()
    within = snapshot.batchnorm == "re-estimated" and bool(batchnorm_layers(snapshot.model))
    changed = {
        "format": FORMAT,
        "tensors_sha256": hash_tensors(weights),
        "batchnorm_sha256": None,
        "batchnorm_within": within,
    }
    header = metadata.model_copy(update=changed)
    with atomic_folder(folder) as whole:
        write_bytes(whole / "model.safetensors", encode(weights, header.model_dump(mode="json")))
        write_json(whole / "config.json", configuration)
        if workspace is not None:
            statistics = snapshot.batchnorm if batchnorm_layers(snapshot.model) else None
            write_text(whole / "README.md", _card(path, header, statistics, workspace))


def _first_convolution(model: nn.Module, named: Any) -> Any:
    """The name of the layer that takes the image, where what timm calls so is several layers, as a deep stem."""
    modules = dict(model.named_modules())
    if not isinstance(named, str) or isinstance(modules.get(named), nn.Conv2d):
        return named
    inside = (name for name, each in modules.items() if name.startswith(f"{named}.") and isinstance(each, nn.Conv2d))
    return next(inside, named)


def _card(path: Path, metadata: SnapshotMetadata, statistics: str | None, workspace: Workspace) -> str:
    where = (
        f"{metadata.suite}/{metadata.arm}/seed{metadata.seed}/stage{metadata.stage}"
        if metadata.suite
        else metadata.origin
    )
    facts = [f"Classes: {metadata.classes}"]
    if metadata.source_task is not None:
        facts = [
            f"Source: {metadata.source_task}, {metadata.classes} classes" + " (not whole)" * metadata.source_partial
        ]
    if metadata.rate is not None:
        facts.append(
            f"Learning rate before the boundary: {metadata.rate:g}; epoch {metadata.epoch}, update {metadata.update}"
        )
    if metadata.source_accuracy is not None:
        facts.append(f"Source accuracy (top-1): {100 * metadata.source_accuracy:.2f} %")
    if statistics:
        facts.append(f"BatchNorm statistics: {statistics}")
    facts.append(f"timm {timm.__version__}")
    parts = [
        "---\nlibrary_name: timm\ntags:\n- image-classification\n- lrbench\n---",
        f"# {for_markdown(metadata.architecture)}, snapshot {for_markdown(str(where))}",
        "Weights at a boundary of the learning rate, saved by lrbench."
        if metadata.suite
        else "Weights from elsewhere, taken in by lrbench; what they were trained on is not in the file.",
        "\n".join(f"- {fact}" for fact in facts),
        "## Transfers",
        _transfers(path, metadata, workspace),
        *(["## Recipe", _recipe(metadata.suite, metadata.recipe, workspace)] if metadata.suite else []),
        "## What the snapshot says of itself",
        "```json\n" + json.dumps(metadata.model_dump(mode="json"), indent=1, sort_keys=True) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _transfers(path: Path, metadata: SnapshotMetadata, workspace: Workspace) -> str:
    """What was measured with this very snapshot, here: in its suite, and on the side where no suite's settings hold."""
    sha256 = identity(path)
    found = []
    for folder in dict.fromkeys((metadata.suite or FOREIGN, FOREIGN)):
        index = load_index(workspace.results, folder, workspace.cache)
        found += [(entry, folder, index.labels[entry.labels]) for entry in index.entries if entry.sha256 == sha256]
    if not found:
        return "None were measured before this card was written."
    # Of one task, protocol and seed there may be a result of each kind.
    both = metadata.suite is not None and any(folder == FOREIGN for _, folder, _ in found)
    rows = [
        {
            "target": entry.task + (" (not whole)" if entry.partial else ""),
            "protocol": entry.protocol,
            "metric": METRIC_NAMES[entry.metric],
            "accuracy, %": f"{100 * entry.headline:.2f} ± {100 * _half_width(entry, labels):.2f}",
            "test images": f"{entry.test_count:,}",
            "transfer seed": str(entry.seed),
            **({"settings": "of no suite" if folder == FOREIGN else f"of {folder}"} if both else {}),
        }
        for entry, folder, labels in sorted(found, key=lambda each: (each[0].task, each[0].protocol, each[0].seed))
    ]
    # A file that was named in two ways has each result twice.
    rows = [row for number, row in enumerate(rows) if row not in rows[:number]]
    shown = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    return f"{shown}\n\n± half the 95 % interval over test images; another pretraining or transfer seed is not in it."


def _half_width(entry: Entry, labels: Labels) -> float:
    return half_width_over_images(image_variance(np.asarray(entry.hits, dtype=np.float64), labels, entry.metric))


def _recipe(name: str, sha256: str | None, workspace: Workspace) -> str:
    path = effective_path(workspace, name)
    if not path.is_file():
        return "Not known here."
    suite = read_effective(path)
    if recipe(suite) != sha256:
        return "Not known: the suite of that name has other pretraining settings here."
    kept = {"model", "input", "schedule", "training", "batchnorm", "source"}
    return "```toml\n" + tomli_w.dumps(suite.model_dump(mode="json", include=kept, exclude_none=True)) + "```"
