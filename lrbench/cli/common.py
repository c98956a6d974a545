"""Options and printing that the commands share."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from lrbench.core.escaping import for_terminal

if TYPE_CHECKING:
    from rich.console import Console

# Most names in one message.
_SHOWN = 5
# Smallest width of a wrapped column.
_NARROW = 15

SuiteArgument = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or the path of a suite TOML.")]
ArmOption = Annotated[
    str | None, typer.Option("--arm", metavar="ARM", help="Only this arm, and the snapshots it starts from.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="K", help="Only this pretraining seed.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value of the suite, such as schedule.batch=128. Repeatable."
    ),
]


def _warn_if_missing(context: typer.Context, folder: Path | None) -> Path | None:
    from lrbench.core.files import user_path

    # `data fetch` creates it.
    if folder is not None and context.info_name != "fetch" and not user_path(folder).is_dir():
        warn(f"--data-root {folder} is not a folder, so no data is found there.")
    return folder


DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Folder of the data sets. [default: $LRBENCH_DATA, or ./data]",
        callback=_warn_if_missing,
    ),
]
PartialOption = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Accept incomplete data. Results are marked partial, and never ranked with full ones.",
    ),
]
NoCacheOption = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Do not cache prepared images on disk: a split up to 1 GiB stays in memory, a larger one is decoded at each use.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def one_paragraph(start: str, message: str) -> str:
    """Return `start: message`, wrapped to the terminal's width if stderr is one."""
    text = for_terminal(" ".join(f"{start}: {message}".split()))
    if not sys.stderr.isatty():
        return text
    width = max(40, min(100, shutil.get_terminal_size().columns))
    return textwrap.fill(text, width=width, break_long_words=False, break_on_hyphens=False)


def some(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def table(rows: Sequence[Mapping[str, object]], *, wrapped: str, spare: Sequence[str] = ()) -> str:
    """Format rows for stdout, to the width of a terminal.

    Args:
        rows: Text by column, with the same columns in each row.
        wrapped: The column whose text is wrapped if the table is too wide.
        spare: Columns to omit, one after the other, if wrapping is not enough.
    """
    from tabulate import tabulate

    def lay_out(rows: Sequence[Mapping[str, object]], widths: Sequence[int | None] | None = None) -> str:
        return str(tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True, maxcolwidths=widths))

    drawn = lay_out(rows)
    excess = max(map(len, drawn.splitlines())) - shutil.get_terminal_size().columns
    if excess <= 0 or not sys.stdout.isatty():
        return drawn
    room = max(len(str(row[wrapped])) for row in rows) - excess
    if room < _NARROW and spare:
        return table(
            [{name: row[name] for name in row if name != spare[0]} for row in rows], wrapped=wrapped, spare=spare[1:]
        )
    return lay_out(rows, [max(room, _NARROW) if name == wrapped else None for name in rows[0]])


def show(text: str) -> None:
    """Print a command's output on stdout."""
    _print(text, sys.stdout)


def show_bytes(content: bytes) -> None:
    """Write binary output to stdout."""
    sys.stdout.buffer.write(content)


def emit_json(value: Any) -> None:
    """Print `value` as JSON on stdout, in ASCII for any encoding."""
    _print(json.dumps(value, indent=1, sort_keys=True), sys.stdout)


def is_quiet() -> bool:
    """Return whether `--quiet` hides progress and notes."""
    return bool(os.environ.get("LRBENCH_QUIET"))


def complain(message: str) -> None:
    """Print an error or a warning on stderr."""
    _print(message, sys.stderr)


def note(message: str, console: "Console | None" = None) -> None:
    """Print a message on stderr, unless `--quiet` hides it.

    Args:
        message: One or more lines.
        console: Rich's console if it draws progress bars; the message appears above them.
    """
    if is_quiet():
        return
    if console is None:
        _print(message, sys.stderr)
    else:
        console.print(for_terminal(message), markup=False, highlight=False)


def warn(message: str) -> None:
    """Warn on stderr, as one paragraph."""
    complain(one_paragraph("lrbench: warning", message))


def warn_of_random_weights(reference: str) -> None:
    """Warn that a reference of timm names no weights."""
    warn(
        f"{reference} has no tag, so its weights are random. Add a tag to load pretrained weights, as in {reference}.a1_in1k."
    )


def confirmed(question: str) -> bool:
    """Ask on a terminal; return False without one."""
    return sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(question, err=True)


def _print(text: str, stream: TextIO) -> None:
    """Print text with control characters escaped, and with characters that the encoding lacks replaced."""
    encoding = stream.encoding or "utf-8"
    try:
        print(for_terminal(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        # As in `lrbench tasks | head`. Redirected, so that flushing at exit does not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(0 if stream is sys.stdout else 1)
