"""Collections that leave a workspace: results with their suites, registrations, split lists and tables."""

import shutil
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lrbench.config import suggestion
from lrbench.config.loading import is_shipped_task
from lrbench.core.errors import InputError
from lrbench.core.files import atomic_folder, atomic_path, temporary_folder, writing
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.leaderboard.frames import load_results
from lrbench.leaderboard.gathering import gather, read_suite
from lrbench.leaderboard.registration import read_registration
from lrbench.sharing import hub
from lrbench.sharing.collection import task_of_list
from lrbench.sharing.places import HubRepository
from lrbench.store.index import Entry, load_index
from lrbench.store.results import result_path, suites_with_results

CARD = """---
tags:
- lrbench
- image-classification
configs:
- config_name: results
  data_files: tables/*.csv
---

# Results of lrbench

Results of transferring pretrained networks to image-classification tasks, computed with
[lrbench](https://pypi.org/project/lrbench-transfer/).

- `tables/`: one row for each result, accuracies in [0, 1].
- `results/<suite>/`: records (JSON), predictions of each test image (Parquet) and the suite as run. Records hold hashes of
  themselves and of the predictions.
- `registrations/`: what was fixed before the first result. `splits/`: lists of images that lrbench drew.

`lrbench results fetch ADDRESS FOLDER` checks and copies them; `lrbench results merge ADDRESS` shows them next to your own.
"""
"""Card of a collection. It names no number, so that it holds after each push."""

_ON_OWN_TASK = "on your own task"
# Reasons to leave a result out. The others also prevent a submission.
_RECEIVED = "received from others"
_UNHASHED = "without a hash of the record (schema 1)"


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """Results to send.

    Attributes:
        workspace: Their workspace.
        cells: Cells of each suite.
        tasks: Tasks of the results.
        left_out: Number of results that are left out, by reason (the end of a sentence).
        problems: Errors of results that could not be read.
        paths: Absolute paths of snapshots outside the workspace, which are part of the results.
    """

    workspace: Workspace
    cells: dict[str, tuple[str, ...]]
    tasks: frozenset[str]
    left_out: Counter[str]
    problems: tuple[str, ...]
    paths: tuple[str, ...]


def select_results(workspace: Workspace, suites: Sequence[str], tasks: Collection[str]) -> Outgoing:
    """Select the results of a workspace that can be sent.

    Results received from others, without a hash, or on the user's own tasks are left out.

    Args:
        workspace: The workspace.
        suites: Names of suites, or `foreign`; empty for all with results.
        tasks: The user's own tasks whose results are sent too.

    Raises:
        InputError: A suite has no results or no readable `suite.json`, or no result can be sent.
    """
    known = suites_with_results(workspace.results)
    for name in suites:
        if name not in known:
            raise InputError(
                f"there are no results of {name!r} in {workspace.results}.{suggestion(name, known)} Suites with results: "
                f"{', '.join(known) or 'none'}."
            )
    left_out: Counter[str] = Counter()
    cells: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    problems: list[str] = []
    paths: set[str] = set()
    sendable = cache(lambda task: task in tasks or is_shipped_task(task))
    for name in dict.fromkeys(suites) or known:
        if name != FOREIGN:
            # A suite's results are useless without the suite.
            read_suite(workspace.results, name)
        index = load_index(workspace.results, name, workspace.cache)
        problems += index.problems
        kept = []
        for entry in index.entries:
            reason = _reason_to_leave_out(entry, is_sendable=sendable(entry.task))
            if reason is None:
                kept.append(entry)
            else:
                left_out[reason] += 1
        if kept:
            cells[name] = tuple(entry.cell for entry in kept)
            used |= {entry.task for entry in kept}
            paths |= {entry.reference for entry in kept if entry.reference.startswith("/")}
    if not cells:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        advice = own_tasks_hint(left_out) or "Compute some with `lrbench transfer`."
        raise InputError(
            f"no result of {workspace.results} can be sent{f' (left out: {reasons})' if reasons else ''}. {advice}"
        )
    return Outgoing(
        workspace=workspace,
        cells=cells,
        tasks=frozenset(used),
        left_out=left_out,
        problems=tuple(problems),
        paths=tuple(sorted(paths)),
    )


def _reason_to_leave_out(entry: Entry, *, is_sendable: bool) -> str | None:
    if entry.origin is not None:
        return _RECEIVED
    if not entry.checked:
        return _UNHASHED
    if not is_sendable:
        return f"{_ON_OWN_TASK} {entry.task}"
    return None


def own_tasks_hint(left_out: Iterable[str]) -> str:
    """Return a sentence on sending results on the user's own tasks; empty if none was left out for this reason."""
    if not any(reason.startswith(_ON_OWN_TASK) for reason in left_out):
        return ""
    return "`lrbench results push --task NAME` sends results on your own task, with the names of its images."


def refuse_unfit(outgoing: Outgoing) -> None:
    """Check that results can be submitted: whole suites on complete data that lrbench ships.

    Results on other tasks of the user are left out.

    Raises:
        InputError: They cannot; names the first reason.
    """
    workspace = outgoing.workspace
    advice = "Use `lrbench results push` for results that are not complete."
    counts = [(outgoing.left_out[reason], reason) for reason in (_RECEIVED, _UNHASHED)]
    unfit = [f"{count:,} results {reason}" for count, reason in counts if count]
    if reasons := [*outgoing.problems, *unfit]:
        raise InputError(f"the results cannot be submitted: {reasons[0].rstrip('.')}. {advice}")
    for name in outgoing.cells:
        if name == FOREIGN:
            if any(entry.partial for entry in load_index(workspace.results, name, workspace.cache).entries):
                raise InputError(f"some results of {name} are on partial data. {advice}")
            continue
        suite = read_suite(workspace.results, name)
        if own := [task for task in (suite.source, *suite.targets) if not is_shipped_task(task)]:
            raise InputError(f"{name} has results on your own tasks {', '.join(own)}. {advice}")
        for evidence in gather(workspace.results, suite, workspace.cache):
            if evidence.partial:
                raise InputError(f"some results of {name} are on partial data. {advice}")
            if evidence.completed < evidence.expected:
                raise InputError(
                    f"{name} has {evidence.completed:,} of {evidence.expected:,} results. Finish it with `lrbench run {name}`. "
                    f"{advice}"
                )


def unregistered(outgoing: Outgoing) -> list[str]:
    """Return the suites without a registration, whose results are exploratory."""
    leaderboard = outgoing.workspace.leaderboard
    return [name for name in outgoing.cells if name != FOREIGN and read_registration(leaderboard, name) is None]


def send(outgoing: Outgoing, place: HubRepository | Path, *, public: bool = False, pull_request: bool = False) -> str:
    """Send results to a place.

    Args:
        outgoing: The results.
        place: A data set of the Hub; a zip file, by its suffix; or a folder. Neither may exist, except for an empty folder.
        public: Whether a new data set is public.
        pull_request: Whether to propose the results to a data set as a pull request.

    Returns:
        Address or path of what was written.

    Raises:
        InputError: The place exists, or the Hub refuses the upload.
        FailureError: The disk is full, or the Hub cannot be reached.
    """
    if isinstance(place, Path):
        if place.suffix.lower() != ".zip":
            with writing(place):
                if place.exists() and (not place.is_dir() or any(place.iterdir())):
                    raise InputError(f"{place} exists and is not an empty folder. Name a new folder or zip file.")
            with atomic_folder(place) as folder:
                _write(outgoing, folder)
            return str(place)
        if place.exists():
            raise InputError(f"{place} exists. Name a new folder or zip file.")
    with temporary_folder(outgoing.workspace.cache, "outgoing") as folder:
        with writing(outgoing.workspace.cache, then="it starts again"):
            _write(outgoing, folder)
        if isinstance(place, Path):
            _zip(folder, place)
            return str(place)
        # A registration that the workspace no longer has is removed, too.
        replaced = [
            pattern
            for name in outgoing.cells
            for pattern in (f"results/{name}/*", f"tables/{name}.csv", f"registrations/{name}.json")
        ]
        return hub.upload(
            place,
            folder,
            message=f"{'Submit' if pull_request else 'Update'} results of {', '.join(outgoing.cells)}"[:200],
            public=public,
            pull_request=pull_request,
            # A pull request adds to what others sent.
            replaced=() if pull_request else replaced,
        )


def _zip(folder: Path, path: Path) -> None:
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))


def _write(outgoing: Outgoing, folder: Path) -> None:
    """Write the files of a collection to a folder."""
    workspace = outgoing.workspace
    for name, cells in outgoing.cells.items():
        results = folder / "results" / name
        results.mkdir(parents=True)
        for cell in cells:
            record = result_path(workspace.results, name, cell)
            for file in (record, record.with_suffix(".parquet")):
                shutil.copyfile(file, results / file.name)
        if name != FOREIGN:
            shutil.copyfile(workspace.results / name / "suite.json", results / "suite.json")
            registration = workspace.registrations / f"{name}.json"
            if registration.is_file():
                (folder / "registrations").mkdir(exist_ok=True)
                shutil.copyfile(registration, folder / "registrations" / registration.name)
        frame = load_results(workspace.root, name)
        paths = {f"leaderboard/results/{name}/{cell}.json" for cell in cells}
        (folder / "tables").mkdir(exist_ok=True)
        table = frame[frame.path.isin(paths)].drop(columns=["origin", "path"])
        table.to_csv(folder / "tables" / f"{name}.csv", index=False, lineterminator="\n")
    lists = [path for path in sorted(workspace.drawn_splits.glob("*.txt")) if task_of_list(path) in outgoing.tasks]
    for path in lists:
        (folder / "splits").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "splits" / path.name)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
