"""`lrbench snapshots`: what is there, what it says of itself, whether it is sound, and the way in and out."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lrbench.cli.common import DataRootOption, JsonOption, PartialOption, emit_json, note, show, some, warn
from lrbench.cli.snapshots_delete import delete
from lrbench.cli.usage import Commands

if TYPE_CHECKING:
    from lrbench.models.foreign import Taken

app = Commands(help="List, show, verify, take in, export and delete snapshots.")
app.command("delete")(delete)

ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REF", help="stage2, arm/stage2, suite/arm/seed1/stage2, or a .safetensors path.")
]
SuiteOption = Annotated[
    str | None,
    typer.Option("--suite", metavar="SUITE", help="Suite of a reference that names none. [default: pretrained last]"),
]


@app.command("list")
def list_(
    suite: Annotated[str | None, typer.Argument(metavar="SUITE", help="Only this suite's.")] = None,
    json_: JsonOption = False,
) -> None:
    """List the snapshots that are here."""
    from lrbench.core.workspace import Workspace

    rows = [_row(path, name) for path, name in _found(Workspace.current(), suite)]
    if json_:
        emit_json(rows)
        return
    from tabulate import tabulate

    if not rows:
        note("there are no snapshots here. `lrbench pretrain` makes some.")
        return
    shown = [
        {
            "snapshot": row["snapshot"],
            "network": row.get("architecture", ""),
            "epoch": "" if row.get("epoch") is None else row["epoch"],
            "rate": "" if row.get("rate") is None else f"{row['rate']:g}",
            "source": "" if row.get("source_accuracy") is None else f"{100 * row['source_accuracy']:.1f} %",
            "note": row.get("problem", ""),
        }
        for row in rows
    ]
    show(tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True))


@app.command("show")
def show_(reference: ReferenceArgument, suite: SuiteOption = None) -> None:
    """Print what a snapshot says of itself, as JSON."""
    from lrbench.store.snapshots import batchnorm_mode, identity, read_metadata

    path = _path(reference, suite)
    metadata = read_metadata(path)
    emit_json(
        {
            **metadata.model_dump(mode="json"),
            "path": str(path),
            "sha256": identity(path),
            "batchnorm": batchnorm_mode(path, metadata),
            "header": "checked" if metadata.checked else "unchecked",
        }
    )


@app.command("verify")
def verify(
    reference: Annotated[
        str | None, typer.Argument(metavar="REF", help="Only this snapshot. [default: all that are here]")
    ] = None,
    suite: SuiteOption = None,
    source: Annotated[
        bool, typer.Option("--source", help="Also evaluate each on its source again, and compare the accuracy.")
    ] = False,
    data_root: DataRootOption = None,
    partial: PartialOption = False,
    json_: JsonOption = False,
) -> None:
    """Load snapshots and check header, names, shapes, values, hash and parent; exit status 1 if any is bad."""
    from lrbench.cli.progress import showing_progress
    from lrbench.core.errors import FailureError, InputError
    from lrbench.core.workspace import Place, Workspace, data_roots
    from lrbench.models.verification import verify_snapshot
    from lrbench.pretrain.source import evaluate_again
    from lrbench.store.snapshots import read_metadata

    workspace = Workspace.current()
    place = Place(workspace=workspace, roots=data_roots(data_root), partial=partial)
    files = _found(workspace, suite) if reference is None else [(_path(reference, suite), reference)]
    problems: dict[str, str] = {}
    unread: dict[str, str] = {}
    unchecked: list[str] = []
    with showing_progress("verify snapshots") as control:
        for path, name in files:
            try:
                verify_snapshot(path)
            except InputError as error:
                problems[name] = str(error)
                continue
            if not read_metadata(path).checked:
                unchecked.append(name)
            try:
                if source and (problem := evaluate_again(path, place, control)):
                    problems[name] = problem
            except InputError as error:
                # Of the source's data, which says nothing of the snapshot.
                unread[name] = str(error)
    if json_:
        emit_json(
            {
                "checked": len(files) - len(unread),
                "bad": problems,
                "not_evaluated": unread,
                "unchecked_header": unchecked,
            }
        )
    else:
        for name, problem in problems.items():
            show(f"{name}: {problem}")
    for problem in dict.fromkeys(unread.values()):
        warn(problem)
    if unchecked:
        warn(
            f"unchecked header in {len(unchecked)} of {len(files)} snapshots ({', '.join(unchecked[:3])}"
            f"{', …' if unchecked[3:] else ''}): headers had no hash when they were written, so changes go unnoticed."
        )
    if problems:
        raise FailureError(f"{len(problems)} of {len(files)} snapshots are bad.")
    if unread:
        raise InputError(
            f"{len(unread)} of {len(files)} snapshots could not be evaluated on their source, for the reason above; header, "
            "names, shapes and values of all are sound."
        )
    if not files:
        note(f"there are no snapshots in {workspace.checkpoints.absolute()}: nothing was checked")
        return
    checked = "header, names, shapes, finite values, hash, parent where one is named" + (
        ", accuracy on the source" if source else ""
    )
    note(f"{len(files)} snapshots are sound: {checked}")


@app.command("add")
def add(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Files of weights: .safetensors, .pth, .pt, .bin or another."),
    ],
    architecture: Annotated[str, typer.Option("--architecture", metavar="NAME", help="The timm model they are of.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call it, if one. [default: the file's name]")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="KEY",
            help="Which weights are meant, where the file holds several: as ema.model, dots between.",
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix",
            metavar="WORD",
            help="Only tensors whose names begin with this, as encoder_q., which is taken off.",
        ),
    ] = "",
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without", metavar="WORD", help="Leave out tensors whose names begin with this, as fc. Repeatable."
        ),
    ] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option(
            "--argument", metavar="KEY=VALUE", help="An argument of timm.create_model, as img_size=256. Repeatable."
        ),
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="KEY=VALUE",
            help="What of the input was otherwise than timm says of the model: size=64, crop_fraction=1.0, "
            "interpolation=bicubic, mean=[0.5, 0.5, 0.5], std, crop_mode. Repeatable.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Take in foreign weights: tensors only (nothing in the file is run), and every name and shape must fit.

    Where some do not, all that do not are listed on stdout. A classifier may be there, of any number of classes, or not.
    """
    from lrbench.config.toml_files import apply_changes
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import FOREIGN, Workspace
    from lrbench.models.foreign import Origin, take_in
    from lrbench.models.tensors import MismatchError

    one = len(files) == 1
    if name and not one:
        raise InputError(
            f"--name says what to call one file, and here are {len(files)}. Leave it out: each keeps its own name."
        )
    stems = [_stem(file) for file in files]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise InputError(
            f"several of these files would be called {twice!r}. Take them in one by one, each with a --name of its own."
        )
    arguments: dict[str, Any] = {}
    apply_changes(arguments, argument or (), option="--argument")
    said: dict[str, Any] = {}
    apply_changes(said, input_ or (), option="--input")
    origin = Origin(
        architecture=architecture,
        arguments=arguments,
        input=said,
        key=key,
        prefix=prefix,
        without=[each for each in without or () if each],
    )
    folder = Workspace.for_writing().checkpoints / FOREIGN
    taken: list[Taken] = []
    for file in files:
        try:
            new = take_in(file, origin, folder, name or _stem(file))
        except InputError as error:
            if one:
                # The whole list, for whoever has to find out why; the error's paragraph holds its beginning.
                for problem in error.problems if isinstance(error, MismatchError) and not json_ else ():
                    show(problem)
                raise
            warn(str(error))
            continue
        taken.append(new)
        if not json_:
            show(str(new.path))
        _say_what_was_done(file, new)
    if json_:
        records = [_taken_in(each) for each in taken]
        emit_json(records[0] if one else records)
    if taken and taken[0].assumed:
        # It follows from the architecture and the options, which are those of all.
        which = "the snapshot" if len(taken) == 1 else "the snapshots"
        note(
            f"input assumed, as timm says of {architecture}: {_assumed(taken[0])}; where it was otherwise, delete {which} and "
            "add again with --input, as --input 'mean=[0.5, 0.5, 0.5]' --input 'std=[0.5, 0.5, 0.5]'"
        )
    if failed := len(files) - len(taken):
        raise InputError(f"{failed} of {len(files)} files were not taken in; the warnings above say why.")
    use = f"transfer --snapshot {FOREIGN}/{new.path.stem}" if one else f"recommend --snapshots {quote(str(folder))}"
    note(f"go on with `lrbench {use} --task TASK`")


def _say_what_was_done(file: Path, taken: "Taken") -> None:
    if taken.converted:
        note(f"the names in {file} are another library's; they were turned into timm's by timm's own conversion")
    if taken.left_out:
        shown = ", ".join(taken.left_out[:3]) + (", …" if taken.left_out[3:] else "")
        note(f"{len(taken.left_out):,} tensors of {file} are left out ({shown})")
    if taken.uncounted:
        note(
            f"{file} lacks num_batches_tracked of {len(taken.uncounted)} BatchNorm layers, which torch saves since 0.4.1; it "
            "was set to 0, as torch does"
        )


def _assumed(taken: "Taken") -> str:
    """What of the input was assumed, as it would be said with --input."""
    values = taken.input.model_dump(mode="json") | {"crop_mode": taken.input.crop_mode}
    return ", ".join(f"{key}={values[key]}" for key in taken.assumed)


def _taken_in(taken: "Taken") -> dict[str, Any]:
    from lrbench.core.workspace import FOREIGN

    return {
        "snapshot": f"{FOREIGN}/{taken.path.name.removesuffix('.safetensors')}",
        "path": str(taken.path),
        "input": taken.input.model_dump(mode="json") | {"crop_mode": taken.input.crop_mode},
        "input_assumed": taken.assumed,
        "left_out": taken.left_out,
        "uncounted": taken.uncounted,
        "converted": taken.converted,
    }


def _stem(file: Path) -> str:
    """What a file is called without its ending: `checkpoint` of `checkpoint.pth.tar`."""
    return Path(file.name.removesuffix(".tar")).stem


@app.command("export")
def export(
    reference: ReferenceArgument,
    to: Annotated[
        Literal["timm", "hf"],
        typer.Option(
            "--to", help="timm: a folder for `local-dir:`; hf: the same with a model card, to push to the Hub."
        ),
    ] = "timm",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to. [default: a folder named after the snapshot]")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="TASK",
            help="Name of a task of yours whose results the model card shows too. Repeatable. [default: only those of tasks "
            "that lrbench ships]",
        ),
    ] = None,
    suite: SuiteOption = None,
) -> None:
    """Write a snapshot as a folder that `timm.create_model("local-dir:DIR", pretrained=True)` loads."""
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard.model_card import model_card, transfer_table
    from lrbench.models.export import export_snapshot
    from lrbench.store.snapshots import read_metadata

    path = _path(reference, suite)
    folder = out or Path("-".join([*path.parts[-4:-1], path.stem]))
    if to != "hf":
        export_snapshot(path, folder)
        show(str(folder))
        return
    workspace = Workspace.current()
    transfers, left_out = transfer_table(path, read_metadata(path), workspace, tasks or ())
    export_snapshot(path, folder, lambda header, statistics: model_card(header, statistics, workspace, transfers))
    if left_out:
        note(f"the model card leaves out results on tasks of yours: {some(left_out)} (--task NAME includes them)")
    show(str(folder))


def _path(reference: str, suite: str | None) -> Path:
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace
    from lrbench.store.references import PretrainedWeights, missing_message, resolve_reference

    parsed = resolve_reference(reference, Workspace.current(), suite=suite)
    if isinstance(parsed, PretrainedWeights):
        raise InputError(f"{reference} is no file here; name a snapshot of a suite, or a .safetensors path.")
    if not parsed.path.is_file():
        raise InputError(f"{missing_message(parsed)} `lrbench snapshots list` lists what is here.")
    return parsed.path


def _found(workspace: Any, suite: str | None) -> list[tuple[Path, str]]:
    from lrbench.config import suggestion
    from lrbench.core.errors import InputError
    from lrbench.store.snapshots import snapshot_files

    root = workspace.checkpoints
    if suite is not None and not (root / suite).is_dir():
        known = sorted(path.name for path in root.glob("*/") if any(path.glob("**/*.safetensors")))
        listed = f" There are those of {', '.join(known)}." if known else " `lrbench pretrain` makes some."
        raise InputError(
            f"there are no snapshots of a suite {suite!r} in {root.absolute()}.{suggestion(suite, known)}{listed}"
        )
    folders = [root / suite] if suite else sorted(root.glob("*/"))
    paths = sorted(path for folder in folders for path in snapshot_files(folder))
    return [(path, str(path.relative_to(root).with_suffix(""))) for path in paths]


def _row(path: Path, name: str) -> dict[str, Any]:
    from lrbench.core.errors import InputError
    from lrbench.store.snapshots import read_metadata

    try:
        metadata = read_metadata(path)
    except InputError as error:
        return {"snapshot": name, "path": str(path), "problem": str(error)}
    keep = {"architecture", "epoch", "update", "rate", "source_accuracy", "suite", "arm", "stage", "seed"}
    return {"snapshot": name, "path": str(path), **metadata.model_dump(mode="json", include=keep)}
