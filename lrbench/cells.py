"""Cells: one snapshot, target, protocol and transfer seed each, and when one is done."""

from dataclasses import dataclass
from typing import Any

from lrbench.errors import InputError
from lrbench.files import sha256_json
from lrbench.registry import Suite, Task
from lrbench.registry.suite import Finetune, Knn, Probe
from lrbench.results import read_result, result_path
from lrbench.workspace import Workspace

PROTOCOL_VERSIONS = {"probe": 1, "knn": 1, "finetune": 1}
"""Rises with every change of a protocol that can change a figure; results of two versions are never ranked together."""


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """How snapshots are transferred: the part of a suite that protocols read.

    Attributes:
        validation: Share of the training images held out for selection where a task has no validation split.
    """

    validation: float = 0.2
    probe: Probe = Probe()
    knn: Knn = Knn()
    finetune: Finetune = Finetune()

    @classmethod
    def of(cls, suite: Suite) -> "TransferSettings":
        """The settings of a suite."""
        return cls(validation=suite.validation, probe=suite.probe, knn=suite.knn, finetune=suite.finetune)

    def record(self, protocol: str, task: Task) -> dict[str, Any]:
        """What a cell of this protocol and task is asked for, as its result states it."""
        settings = {"probe": self.probe, "knn": self.knn, "finetune": self.finetune}[protocol]
        described = task.model_dump(mode="json", include={"files", "counts", "classes", "metric"})
        return {
            "validation": self.validation,
            protocol: settings.model_dump(mode="json"),
            "task_sha256": sha256_json(described),
        }


@dataclass(frozen=True, order=True, kw_only=True)
class Cell:
    """One unit of transfer work: a target task, a protocol and a transfer seed, for a snapshot known from elsewhere."""

    task: str
    protocol: str
    seed: int


def is_done(
    workspace: Workspace,
    folder: str,
    name: str,
    *,
    sha256: str | None,
    settings: dict[str, Any],
    protocol: str,
    partial: bool,
) -> bool:
    """Whether a cell's result is there, whole, and of the snapshot that is present here.

    Args:
        workspace: Holds the results.
        folder: The suite's name, or `foreign`.
        name: The cell's key.
        sha256: Hash of the snapshot that is present; None where there is none.
        settings: What the cell would be asked for now.
        protocol: Its protocol, whose version must be the present one.
        partial: Whether a result from partial data will do.
    """
    path = result_path(workspace.results, folder, name)
    if sha256 is None or not path.is_file() or not path.with_suffix(".parquet").is_file():
        return False
    try:
        result = read_result(path)
    except InputError:
        return False
    return (
        result.snapshot.sha256 == sha256
        and result.settings == settings
        and result.protocol_version == PROTOCOL_VERSIONS[protocol]
        # A partial source marks every result of its snapshots; only a partial target asks for another computation.
        and (partial or not result.partial or result.snapshot.source_partial)
    )
