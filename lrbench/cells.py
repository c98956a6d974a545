"""Cells: one snapshot, target, protocol and transfer seed each, and when one is done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lrbench.errors import InputError
from lrbench.files import sha256_file, sha256_json
from lrbench.references import Reference, partner_of
from lrbench.registry import Suite, Task, load_task
from lrbench.registry.suite import Concat, Fewshot, Finetune, Knn, Probe
from lrbench.registry.task import Strict
from lrbench.results import cell_key, foreign_slug, read_result, result_path, suite_slug
from lrbench.snapshots import identity
from lrbench.workspace import Workspace

PROTOCOL_VERSIONS = {"probe": 2, "knn": 1, "finetune": 2, "fewshot": 1, "concat": 1, "depth": 1, "logme": 1}
"""Rises with every change of a protocol that can change a figure; results of two versions are never ranked together."""


class TransferSettings(Strict):
    """How snapshots are transferred: the part of a suite that protocols read.

    Attributes:
        validation: Share of the training images held out for selection where a task has no validation split.
    """

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    probe: Probe = Probe()
    knn: Knn = Knn()
    finetune: Finetune = Finetune()
    fewshot: Fewshot = Fewshot()
    concat: Concat = Concat()

    @classmethod
    def of(cls, suite: Suite) -> "TransferSettings":
        """The settings of a suite."""
        return cls(**{name: getattr(suite, name) for name in cls.model_fields})

    def record(self, protocol: str, task: Task, reference: Reference, workspace: Workspace) -> dict[str, Any]:
        """What a cell of this snapshot, protocol and task is asked for, as its result states it.

        Raises:
            InputError: `concat.partner` names no snapshot.
        """
        described = task.model_dump(mode="json", include={"files", "counts", "classes", "metric"})
        record: dict[str, Any] = {"task_sha256": sha256_json(described)}
        if protocol not in {"fewshot", "logme"}:
            record["validation"] = self.validation
        for name in _TABLES[protocol]:
            record[name] = getattr(self, name).model_dump(mode="json")
        if protocol == "concat":
            partner = partner_of(reference, self.concat.partner, workspace)
            present = partner.path is not None and partner.path.is_file()
            record["partner"] = {
                "reference": partner.text,
                "sha256": identity(partner.path) if present and partner.path else None,
            }
        return record


# The settings that each protocol reads.
_TABLES = {
    "probe": ("probe",),
    "knn": ("knn",),
    "finetune": ("finetune",),
    "fewshot": ("fewshot", "probe"),
    "concat": ("concat", "probe"),
    "depth": ("probe",),
    "logme": (),
}


@dataclass(frozen=True, order=True, kw_only=True)
class Cell:
    """One unit of transfer work: a target task, a protocol and a transfer seed, for a snapshot known from elsewhere."""

    task: str
    protocol: str
    seed: int


def cell_path(workspace: Workspace, reference: Reference, sha256: str, cell: Cell, task: Task) -> Path:
    """Where a cell's result lies.

    Args:
        workspace: Holds the results.
        reference: The snapshot.
        sha256: Its hash.
        cell: The cell.
        task: Its task.
    """
    slug = suite_slug(reference.key) if reference.key else foreign_slug(reference.text, sha256)
    name = cell_key(snapshot=slug, task=task.name, protocol=cell.protocol, seed=cell.seed)
    return result_path(workspace.results, reference.results_folder, name)


def is_done(path: Path, *, sha256: str, settings: dict[str, Any], protocol: str, partial: bool) -> bool:
    """Whether a cell's result is there, whole, and of the snapshot that is present here.

    Args:
        path: Where it would lie.
        sha256: Hash of the snapshot that is present.
        settings: What the cell would be asked for now.
        protocol: Its protocol, whose version must be the present one.
        partial: Whether a result from partial data will do.
    """
    if not path.is_file() or not path.with_suffix(".parquet").is_file():
        return False
    try:
        result = read_result(path)
    except InputError:
        return False
    # Damaged predictions are none: they are computed again.
    if sha256_file(path.with_suffix(".parquet")) != result.predictions_sha256:
        return False
    return (
        result.snapshot.sha256 == sha256
        and result.settings == settings
        and result.protocol_version == PROTOCOL_VERSIONS[protocol]
        # A partial source marks every result of its snapshots; only a partial target asks for another computation.
        and (partial or not result.partial or result.snapshot.source_partial)
    )


def done_result(
    workspace: Workspace, reference: Reference, cell: Cell, settings: TransferSettings, *, partial: bool
) -> Path | None:
    """The result of a cell where it is there already; looks at files only, without loading the network.

    Snapshots that are no files (`timm:`, `hf-hub:`) have no hash before they are loaded, so theirs is never found here.

    Raises:
        InputError: There is no such snapshot or task.
    """
    if reference.path is None:
        return None
    sha256, task = identity(reference.path), load_task(cell.task)
    path = cell_path(workspace, reference, sha256, cell, task)
    wanted = settings.record(cell.protocol, task, reference, workspace)
    done = is_done(path, sha256=sha256, settings=wanted, protocol=cell.protocol, partial=partial)
    return path if done else None
