"""`lrbench data`: download, check and prepare a task's images."""

from typing import Annotated

import typer

from lrbench.cli.common import DataRootOption, JsonOption, PartialOption, emit_json, note, show, warn
from lrbench.cli.usage import Commands

app = Commands(help="Download, verify and prepare a task's images.")

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task's name, or the path of a task TOML.")]


@app.command("fetch")
def fetch(task: TaskArgument, data_root: DataRootOption = None) -> None:
    """Download a task's archives, check their hashes, and unpack them into the data root."""
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
        bool, typer.Option("--partial", help="Accept incomplete data; fail only on bad images.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Open every image of a task, and check the number of images by class and split.

    Exit status 1 if an image is bad; 2 if the data is incomplete, unless --partial is given.
    """
    from lrbench.cli.progress import showing_progress
    from lrbench.config import load_task
    from lrbench.core.errors import FailureError, InputError
    from lrbench.core.files import sha256_bytes
    from lrbench.core.wording import counted
    from lrbench.core.workspace import data_roots
    from lrbench.data.loading import describe_unused, load_task_data
    from lrbench.data.orientation import needs_orientation, orientation_error
    from lrbench.data.verify import verify as verify_data

    chosen = load_task(task)
    # Bad images are reported for incomplete data too.
    data = load_task_data(chosen, data_roots(data_root), partial=True)
    with showing_progress(f"verify {chosen.name}") as control:
        report = verify_data(data, control)
    if json_:
        emit_json(
            {
                "task": chosen.name,
                "fingerprint": data.fingerprint,
                "classes": len(data.classes),
                "counts": report.counts,
                "pinned": {
                    "classes": chosen.classes,
                    "counts": dict(chosen.counts),
                    "least": dict(chosen.least),
                    "most": dict(chosen.most),
                },
                "by_class": report.by_class,
                "split_sha256": sha256_bytes(data.drawn_list.encode()) if data.drawn_list else None,
                "partial": data.partial,
                "problems": list(data.problems),
                "unused": list(data.unused),
                "bad": [{"split": bad.split, "name": bad.name, "reason": bad.reason} for bad in report.bad],
                "repeated": [
                    {"test": pair.name, "split": pair.split, "other": pair.other, "same_class": pair.same_class}
                    for pair in report.repeated
                ],
                "orientation": chosen.orientation,
                "oriented": {split: len(ids) for split, ids in report.oriented.items()},
            }
        )
    else:
        counts = ", ".join(f"{count:,} {split}" for split, count in report.counts.items())
        show(f"{chosen.name}: {len(data.classes):,} classes, {counts} images")
        for split, by_class in report.by_class.items():
            fewest, most = (choose(by_class, key=by_class.__getitem__) for choose in (min, max))
            if by_class[fewest] == by_class[most]:
                show(f"{split}: {by_class[most]:,} images per class")
            else:
                show(f"{split}: from {by_class[fewest]:,} ({fewest}) to {by_class[most]:,} ({most}) images per class")
        for split, members in data.splits.items():
            if members.groups is not None:
                show(f"{split}: {counted(len(set(members.groups)), 'group')}, shared with no other split")
        show(f"fingerprint of classes, image names and splits: sha256 {data.fingerprint}")
        if unused := describe_unused(data):
            note(unused)
        for problem in data.problems:
            show(f"incomplete: {problem}")
        for bad in report.bad:
            show(f"bad {bad.split} image {bad.name}: {bad.reason}")
        for pair in report.repeated:
            label = "" if pair.same_class else ", of another class"
            show(f"test image {pair.name} equals {pair.split} image {pair.other}, pixel by pixel{label}")
        for split, ids in report.oriented.items():
            applied = "turned upright" if chosen.upright else "used as stored"
            show(
                f"{len(ids):,} {split} images have an orientation in their metadata and are {applied} (first: {ids[0]})"
            )
    if report.oriented and needs_orientation(chosen):
        images = ", ".join(f"{len(ids):,} {split}" for split, ids in report.oriented.items())
        warn(str(orientation_error(chosen, f"{images} images")))
    if report.repeated:
        count, total = len(report.repeated), report.counts["test"]
        warn(
            f"{count:,} of {total:,} test images of {chosen.name} are also training images, pixel by pixel, so its accuracies "
            "are too high. lrbench does not change official splits; in your own data, remove one of each pair."
        )
    if report.bad:
        raise FailureError(
            f"{len(report.bad):,} images of {chosen.name} cannot be read or are damaged. "
            "Replace them from the original archive, or remove them from your own data."
        )
    if data.problems and not partial:
        raise InputError(
            f"The data of {chosen.name} is incomplete: {'; '.join(data.problems)}. All existing images can be read."
        )
    note(f"all {'existing ' if data.problems else ''}images of {chosen.name} can be read")


@app.command("prepare")
def prepare(
    task: TaskArgument,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", metavar="SUITE", help="Suite whose input size is used, or of the snapshot. [default: quick]"
        ),
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option(
            "--snapshot",
            metavar="REF",
            help="Use the input size of this snapshot, named as in `lrbench transfer`.",
        ),
    ] = None,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
) -> None:
    """Decode and resize a task's images into the cache, ahead of their first use.

    A sample shows whether plain pixels or JPEG would feed training faster from this disk; the task's prepare.format decides.
    """
    from lrbench.cli.progress import showing_progress
    from lrbench.config import load_task
    from lrbench.core.machine import available_cores, total_memory
    from lrbench.core.workspace import Workspace, data_roots
    from lrbench.data.examples import EvaluationTransform
    from lrbench.data.loading import describe_unused, load_task_data
    from lrbench.data.prepare import prepare_splits
    from lrbench.data.storage import measure_storage
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
            _, prepared = prepare_splits(data, [split], transform, cache=workspace.pixels, control=control)
        pixels = prepared[split]
        note(f"{chosen.name} {split}: {len(pixels):,} images at {settings.size} px are in {workspace.pixels}")
        if split == "train":
            storage = measure_storage(
                pixels,
                workspace.pixels,
                quality=chosen.prepare.quality,
                cores=available_cores(),
                memory=total_memory(),
            )
            note(storage.words(chosen.prepare.format))
