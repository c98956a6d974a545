"""`lrbench snapshots add`: import foreign weights as snapshots."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbench.cli.common import JsonOption, emit_json, note, show, warn

if TYPE_CHECKING:
    from lrbench.models.foreign import ImportedSnapshot


def add(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Files of weights, such as .safetensors, .pth, .pt or .bin."),
    ],
    architecture: Annotated[
        str, typer.Option("--architecture", metavar="NAME", help="timm architecture of the weights.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of a single snapshot. [default: the file's name]")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="KEY",
            help="Path of the weights within a file that holds several, such as ema.model.",
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix",
            metavar="WORD",
            help="Import only tensors whose names start with this, such as encoder_q., and remove it from the names.",
        ),
    ] = "",
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without", metavar="WORD", help="Leave out tensors whose names start with this, such as fc. Repeatable."
        ),
    ] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option(
            "--argument", metavar="KEY=VALUE", help="Argument of timm.create_model, such as img_size=256. Repeatable."
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
    """Import weights from other sources as snapshots.

    Only tensors are read; no code in a file is run. All names and shapes must match the architecture, except the classifier,
    which may have any number of classes or be missing. Mismatches are listed on stdout.
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
            f"input assumed from timm's configuration of {architecture}: {_assumed(imported[0])}; if it differs, remove "
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
