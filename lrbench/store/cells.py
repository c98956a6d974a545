"""Cells: one snapshot, target, protocol and transfer seed each, and when one is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lrbench.config import Suite, Task, load_task
from lrbench.config.loading import validate
from lrbench.config.protocols import PROTOCOLS, Concat, Fewshot, Finetune, Knn, Probe
from lrbench.config.registry import is_shipped
from lrbench.config.strict import Strict
from lrbench.config.toml_files import apply_changes, differences
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_json
from lrbench.core.workspace import Place, Workspace
from lrbench.store.references import PretrainedWeights, Reference, SuiteSnapshot, resolve_partner, snapshot_file
from lrbench.store.results import Result, StoredResult, cell_key, foreign_slug, read_result, result_path, suite_slug
from lrbench.store.snapshots import identity

if TYPE_CHECKING:
    from lrbench.data.examples import Identity


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

    def changed(self, protocols: Sequence[str], changes: Sequence[str]) -> "TransferSettings":
        """Return these settings with other values, as `--set` gives them.

        Raises:
            InputError: A change that cannot be made, or of something that none of the protocols reads.
        """
        read = tuple(dict.fromkeys(["validation", *(table for name in protocols for table in PROTOCOLS[name].tables)]))
        for change in changes:
            table = change.partition("=")[0].partition(".")[0].strip()
            if "=" in change and table not in read:
                raise InputError(
                    f"--set {change}: {', '.join(protocols)} does not read `{table}`, so nothing would change. It reads "
                    f"{', '.join(read)}. What a snapshot was pretrained with is set in `lrbench pretrain` and `lrbench run`."
                )
        content = self.model_dump(mode="json")
        apply_changes(content, changes)
        return validate(TransferSettings, content, "the settings", changed=True)

    def record(self, protocol: str, task: Task, reference: Reference, workspace: Workspace) -> dict[str, Any]:
        """What a cell of this snapshot, protocol and task is asked for, as its result states it.

        Raises:
            InputError: `concat.partner` names no snapshot.
        """
        described = task.model_dump(mode="json", include={"files", "counts", "classes", "metric"})
        if task.upright:
            described["orientation"] = task.orientation
        record: dict[str, Any] = {"task_sha256": sha256_json(described)}
        if PROTOCOLS[protocol].selects:
            record["validation"] = self.validation
        for name in PROTOCOLS[protocol].tables:
            record[name] = getattr(self, name).model_dump(mode="json")
        if PROTOCOLS[protocol].features == "partner":
            partner = resolve_partner(reference, self.concat.partner, workspace)
            sha256 = None
            if not isinstance(partner, PretrainedWeights) and partner.path.is_file():
                sha256 = identity(partner.path)
            record["partner"] = {"reference": partner.text, "sha256": sha256}
        return record


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
    slug = suite_slug(reference.key) if isinstance(reference, SuiteSnapshot) else foreign_slug(reference.text, sha256)
    name = cell_key(snapshot=slug, task=task.name, protocol=cell.protocol, seed=cell.seed)
    return result_path(workspace.results, reference.results_folder, name)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is there of a cell.

    Attributes:
        path: Where its result lies, or will.
        done: Whether it is there: whole, of the snapshot that is present, and computed as it would be now.
        otherwise: In what a whole result of the same weights differs from what would be computed now, in words; None where
            nothing would be lost. Results of other weights and of older protocols are out of date, and damaged ones are
            none: these are in nobody's way.
    """

    path: Path
    done: bool
    otherwise: str | None = None

    def refuse_to_replace(self) -> None:
        """Keep a result that was made with other settings, on other images or for another task of the same name.

        Raises:
            InputError: There is one.
        """
        if self.otherwise is not None:
            raise InputError(
                f"{self.path} holds this cell's result, but computed otherwise: {self.otherwise}. --again computes it as it "
                "would be now and replaces that result; to keep both, give the task a name of its own, or work in another "
                "folder (LRBENCH_HOME)."
            )


def standing_of_file(place: Place, reference: Reference, cell: Cell, settings: TransferSettings) -> Standing | None:
    """`standing` for a snapshot that is not loaded; None for one that is no file, which has no hash until it is."""
    if isinstance(reference, PretrainedWeights):
        return None
    return standing(place, reference, cell, settings, sha256=identity(snapshot_file(reference)))


def standing(
    place: Place,
    reference: Reference,
    cell: Cell,
    settings: TransferSettings,
    *,
    sha256: str,
    data: "Identity | None" = None,
) -> Standing:
    """What is there of a cell; looks at files only, without loading the network.

    Args:
        place: Where results lie, where data is looked for, and whether results from partial data will do.
        reference: The snapshot.
        cell: The cell.
        settings: How it would be transferred.
        sha256: Hash of the snapshot.
        data: What the task's images are now; None to look where they are a user's own.

    Raises:
        InputError: There is no such snapshot or task.
    """
    task = load_task(cell.task)
    path = cell_path(place.workspace, reference, sha256, cell, task)
    result = _whole(path, sha256, cell.protocol)
    # A partial source marks every result of its snapshots; only a partial target asks for another computation.
    if result is None or (
        result.partial and not place.partial and (result.task.partial or not result.snapshot.source_partial)
    ):
        return Standing(path=path, done=False)
    before = dict(result.settings)
    now = settings.record(cell.protocol, task, reference, place.workspace)
    if before.pop("partner", None) != now.pop("partner", None) and before.get("concat") == now.get("concat"):
        # The other snapshot of `concat` is not what it was: out of date.
        return Standing(path=path, done=False)
    described = before.pop("task_sha256", None) == now.pop("task_sha256")
    changes = differences(before, now)
    if not described:
        changes.append(f"the TOML of {task.name} says otherwise now (files, counts, classes or metric)")
    elif images := _of_other_images(result, data or _own_data(cell.task, task, place)):
        changes.append(f"{task.name} {images}")
    return Standing(path=path, done=not changes, otherwise=", ".join(changes) or None)


def _own_data(name: str, task: Task, place: Place) -> "Identity | None":
    if is_shipped(task):
        # Official data does not change; and looking at data takes libraries.
        return None
    from lrbench.data.loading import user_data_identity

    return user_data_identity(name, place.roots)


def _of_other_images(result: Result, data: "Identity | None") -> str | None:
    from lrbench.data.examples import Identity

    if data is None:
        return None
    return data.difference(Identity(fingerprint=result.task.fingerprint, content=result.task.content_sha256))


def _whole(path: Path, sha256: str, protocol: str) -> Result | None:
    """A cell's result where it is whole and of these weights and the protocol's present version."""
    if not path.is_file() or not path.with_suffix(".parquet").is_file():
        return None
    try:
        stored = StoredResult(result=read_result(path), path=path)
        result = stored.result
        if result.snapshot.sha256 != sha256 or result.protocol_version != PROTOCOLS[protocol].version:
            return None
        # Damaged predictions are computed again.
        _ = stored.predictions
    except InputError:
        return None
    return result
