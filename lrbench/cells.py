"""Cells: one snapshot, target, protocol and transfer seed each, and when one is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lrbench.errors import InputError
from lrbench.files import sha256_file, sha256_json
from lrbench.references import Reference, partner_of
from lrbench.registry import Suite, Task, load_task
from lrbench.registry.loading import apply_changes, differences, validated
from lrbench.registry.suite import Concat, Fewshot, Finetune, Knn, Probe
from lrbench.registry.task import Strict
from lrbench.results import Result, cell_key, foreign_slug, read_result, result_path, suite_slug
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

    def changed(self, protocol: str, changes: Sequence[str]) -> "TransferSettings":
        """These settings with other values, as `--set` gives them.

        Raises:
            InputError: A change that cannot be made, or of something that the protocol does not read.
        """
        read = ("validation", *_TABLES[protocol])
        for change in changes:
            table = change.partition("=")[0].partition(".")[0].strip()
            if "=" in change and table not in read:
                raise InputError(
                    f"--set {change}: {protocol} does not read `{table}`, so nothing would change. It reads "
                    f"{', '.join(read)}. What a snapshot was pretrained with is set in `lrbench pretrain` and `lrbench run`."
                )
        content = self.model_dump(mode="json")
        apply_changes(content, changes)
        return validated(TransferSettings, content, "the settings", changed=True)

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
    result = _whole(path, sha256, protocol)
    return (
        result is not None
        and result.settings == settings
        # A partial source marks every result of its snapshots; only a partial target asks for another computation.
        and (partial or not result.partial or result.snapshot.source_partial)
    )


def in_the_way(
    path: Path, *, sha256: str, settings: dict[str, Any], protocol: str, fingerprint: str | None = None
) -> str | None:
    """What differs in a result of the same weights that a cell's computation would replace.

    Results of other weights and of older protocols are out of date, and damaged ones are none: these are in nobody's way.

    Args:
        path: Where the cell's result lies.
        sha256: Hash of the snapshot that is present.
        settings: What the cell is asked for now.
        protocol: Its protocol.
        fingerprint: Of the task's data as it is now; None where it was not looked at.

    Returns:
        In words; None where nothing would be lost.
    """
    result = _whole(path, sha256, protocol)
    if result is None:
        return None
    if result.settings.get("partner") != settings.get("partner") and result.settings.get("concat") == settings.get(
        "concat"
    ):
        # The other snapshot of `concat` is not what it was: out of date as well.
        return None
    before = {name: value for name, value in result.settings.items() if name not in {"task_sha256", "partner"}}
    now = {name: value for name, value in settings.items() if name not in {"task_sha256", "partner"}}
    changes = differences(before, now)
    if result.settings.get("task_sha256") != settings.get("task_sha256"):
        changes.append(f"the TOML of {result.task.name} says otherwise now (files, counts, classes or metric)")
    elif fingerprint is not None and fingerprint != result.task.fingerprint:
        changes.append(f"{result.task.name} has other images, classes or splits now")
    return ", ".join(changes) or None


def refuse_to_replace(path: Path, difference: str | None) -> None:
    """Keep a result that was made with other settings, on other images or for another task of the same name.

    Args:
        path: The result.
        difference: What `in_the_way` said.

    Raises:
        InputError: There is a difference.
    """
    if difference is not None:
        raise InputError(
            f"{path} holds this cell's result, but computed otherwise: {difference}. `lrbench transfer … --again` computes it "
            "as it would be now and replaces that result; to keep both, give the task a name of its own, or work in another "
            "folder (LRBENCH_HOME)."
        )


def _whole(path: Path, sha256: str, protocol: str) -> Result | None:
    """A cell's result where it is whole and of these weights and the protocol's present version."""
    if not path.is_file() or not path.with_suffix(".parquet").is_file():
        return None
    try:
        result = read_result(path)
    except InputError:
        return None
    of_these = result.snapshot.sha256 == sha256 and result.protocol_version == PROTOCOL_VERSIONS[protocol]
    # Damaged predictions are none: they are computed again.
    return result if of_these and sha256_file(path.with_suffix(".parquet")) == result.predictions_sha256 else None


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
    sha256 = identity(reference.path)
    path, wanted = _asked(workspace, reference, cell, settings, sha256)
    done = is_done(path, sha256=sha256, settings=wanted, protocol=cell.protocol, partial=partial)
    return path if done else None


def replaced_result(
    workspace: Workspace,
    reference: Reference,
    cell: Cell,
    settings: TransferSettings,
    *,
    sha256: str,
    fingerprint: str | None = None,
) -> tuple[Path, str | None]:
    """Where a cell's result lies, and what differs in one that its computation would replace (`in_the_way`).

    Raises:
        InputError: There is no such task.
    """
    path, wanted = _asked(workspace, reference, cell, settings, sha256)
    return path, in_the_way(path, sha256=sha256, settings=wanted, protocol=cell.protocol, fingerprint=fingerprint)


def _asked(
    workspace: Workspace, reference: Reference, cell: Cell, settings: TransferSettings, sha256: str
) -> tuple[Path, dict[str, Any]]:
    """Where a cell's result lies, and what it is asked for."""
    task = load_task(cell.task)
    path = cell_path(workspace, reference, sha256, cell, task)
    return path, settings.record(cell.protocol, task, reference, workspace)
