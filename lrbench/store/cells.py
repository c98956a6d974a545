"""Cells, the units of transfer work, and the status of their results."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lrbench.config import Suite, Task, load_task
from lrbench.config.loading import validate
from lrbench.config.protocols import (
    PROTOCOLS,
    RESERVED,
    SOURCE,
    SOURCE_FIT,
    SOURCE_HITS,
    Concat,
    Fewshot,
    Finetune,
    Knn,
    Probe,
    SourceFit,
    find_protocol,
)
from lrbench.config.registry import is_shipped
from lrbench.config.strict import Strict
from lrbench.config.toml_files import apply_changes, differences
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_json
from lrbench.core.workspace import Place, Workspace
from lrbench.store.references import Reference, SuiteSnapshot, WeightsFile, resolve_partner, snapshot_file
from lrbench.store.relatives import is_comparison_stale
from lrbench.store.results import Result, StoredResult, cell_key, foreign_slug, read_result, result_path, suite_slug
from lrbench.store.snapshots import identity


class TransferSettings(Strict):
    """Settings of a transfer: the part of a suite that protocols read.

    Attributes:
        validation: Fraction of the training images held out for selection if a task has no validation split.
    """

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    probe: Probe = Probe()
    knn: Knn = Knn()
    finetune: Finetune = Finetune()
    fewshot: Fewshot = Fewshot()
    concat: Concat = Concat()
    source_fit: SourceFit = SourceFit()

    @classmethod
    def of(cls, suite: Suite) -> "TransferSettings":
        """Return the transfer settings of a suite."""
        return cls(**{name: getattr(suite, name) for name in cls.model_fields})

    def with_changes(self, protocols: Sequence[str], changes: Sequence[str]) -> "TransferSettings":
        """Return these settings with values changed by `--set`.

        Args:
            protocols: Protocols of the command.
            changes: `key=value` each.

        Raises:
            InputError: A change is invalid, or none of the protocols reads its table.
        """
        tables = tuple(
            dict.fromkeys(["validation", *(table for name in protocols for table in find_protocol(name).tables)])
        )
        for change in changes:
            table = change.partition("=")[0].partition(".")[0].strip()
            if "=" in change and table not in tables:
                raise InputError(
                    f"--set {change}: {', '.join(protocols)} does not read `{table}`; it reads {', '.join(tables)}. Settings "
                    "of pretraining are changed with `lrbench pretrain` and `lrbench run`."
                )
        content = self.model_dump(mode="json")
        apply_changes(content, changes)
        return validate(TransferSettings, content, "the settings", changed=True)

    def of_protocol(self, protocol: str) -> dict[str, Any]:
        """Return the settings that a protocol reads, as JSON values, and for a plug-in's the distribution that adds it."""
        read = {"validation"} if find_protocol(protocol).selects else set()
        settings = self.model_dump(mode="json", include=read | set(find_protocol(protocol).tables))
        plugin = PROTOCOLS.plugin(protocol)
        # Protocols of two packages may have the same name.
        return settings if plugin is None else {**settings, "protocol_origin": plugin.distribution}

    def record(self, protocol: str, task: Task, reference: Reference, workspace: Workspace) -> dict[str, Any]:
        """Return the `settings` entry of a cell's result: all that was requested for it.

        Raises:
            InputError: `concat.partner` names no snapshot.
        """
        record: dict[str, Any] = {"task_sha256": task_sha256(task), **self.of_protocol(protocol)}
        if find_protocol(protocol).features == "partner":
            partner = resolve_partner(reference, self.concat.partner, workspace)
            sha256 = None
            if isinstance(partner, SuiteSnapshot | WeightsFile) and partner.path.is_file():
                sha256 = identity(partner.path)
            record["partner"] = {"reference": partner.text, "sha256": sha256}
        return record


def task_sha256(task: Task) -> str:
    """Return the SHA-256 of the parts of a task's description on which results depend."""
    described = task.model_dump(mode="json", include={"files", "counts", "classes", "metric"})
    if task.upright:
        described["orientation"] = task.orientation
    if task.head is not None:
        described["head"] = task.head.sha256
    return sha256_json(described)


@dataclass(frozen=True, order=True, kw_only=True)
class Cell:
    """A unit of work on one snapshot, which is given separately: target task, protocol and transfer seed.

    `source_cells` gives the units that predict images of the source instead of transferring.
    """

    task: str
    protocol: str
    seed: int


def source_cell(suite: Suite, seed: int) -> Cell:
    """Return the cell in which a suite's snapshot predicts the test images of its source."""
    # Nothing is drawn at random.
    return Cell(task=suite.source_of(seed), protocol=SOURCE.name, seed=0)


def source_protocols(suite: Suite) -> tuple[str, ...]:
    """Return the names of the protocols in which a suite's snapshots predict images of its source."""
    asked = ((SOURCE, True), (SOURCE_HITS, suite.source_hits), (SOURCE_FIT, suite.source_fit.images > 0))
    return tuple(protocol.name for protocol, is_asked in asked if is_asked)


def source_cells(suite: Suite, seed: int) -> tuple[Cell, ...]:
    """Return the cells in which a suite's snapshot predicts images of its source."""
    return tuple(replace(source_cell(suite, seed), protocol=name) for name in source_protocols(suite))


class Overwrite(Enum):
    """Policy for existing results.

    A cell is done if its result is whole, of the same weights, and computed with the same settings on the same images. Results
    of different weights or of an older protocol version, and damaged ones, are replaced under every policy.

    Attributes:
        ALWAYS: Compute every cell.
        STALE: Compute cells that are not done, and replace results computed with different settings or images.
        NEVER: Compute cells that are not done, but refuse to replace results computed with different settings or images.
    """

    ALWAYS = "always"
    STALE = "stale"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """Status of a cell's result.

    Attributes:
        path: Path of the result, which need not exist.
        is_done: Whether the result exists and would be the same if it were computed now.
        stale_reason: Why an existing result differs from this request, or None if it may be replaced.
        stored: The existing result, where `is_done` or `stale_reason` refers to one.
    """

    path: Path
    is_done: bool
    stale_reason: str | None = None
    stored: StoredResult | None = field(default=None, repr=False, compare=False)

    def existing_result(self, overwrite: Overwrite) -> StoredResult | None:
        """Return the existing result if a policy keeps it, or None if the cell has to be computed.

        Raises:
            InputError: The policy is `NEVER`, and the result was computed with different settings or images.
        """
        if overwrite is Overwrite.NEVER and self.stale_reason is not None:
            raise InputError(
                f"{self.path} was computed with different settings or images: {self.stale_reason}. Add --again to replace it. "
                "To keep both results, give the task a different name or set LRBENCH_HOME to a different folder."
            )
        return self.stored if self.is_done and overwrite is not Overwrite.ALWAYS else None


def cell_path(workspace: Workspace, reference: Reference, sha256: str, cell: Cell, task: Task) -> Path:
    """Return the path of a cell's result.

    Args:
        workspace: Workspace of the results.
        reference: The snapshot.
        sha256: Hash of the snapshot.
        cell: The cell.
        task: The task of the cell.
    """
    slug = suite_slug(reference.key) if isinstance(reference, SuiteSnapshot) else foreign_slug(reference.text, sha256)
    name = cell_key(snapshot=slug, task=task.name, protocol=cell.protocol, seed=cell.seed)
    return result_path(workspace.results, reference.results_folder, name)


def status_before_loading(
    place: Place, reference: Reference, cell: Cell, settings: TransferSettings
) -> CellStatus | None:
    """Return the status of a cell whose snapshot is not loaded, or None for a snapshot without a file, whose hash is unknown.

    Raises:
        InputError: The snapshot or the task does not exist.
    """
    if not isinstance(reference, SuiteSnapshot | WeightsFile):
        return None
    return cell_status(place, reference, cell, settings, sha256=identity(snapshot_file(reference)))


def cell_status(
    place: Place, reference: Reference, cell: Cell, settings: TransferSettings, *, sha256: str
) -> CellStatus:
    """Return the status of a cell from its files.

    Args:
        place: Folders of results and data, and whether results of partial data are accepted.
        reference: The snapshot.
        cell: The cell.
        settings: Settings of the request.
        sha256: Hash of the snapshot.

    Raises:
        InputError: The task, or the partner that `concat.partner` names, does not exist.
    """
    task = load_task(cell.task)
    path = cell_path(place.workspace, reference, sha256, cell, task)
    missing = CellStatus(path=path, is_done=False)
    stored = _stored_result(path, sha256, cell.protocol)
    if stored is None:
        return missing
    result = stored.result
    is_source = cell.protocol in RESERVED
    # A partial source marks every result of its snapshots; computing the cell again would not change that.
    of_source = result.snapshot.source_partial and (is_source or not result.task.partial)
    if result.partial and not place.partial and not of_source:
        return missing
    before = dict(result.settings)
    now = settings.record(cell.protocol, task, reference, place.workspace)
    if before.pop("partner", None) != now.pop("partner", None) and before.get("concat") == now.get("concat"):
        # The weights of the partner have changed.
        return missing
    if find_protocol(cell.protocol).compares and is_comparison_stale(result, reference):
        return missing
    is_same_task = before.pop("task_sha256", None) == now.pop("task_sha256")
    reasons = differences(before, now)
    if not is_same_task:
        reasons.append(f"the TOML of {task.name} has changed (files, counts, classes or metric)")
    # The snapshot's source images are those it was pretrained on; different ones would be refused.
    elif not is_source and (difference := _image_difference(result, cell.task, task, place)):
        reasons.append(f"{task.name} {difference}")
    return CellStatus(path=path, is_done=not reasons, stale_reason=", ".join(reasons) or None, stored=stored)


def _image_difference(result: Result, name: str, task: Task, place: Place) -> str | None:
    """Return how a user's own images differ from those of a result; None if they are the same or missing."""
    if is_shipped(task):
        # Official data does not change, and reading it needs heavy imports.
        return None
    from lrbench.data.examples import Identity
    from lrbench.data.loading import user_data_identity

    images = user_data_identity(name, place.roots)
    if images is None:
        return None
    return images.difference(Identity(fingerprint=result.task.fingerprint, content=result.task.content_sha256))


def _stored_result(path: Path, sha256: str, protocol: str) -> StoredResult | None:
    """Return the result at a path if it is whole, of these weights and of the current protocol version."""
    if not path.is_file() or not path.with_suffix(".parquet").is_file():
        return None
    try:
        stored = StoredResult(result=read_result(path), path=path)
        if stored.result.snapshot.sha256 != sha256 or stored.result.protocol_version != find_protocol(protocol).version:
            return None
        # Read to find damage: damaged predictions are computed again.
        _ = stored.predictions
    except InputError:
        return None
    return stored
