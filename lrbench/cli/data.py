"""`lrbench data`: fetch, verify and prepare a task's images."""

from typing import Annotated

import typer

from lrbench.cli.common import DataRootOption, JsonOption, PartialOption, emit_json, note, show, warn
from lrbench.cli.usage import Commands

app = Commands(help="Fetch, verify and prepare a task's images.")

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task's name, or the path of a task TOML.")]


@app.command("fetch")
def fetch(task: TaskArgument, data_root: DataRootOption = None) -> None:
    """Download a task's archives, check them, and unpack them under the data root."""
    from lrbench.cli.progress import showing_progress
    from lrbench.config import load_task
    from lrbench.core.workspace import data_roots
    from lrbench.data.fetch import fetch as fetch_task

    chosen, roots = load_task(task), data_roots(data_root)
    with showing_progress(f"fetch {chosen.name}") as control:
        fetch_task(chosen, roots[0], control, roots=roots[1:])


@app.command("verify")
def verify(
    task: TaskArgument,
    data_root: DataRootOption = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Do not fail because the data is incomplete; bad images still do.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Count a task's images by class and split against what it pins, and open every one.

    Exit status 1 if any is bad; 2 if all can be read but the data is incomplete and --partial is not given.
    """
    from lrbench.cli.progress import showing_progress
    from lrbench.config import load_task
    from lrbench.core.errors import FailureError, InputError
    from lrbench.core.files import sha256_bytes
    from lrbench.core.workspace import data_roots
    from lrbench.data.loading import describe_unused, load_task_data
    from lrbench.data.orientation import needs_orientation, orientation_error
    from lrbench.data.verify import verify as verify_data

    chosen = load_task(task)
    # Also of half of the data a user wants to know what is bad.
    data = load_task_data(chosen, data_roots(data_root), partial=True)
    with showing_progress(f"verify {chosen.name}") as control:
        found = verify_data(data, control)
    if json_:
        emit_json(
            {
                "task": chosen.name,
                "fingerprint": data.fingerprint,
                "classes": len(data.classes),
                "counts": found.counts,
                "pinned": {
                    "classes": chosen.classes,
                    "counts": dict(chosen.counts),
                    "least": dict(chosen.least),
                    "most": dict(chosen.most),
                },
                "by_class": found.by_class,
                "split_sha256": sha256_bytes(data.drawn_list.encode()) if data.drawn_list else None,
                "partial": data.partial,
                "problems": list(data.problems),
                "unused": list(data.unused),
                "bad": [{"split": bad.split, "name": bad.name, "reason": bad.reason} for bad in found.bad],
                "repeated": [
                    {"test": each.name, "split": each.split, "other": each.other, "same_class": each.same_class}
                    for each in found.repeated
                ],
                "orientation": chosen.orientation,
                "oriented": {split: len(ids) for split, ids in found.oriented.items()},
            }
        )
    else:
        counts = ", ".join(f"{count:,} {split}" for split, count in found.counts.items())
        show(f"{chosen.name}: {len(data.classes):,} classes, {counts} images")
        for split, by_class in found.by_class.items():
            fewest, most = (choose(by_class, key=by_class.__getitem__) for choose in (min, max))
            show(f"{split}: from {by_class[fewest]:,} ({fewest}) to {by_class[most]:,} ({most}) images a class")
        show(f"fingerprint of classes, images' names and splits: sha256 {data.fingerprint}")
        if unused := describe_unused(data):
            note(unused)
        for problem in data.problems:
            show(f"incomplete: {problem}")
        for bad in found.bad:
            show(f"bad {bad.split} image {bad.name}: {bad.reason}")
        for each in found.repeated:
            label = "" if each.same_class else ", under another class"
            show(f"test image {each.name} is {each.split} image {each.other} too, pixel by pixel{label}")
        for split, ids in found.oriented.items():
            applied = "turned upright" if chosen.upright else "used as they are stored"
            show(
                f"{len(ids):,} {split} images state an orientation in their metadata and are {applied} (first: {ids[0]})"
            )
    if found.oriented and needs_orientation(chosen):
        images = ", ".join(f"{len(ids):,} {split}" for split, ids in found.oriented.items())
        warn(str(orientation_error(chosen, f"{images} images")))
    if found.repeated:
        count, total = len(found.repeated), found.counts["test"]
        warn(
            f"{count:,} of {total:,} test images of {chosen.name} are training images too, pixel by pixel, so that its "
            "accuracies flatter. An official split is left as it is; in data of yours, leave one of each pair out."
        )
    if found.bad:
        raise FailureError(
            f"{len(found.bad):,} images of {chosen.name} cannot be read or are damaged. "
            "Replace them from the original archive, or take them out where the data are your own."
        )
    if data.problems and not partial:
        raise InputError(
            f"the data of {chosen.name} is incomplete: {'; '.join(data.problems)}. All existing images can be read."
        )
    note(f"every image of {chosen.name}{' that is there' if data.problems else ''} can be read")


@app.command("prepare")
def prepare(
    task: TaskArgument,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", metavar="SUITE", help="Suite whose input is prepared, or of the snapshot. [default: quick]"
        ),
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(
            "--snapshot",
            metavar="REF",
            help="In its place, a snapshot as in `lrbench transfer`, whose input is prepared.",
        ),
    ] = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
) -> None:
    """Decode and resize a task's images into the cache, as the first use of the task would."""
    from lrbench.cli.progress import showing_progress
    from lrbench.config import load_task
    from lrbench.core.workspace import Workspace, data_roots
    from lrbench.data.examples import EvaluationTransform
    from lrbench.data.loading import describe_unused, load_task_data
    from lrbench.data.prepare import prepare_splits
    from lrbench.store.references import resolve_reference
    from lrbench.store.suites import suite_in_use

    workspace = Workspace.for_writing()
    chosen = load_task(task)
    if snapshot is None:
        settings = suite_in_use(workspace, suite or "quick").input
    else:
        from lrbench.models.loading import input_for

        settings = input_for(resolve_reference(snapshot, workspace, suite=suite))
    data = load_task_data(chosen, data_roots(data_root), partial=partial)
    if unused := describe_unused(data):
        note(unused)
    transform = EvaluationTransform.of(settings)
    for split in data.splits:
        with showing_progress(f"prepare {chosen.name} {split}") as control:
            _, prepared = prepare_splits(data, [split], transform, cache=workspace.cache, control=control)
        pixels = prepared[split]
        note(f"{chosen.name} {split}: {len(pixels):,} images at {settings.size} px are in {workspace.cache}")
