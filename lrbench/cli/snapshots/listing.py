"""`lrbench snapshots`: what is there, what it says of itself, whether it is sound, and the way in and out."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from lrbench.cli.snapshots_delete import delete

from lrbench.cli.common import DataRootOption, JsonOption, PartialOption, emit_json, note, show, some, warn
from lrbench.cli.usage import Commands

if TYPE_CHECKING:
    from lrbench.models.foreign import ImportedSnapshot

app = Commands(help="List, show, verify, import, export and delete snapshots.")
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
    architecture: Annotated[str, typer.Option("--architecture", metavar="NAME", help="The timm model.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call it, if one. [default: the file's name]")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="KEY",
            help="Which set of weights, if the file holds several, as ema.model.",
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix",
            metavar="WORD",
            help="Import only tensors whose names start with this, as encoder_q.; it is removed.",
        ),
    ] = "",
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without", metavar="WORD", help="Leave out tensors whose names start with this, as fc. Repeatable."
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
            help="Input settings that differ from timm's for the model: size=64, crop_fraction=1.0, "
            "interpolation=bicubic, mean=[0.5, 0.5, 0.5], std, crop_mode. Repeatable.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Import foreign weights. Only tensors are read (no code in the file is run), and all names and shapes must match.

    All mismatches are listed on stdout. The classifier may have any number of classes or be missing.
    """
    from lrbench.config.toml_files import apply_changes
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import FOREIGN, Workspace
    from lrbench.models.foreign import ImportOptions, import_weights
    from lrbench.models.tensors import MismatchError

    one = len(files) == 1
    if name and not one:
        raise InputError(
            f"--name names one snapshot, but {len(files)} files are given. Remove it: each snapshot is named after its file."
        )
    stems = [_stem(file) for file in files]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise InputError(
            f"several of these snapshots would be called {twice!r}. Import them one by one with different --name."
        )
    arguments: dict[str, Any] = {}
    apply_changes(arguments, argument or (), option="--argument")
    input_changes: dict[str, Any] = {}
    apply_changes(input_changes, input_ or (), option="--input")
    options = ImportOptions(
        architecture=architecture,
        arguments=arguments,
        input=input_changes,
        key=key,
        prefix=prefix,
        without=[start for start in without or () if start],
    )
    folder = Workspace.for_writing().checkpoints / FOREIGN
    imported: list[ImportedSnapshot] = []
    for file in files:
        try:
            new = import_weights(file, options, folder, name or _stem(file))
        except InputError as error:
            if one:
                # The error itself shows only the first differences.
                for problem in error.problems if isinstance(error, MismatchError) and not json_ else ():
                    show(problem)
                raise
            warn(str(error))
            continue
        imported.append(new)
        if not json_:
            show(str(new.path))
        _report_import(file, new)
    if json_:
        records = [_record(snapshot) for snapshot in imported]
        emit_json(records[0] if one else records)
    if imported and imported[0].assumed:
        # All files share the architecture and the options.
        which = "the snapshot" if len(imported) == 1 else "the snapshots"
        note(
            f"input assumed from timm's configuration of {architecture}: {_assumed(imported[0])}; if it differs, delete "
            f"{which} and add again with --input, as --input 'mean=[0.5, 0.5, 0.5]' --input 'std=[0.5, 0.5, 0.5]'"
        )
    if failed := len(files) - len(imported):
        raise InputError(f"{failed} of {len(files)} files were not imported; see the warnings above.")
    use = f"transfer --snapshot {FOREIGN}/{new.path.stem}" if one else f"recommend --snapshots {quote(str(folder))}"
    note(f"next: `lrbench {use} --task TASK`")


def _report_import(file: Path, snapshot: "ImportedSnapshot") -> None:
    if snapshot.converted:
        note(f"the names in {file} are another library's and were converted to timm's by timm's own function")
    if snapshot.left_out:
        shown = ", ".join(snapshot.left_out[:3]) + (", …" if snapshot.left_out[3:] else "")
        note(f"{len(snapshot.left_out):,} tensors of {file} are left out ({shown})")
    if snapshot.uncounted:
        note(
            f"{file} lacks num_batches_tracked of {len(snapshot.uncounted)} BatchNorm layers, which torch saves since 0.4.1; "
            "it was set to 0, as torch does"
        )


def _assumed(snapshot: "ImportedSnapshot") -> str:
    """Return the assumed part of the input, as it would be written with --input."""
    values = snapshot.input.model_dump(mode="json") | {"crop_mode": snapshot.input.crop_mode}
    return ", ".join(f"{key}={values[key]}" for key in snapshot.assumed)


def _record(snapshot: "ImportedSnapshot") -> dict[str, Any]:
    from lrbench.core.workspace import FOREIGN

    return {
        "snapshot": f"{FOREIGN}/{snapshot.path.name.removesuffix('.safetensors')}",
        "path": str(snapshot.path),
        "input": snapshot.input.model_dump(mode="json") | {"crop_mode": snapshot.input.crop_mode},
        "input_assumed": snapshot.assumed,
        "left_out": snapshot.left_out,
        "uncounted": snapshot.uncounted,
        "converted": snapshot.converted,
    }


def _stem(file: Path) -> str:
    """Return the name of a file without its suffixes: `checkpoint` of `checkpoint.pth.tar`."""
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
