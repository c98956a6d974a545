"""Model cards of exported snapshots: origin, transfer results and recipe."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import tomli_w
from huggingface_hub import EvalResult, ModelCardData

from lrbench.config import load_task
from lrbench.config.files import HubFiles
from lrbench.config.loading import is_shipped_task
from lrbench.config.protocols import RESERVED
from lrbench.config.registry import find_registered_tasks
from lrbench.config.task import METRIC_NAMES
from lrbench.core.escaping import for_markdown
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.leaderboard.markup import Marked, bracketed, bullets, code, table
from lrbench.stats.images import Labels, interval_over_images
from lrbench.store.index import Entry, load_index
from lrbench.store.snapshots import SnapshotMetadata, identity
from lrbench.store.suites import effective_path, read_effective, recipe


@dataclass(frozen=True, kw_only=True)
class Transfers:
    """Results of one snapshot for its card.

    Attributes:
        table: The results as Markdown.
        entries: The results.
        left_out: Names of the user's own tasks that are left out.
    """

    table: str
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]


def model_card(
    metadata: SnapshotMetadata,
    statistics: str | None,
    workspace: Workspace,
    transfers: Transfers,
    licence: str | None = None,
) -> str:
    """Return the `README.md` of an exported snapshot.

    Args:
        metadata: Metadata of the exported snapshot.
        statistics: Kind of BatchNorm statistics in the weights; None for a network without BatchNorm.
        workspace: Workspace with the suite's settings.
        transfers: Results of the snapshot, from `find_transfers`.
        licence: License of the weights, as the Hub names it (`apache-2.0`); None to state none.
    """
    reference = str(
        f"{metadata.suite}/{metadata.arm}/seed{metadata.seed}/stage{metadata.stage}"
        if metadata.suite
        else metadata.origin
    )
    facts = [f"Classes: {metadata.classes}"]
    if metadata.source_task is not None:
        facts = [
            f"Source: {metadata.source_task}, {metadata.classes} classes" + " (partial data)" * metadata.source_partial
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
        f"---\n{_front_matter(reference, metadata, transfers.entries, licence)}\n---",
        f"# {for_markdown(metadata.architecture)}, snapshot {code(reference)}",
        "Weights at a boundary of the learning rate, saved by lrbench."
        if metadata.suite
        else "Weights from elsewhere, imported by lrbench; the file does not record their training data.",
        bullets(facts),
        "## Transfers",
        transfers.table,
        *(["## Recipe", _recipe(metadata.suite, metadata.recipe, workspace)] if metadata.suite else []),
        "## Metadata of the snapshot",
        "```json\n" + json.dumps(metadata.model_dump(mode="json"), indent=1, sort_keys=True) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(reference: str, metadata: SnapshotMetadata, entries: Sequence[Entry], licence: str | None) -> str:
    """Return the metadata that the Hub shows, as YAML: license, tags, and results on full data (`model-index`)."""
    results = []
    for entry in entries:
        if entry.partial:
            continue
        task = load_task(entry.task) if entry.task in find_registered_tasks() else None
        is_hub = task is not None and isinstance(task.files, HubFiles)
        settings = ", settings of no suite" * (metadata.suite is not None and entry.suite == FOREIGN)
        results.append(
            EvalResult(
                task_type="image-classification",
                dataset_type=task.files.id if is_hub else entry.task,  # type: ignore[union-attr]
                dataset_name=entry.task if task is None else task.display_title,
                dataset_split="test",
                metric_type="accuracy",
                metric_name=f"{METRIC_NAMES[entry.metric]} accuracy, {entry.protocol}, transfer seed {entry.seed}{settings}",
                metric_value=round(entry.headline, 6),
            )
        )
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=licence,
        tags=["image-classification", "lrbench"],
        model_name=f"{metadata.architecture}, {reference}",
        eval_results=results or None,
    )
    return str(data.to_yaml(line_break="\n")).strip()


def find_transfers(path: Path, metadata: SnapshotMetadata, workspace: Workspace, tasks: Collection[str]) -> Transfers:
    """Return one snapshot's results in this workspace. Results received from others are left out.

    Args:
        path: The snapshot.
        metadata: Its metadata.
        workspace: The workspace with the results.
        tasks: Names of the user's own tasks whose results are shown too.
    """
    sha256 = identity(path)
    results = []
    for folder in dict.fromkeys((metadata.suite or FOREIGN, FOREIGN)):
        index = load_index(workspace.results, folder, workspace.cache)
        results += [
            (entry, folder, index.labels[entry.labels])
            for entry in index.entries
            if entry.sha256 == sha256 and entry.protocol not in RESERVED and entry.origin is None
        ]
    # Users decide themselves whether results on their own data are published.
    names = {entry.task for entry, _, _ in results}
    left_out = sorted(name for name in names if name not in tasks and not is_shipped_task(name))
    results = [result for result in results if result[0].task not in left_out]
    if not results:
        return Transfers(table="No results are shown.", entries=(), left_out=tuple(left_out))
    results.sort(key=lambda result: (result[0].task, result[0].protocol, result[0].seed))
    # One task, protocol and seed may have a result with the suite's settings and one with those of no suite.
    both = metadata.suite is not None and any(folder == FOREIGN for _, folder, _ in results)
    rows: list[dict[str, str]] = []
    entries = []
    for entry, folder, labels in results:
        row = {
            "target": entry.task + (" (partial data)" if entry.partial else ""),
            "protocol": entry.protocol,
            "metric": METRIC_NAMES[entry.metric],
            "accuracy, %": Marked(f"{100 * entry.headline:.2f} {_interval(entry, labels)}"),
            "test images": f"{entry.test_count:,}",
            "transfer seed": str(entry.seed),
            **({"settings": "of no suite" if folder == FOREIGN else f"of {folder}"} if both else {}),
        }
        # A file that was transferred under two names has each result twice.
        if row not in rows:
            rows.append(row)
            entries.append(entry)
    legend = (
        "In brackets, Wilson's 95 % interval over test images. It does not include other pretraining or transfer seeds."
    )
    return Transfers(table=f"{table(rows)}\n\n{legend}", entries=tuple(entries), left_out=tuple(left_out))


def _interval(entry: Entry, labels: Labels) -> str:
    hits = np.asarray(entry.hits, dtype=np.float64)
    return bracketed(*interval_over_images(hits, labels, entry.metric), digits=2)


def _recipe(name: str, sha256: str | None, workspace: Workspace) -> str:
    path = effective_path(workspace, name)
    if not path.is_file():
        return "This workspace does not have the suite."
    suite = read_effective(path)
    if recipe(suite) != sha256:
        return "The suite of that name in this workspace has different pretraining settings."
    sections = {"model", "input", "schedule", "training", "batchnorm", "source"}
    return "```toml\n" + tomli_w.dumps(suite.model_dump(mode="json", include=sections, exclude_none=True)) + "```"
