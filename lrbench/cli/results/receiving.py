"""`lrbench results fetch` and `merge`: results from elsewhere, checked."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import note, show, warn
from lrbench.core.wording import counted

if TYPE_CHECKING:
    from lrbench.sharing.collection import Collection

_MOST_WARNINGS = 20

Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC",
        help="A folder or .zip file of `results push`, a workspace, or hf://datasets/USER/NAME, also with @REVISION.",
    ),
]


def fetch(source: Source, folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")]) -> None:
    """Check results and copy them to a new workspace, apart from yours.

    `LRBENCH_HOME=DIR lrbench leaderboard` writes their pages.
    """
    import shutil

    from lrbench.cli.progress import progress_view
    from lrbench.core.errors import FailureError, InputError
    from lrbench.core.files import atomic_folder, user_path
    from lrbench.core.workspace import Workspace
    from lrbench.sharing.collection import open_collection
    from lrbench.sharing.places import parse_place

    place, target = parse_place(source), user_path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder. Name a new one.")
    workspace = Workspace.for_writing()
    with progress_view("fetch") as control, open_collection(place, workspace.cache, control) as collection:
        if not collection.results:
            _warn_of_refused(collection)
            raise FailureError(f"no result of {source} can be used. Ask its author for new files.")
        with atomic_folder(target) as whole:
            for name in collection.files:
                copy = whole / "leaderboard" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(collection.folder / name, copy)
    show(f"wrote {counted(len(collection.results), 'result')} to {target}")
    note(f"`LRBENCH_HOME={shlex.quote(str(target))} lrbench leaderboard` writes their pages")
    _fail_if_refused(collection)


def merge(
    source: Source,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Name that marks the results. [default: that of the data set, folder or file]",
        ),
    ] = None,
    trusted: Annotated[
        bool,
        typer.Option(
            "--trusted",
            help="Add the results to the tables of their suites. Only for your own results from other machines, or those of "
            "people whose work you vouch for.",
        ),
    ] = False,
) -> None:
    """Check results and show them next to yours, marked and never ranked with them. Your own results are never replaced.

    Without --trusted, results are of unknown origin: lrbench can check that files are whole, but not who computed them, or
    from which weights. They are stored in leaderboard/results/foreign/.
    """
    from lrbench.cli.progress import progress_view
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace
    from lrbench.sharing.collection import open_collection
    from lrbench.sharing.merging import merge_apart, merge_trusted
    from lrbench.sharing.places import collection_name, parse_place

    place, workspace = parse_place(source), Workspace.for_writing()
    shown = collection_name(place) if name is None else name.strip()
    if not 0 < len(shown) <= 60 or not shown.isprintable():
        raise InputError(
            f"the name {shown[:80]!r} is empty, has more than 60 characters, or is not printable. Give one with --name."
        )
    with progress_view("merge") as control, open_collection(place, workspace.cache, control) as collection:
        done = (
            merge_trusted(collection, workspace, control)
            if trusted
            else merge_apart(collection, workspace, shown, control)
        )
    for suite, count in sorted(done.added.items()):
        show(f"added {counted(count, 'result')} to {suite}")
    if done.updated:
        show(f"replaced {counted(done.updated, 'result')} received earlier from {shown}")
    if done.same:
        show(f"already in this workspace: {counted(done.same, 'result')}")
    for reason, count in done.left_out.items():
        show(f"left out {counted(count, 'result')} {reason}")
    for sentence in done.notes:
        note(sentence)
    if done.added or done.updated:
        note("`lrbench leaderboard` writes the pages")
    _fail_if_refused(collection)


def _warn_of_refused(collection: "Collection") -> None:
    for problem in collection.refused[:_MOST_WARNINGS]:
        warn(problem)
    if len(collection.refused) > _MOST_WARNINGS:
        warn(f"{len(collection.refused) - _MOST_WARNINGS:,} more files were refused.")


def _fail_if_refused(collection: "Collection") -> None:
    """Warn of refused files, and fail if there are some.

    Raises:
        FailureError: Some files were refused.
    """
    from lrbench.core.errors import FailureError

    _warn_of_refused(collection)
    if collection.refused:
        raise FailureError("some files were refused; the others were taken. Ask their author for new ones.")
