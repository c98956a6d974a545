"""`lrbench tasks new`: write the task file of a folder of images."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lrbench.cli.common import note, show, warn

if TYPE_CHECKING:
    from lrbench.data.new_task import Guess


def new(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Your images: a folder for each class, train and test folders with these, or images with one table (.csv).",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the task. [default: made from the folder's]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="File to write. [default: NAME.toml]")
    ] = None,
    metric: Annotated[
        Literal["top1", "mean_per_class"] | None,
        typer.Option("--metric", help="Headline metric. [default: mean_per_class if classes differ much in size]"),
    ] = None,
    test: Annotated[
        float | None, typer.Option("--test", metavar="SHARE", help="Share of each class to test on. [default: 0.2]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="K", help="Seed of the drawn split.")] = 0,
    group_column: Annotated[
        str | None,
        typer.Option("--group-column", metavar="COLUMN", help="Column of the patient or scene of each image."),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            "--group-pattern",
            metavar="REGEX",
            help="The patient or scene in each image's path: the first part in parentheses, as in '(p[0-9]+)_'.",
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="COLUMN", help="Column of the images' paths. [default: the first]")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="Column of the classes. [default: the second]")
    ] = None,
    orientation: Annotated[
        Literal["upright", "stored"],
        typer.Option(
            "--orientation", help="upright: turn photographs as viewers show them. stored: use pixels as stored."
        ),
    ] = "upright",
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; use the options and their defaults.")] = False,
) -> None:
    """Write a task file for your own images, and check it against them.

    On a terminal, it asks for what the options leave open.
    """
    from lrbench.config.registry import find_registered_tasks
    from lrbench.config.strict import name_problem
    from lrbench.core.errors import InputError
    from lrbench.core.files import user_path
    from lrbench.data.new_task import guess_layout, suggest_name

    folder = user_path(folder)
    guess = guess_layout(folder)
    asks = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    note(f"layout: {guess.layout}" + (f", table {guess.files['file']}" if guess.columns else ""))
    if name is None:
        name = _ask("Name of the task", suggest_name(folder)) if asks else suggest_name(folder)
    if problem := name_problem(name):
        raise InputError(f"the task's name {problem}. Choose another one with --name.")
    if (twin := find_registered_tasks().get(name)) is not None:
        raise InputError(f"there is already a task called {name!r} ({twin.path}). Choose another name with --name.")
    target = user_path(output) if output is not None else Path(f"{name}.toml")
    if target.exists():
        raise InputError(f"{target} exists. Delete it, or name another file with --output.")
    if asks and guess.columns:
        image = image or _ask(f"Column of the images ({', '.join(guess.columns)})", guess.columns[0])
        label = label or _ask("Column of the classes", guess.columns[min(1, len(guess.columns) - 1)])
    if asks and guess.layout != "split-folders":
        if test is None:
            # The prompt asks again until the answer is a number.
            test = float(typer.prompt("Share of each class to test on", default=0.2, type=float, err=True))
        if group_column is None and group_pattern is None:
            group_column, group_pattern = _ask_group(guess)
    given = {"column": group_column, "pattern": group_pattern}
    group = {key: value for key, value in given.items() if value is not None} or None
    if guess.layout == "split-folders" and (test is not None or group is not None):
        raise InputError(
            f"{folder} has folders for its splits, so --test and groups have no meaning. Omit these options."
        )
    settings: dict[str, Any] = {
        "name": name,
        "test": 0.2 if test is None else test,
        "seed": seed,
        "group": group,
        "image": image,
        "label": label,
        "orientation": orientation,
    }
    _write(folder, guess, target, metric, settings, asks=asks)
    show(str(target))
    note(
        f"`lrbench data verify {target}` opens every image; `lrbench transfer --snapshot REF --task {target}` uses the task"
    )


def _ask(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default, err=True)).strip()


def _ask_group(guess: "Guess") -> tuple[str | None, str | None]:
    """Return the column or pattern of the groups; None for both without groups."""
    if not typer.confirm("Do several images show one patient, scene or object?", default=False, err=True):
        return None, None
    if guess.columns:
        return _ask(f"Column that names it ({', '.join(guess.columns)})", guess.columns[-1]), None
    return None, _ask("Regular expression that finds it in the path, in parentheses", "([a-z]+[0-9]+)_")


def _write(
    folder: Path, guess: "Guess", target: Path, metric: str | None, settings: dict[str, Any], *, asks: bool
) -> None:
    """Write the task file if the images agree with it.

    Raises:
        InputError: They do not, or an option has a wrong value.
    """
    import tempfile

    import numpy as np

    from lrbench.config import load_task
    from lrbench.core.errors import InputError
    from lrbench.core.files import write_text
    from lrbench.data.loading import describe_unused, load_task_data
    from lrbench.data.new_task import suggest_metric, task_toml

    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / target.name
        write_text(draft, task_toml(folder, guess, metric="top1", **settings))
        try:
            data = load_task_data(load_task(str(draft)), (folder,), partial=True)
        except InputError as error:
            raise InputError(f"no task file is written: {str(error).removeprefix(f'{draft}: ')}") from error
    train = np.bincount(data.splits["train"].labels, minlength=len(data.classes))
    suggested = suggest_metric(dict(zip(data.classes, train.tolist(), strict=True)))
    if metric is None:
        metric = _ask("Headline metric (top1 or mean_per_class)", suggested) if asks else suggested
    write_text(target, task_toml(folder, guess, metric=metric, **settings))
    # An answer that is no metric is an error of the task file.
    try:
        load_task(str(target))
    except Exception:
        target.unlink()
        raise
    counts = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    per_class = f"{train.min():,}" if train.min() == train.max() else f"{train.min():,} to {train.max():,}"
    note(f"{len(data.classes):,} classes, {counts} images; {per_class} training images per class")
    if unused := describe_unused(data):
        note(unused)
    for problem in data.problems:
        warn(f"{problem}.")
