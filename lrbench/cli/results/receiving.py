"""`lrbench results fetch` and `merge`: results from elsewhere, checked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import note, show, warn

if TYPE_CHECKING:
    from lrbench.sharing.collection import Collection

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

    from lrbench.cli.progress import showing_progress
    from lrbench.core.errors import InputError
    from lrbench.core.files import atomic_folder, user_path
    from lrbench.core.workspace import Workspace
    from lrbench.sharing.collection import open_collection
    from lrbench.sharing.places import parse_place

    place, target = parse_place(source), user_path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder. Name a new one.")
    workspace = Workspace.for_writing()
    with showing_progress("fetch") as control, open_collection(place, workspace.cache, control) as collection:
        with atomic_folder(target) as whole:
            for name in collection.files:
                copy = whole / "leaderboard" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(collection.folder / name, copy)
        show(f"{len(collection.results):,} results are in {target}")
        _report_refused(collection)
    note(f"LRBENCH_HOME={target} lrbench leaderboard writes their pages")


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
    from lrbench.cli.progress import showing_progress
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace
    from lrbench.sharing.collection import open_collection
    from lrbench.sharing.merging import merge_apart, merge_trusted
    from lrbench.sharing.places import collection_name, parse_place

    place, workspace = parse_place(source), Workspace.for_writing()
    shown = name or collection_name(place)
    if len(shown) > 60 or not shown.isprintable():
        raise InputError(
            f"the name {shown[:80]!r} has more than 60 characters or is not printable. Give one with --name."
        )
    with showing_progress("merge") as control, open_collection(place, workspace.cache, control) as collection:
        done = merge_trusted(collection, workspace) if trusted else merge_apart(collection, workspace, shown)
        for suite, count in sorted(done.added.items()):
            if count:
                show(f"added {count:,} results to {suite}")
        if done.updated:
            show(f"replaced {done.updated:,} earlier results of {shown}")
        if done.same:
            show(f"{done.same:,} results are here already")
        for reason, count in done.left_out.items():
            show(f"left out {count:,} {reason}")
        _report_refused(collection)
    note("`lrbench leaderboard` writes the pages")


def _report_refused(collection: "Collection") -> None:
    """Warn of refused files, and fail if there are some.

    Raises:
        FailureError: Some files were refused.
    """
    from lrbench.core.errors import FailureError

    for problem in collection.refused[:20]:
        warn(problem)
    if collection.refused:
        raise FailureError(
            f"{len(collection.refused):,} files were refused; all others were taken. Ask their author for new ones."
        )
