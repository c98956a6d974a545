"""Snapshots for others: a folder that timm loads, with the re-estimated BatchNorm statistics built in."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import timm
import tomli_w
from torch import nn

from lrbench.effective import effective_path, read_effective, recipe
from lrbench.errors import InputError
from lrbench.escaping import for_markdown
from lrbench.files import atomic_folder, write_bytes, write_json, write_text
from lrbench.headers import FORMAT
from lrbench.leaderboard.index import Entry, load_index
from lrbench.leaderboard.markup import Marked, bracketed, bullets, code, table
from lrbench.leaderboard.resampling import Labels
from lrbench.leaderboard.statistics import interval_over_images
from lrbench.models import batchnorm_layers
from lrbench.references import Reference
from lrbench.registry import load_task
from lrbench.registry.loading import find_registered_tasks, is_shipped
from lrbench.registry.task import METRIC_NAMES
from lrbench.snapshots import SnapshotMetadata, encode, hash_tensors, identity
from lrbench.weights import load_snapshot, pretrained_configuration
from lrbench.workspace import FOREIGN, Workspace


def export_snapshot(path: Path, folder: Path, workspace: Workspace | None, tasks: Collection[str] = ()) -> list[str]:
    """Write `model.safetensors` and `config.json` in timm's form.

    Args:
        path: The snapshot.
        folder: Made when it is not there; must be empty.
        workspace: For a model card (`README.md`), where the suite and the snapshot's results lie; None for no card.
        tasks: The user's own tasks whose results the card holds too, by name.

    Returns:
        Tasks whose results the card leaves out, because they are the user's own and not named.

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
    left_out: list[str] = []
    with atomic_folder(folder) as whole:
        write_bytes(whole / "model.safetensors", encode(weights, header.model_dump(mode="json")))
        write_json(whole / "config.json", configuration)
        if workspace is not None:
            statistics = snapshot.batchnorm if batchnorm_layers(snapshot.model) else None
            transfers, left_out = _transfers(path, metadata, workspace, tasks)
            write_text(whole / "README.md", _card(header, statistics, workspace, transfers))
    return left_out


def _first_convolution(model: nn.Module, named: Any) -> Any:
    """The name of the layer that takes the image, where what timm calls so is several layers, as a deep stem."""
    modules = dict(model.named_modules())
    if not isinstance(named, str) or isinstance(modules.get(named), nn.Conv2d):
        return named
    inside = (name for name, each in modules.items() if name.startswith(f"{named}.") and isinstance(each, nn.Conv2d))
    return next(inside, named)


def _card(metadata: SnapshotMetadata, statistics: str | None, workspace: Workspace, transfers: str) -> str:
    where = str(
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
        f"# {for_markdown(metadata.architecture)}, snapshot {code(where)}",
        "Weights at a boundary of the learning rate, saved by lrbench."
        if metadata.suite
        else "Weights from elsewhere, taken in by lrbench; what they were trained on is not in the file.",
        bullets(facts),
        "## Transfers",
        transfers,
        *(["## Recipe", _recipe(metadata.suite, metadata.recipe, workspace)] if metadata.suite else []),
        "## What the snapshot says of itself",
        "```json\n" + json.dumps(metadata.model_dump(mode="json"), indent=1, sort_keys=True) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _transfers(
    path: Path, metadata: SnapshotMetadata, workspace: Workspace, tasks: Collection[str]
) -> tuple[str, list[str]]:
    """What was measured with this very snapshot, here: in its suite, and on the side where no suite's settings hold.

    Returns:
        The table, and the user's own tasks whose results are not in it.
    """
    sha256 = identity(path)
    found = []
    for folder in dict.fromkeys((metadata.suite or FOREIGN, FOREIGN)):
        index = load_index(workspace.results, folder, workspace.cache)
        found += [(entry, folder, index.labels[entry.labels]) for entry in index.entries if entry.sha256 == sha256]
    # What a user measured on data of their own is theirs to publish.
    names = {entry.task for entry, _, _ in found}
    left_out = sorted(name for name in names if name not in tasks and not _is_shipped(name))
    found = [result for result in found if result[0].task not in left_out]
    if not found:
        return "No results are shown.", left_out
    # Of one task, protocol and seed there may be a result of each kind.
    both = metadata.suite is not None and any(folder == FOREIGN for _, folder, _ in found)
    rows = [
        {
            "target": entry.task + (" (not whole)" if entry.partial else ""),
            "protocol": entry.protocol,
            "metric": METRIC_NAMES[entry.metric],
            "accuracy, %": Marked(f"{100 * entry.headline:.2f} {_interval(entry, labels)}"),
            "test images": f"{entry.test_count:,}",
            "transfer seed": str(entry.seed),
            **({"settings": "of no suite" if folder == FOREIGN else f"of {folder}"} if both else {}),
        }
        for entry, folder, labels in sorted(found, key=lambda each: (each[0].task, each[0].protocol, each[0].seed))
    ]
    # A file that was named in two ways has each result twice.
    rows = [row for number, row in enumerate(rows) if row not in rows[:number]]
    words = (
        "In brackets, the 95 % interval over test images (Wilson's). Other pretraining or transfer seeds are not in it."
    )
    return f"{table(rows)}\n\n{words}", left_out


def _interval(entry: Entry, labels: Labels) -> str:
    hits = np.asarray(entry.hits, dtype=np.float64)
    return bracketed(*interval_over_images(hits, labels, entry.metric), digits=2)


def _is_shipped(task: str) -> bool:
    return task in find_registered_tasks() and is_shipped(load_task(task))


def _recipe(name: str, sha256: str | None, workspace: Workspace) -> str:
    path = effective_path(workspace, name)
    if not path.is_file():
        return "Not known here."
    suite = read_effective(path)
    if recipe(suite) != sha256:
        return "Not known: the suite of that name has other pretraining settings here."
    kept = {"model", "input", "schedule", "training", "batchnorm", "source"}
    return "```toml\n" + tomli_w.dumps(suite.model_dump(mode="json", include=kept, exclude_none=True)) + "```"
