"""What the commands share: options spelt one way, and everything that is printed."""

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

# Names in one message.
_SHOWN = 5
# Characters of a column of text, at least.
_NARROW = 15

SuiteArgument = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or the path of a suite TOML.")]
ArmOption = Annotated[
    str | None, typer.Option("--arm", metavar="ARM", help="Only this arm, and the snapshots that it starts from.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="K", help="Only this pretraining seed.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value of the suite, such as schedule.batch=128. Repeatable."
    ),
]


def _warn_of_no_folder(context: typer.Context, folder: Path | None) -> Path | None:
    from lrbench.core.files import user_path

    # `data fetch` makes it.
    if folder is not None and context.info_name != "fetch" and not user_path(folder).is_dir():
        warn(f"--data-root {folder} is not a folder, so no data is found there.")
    return folder


DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Folder that holds the data sets. [default: $LRBENCH_DATA, or ./data]",
        callback=_warn_of_no_folder,
    ),
]
PartialOption = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Accept incomplete data. Every result is marked partial and never ranked with full ones.",
    ),
]
NoCacheOption = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Store no prepared pixels on disk: a split of up to 1 GiB is held in memory, a larger one decoded at each use.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def one_paragraph(start: str, message: str) -> str:
    """`start: message`, wrapped to the terminal's width where stderr is one."""
    text = for_terminal(" ".join(f"{start}: {message}".split()))
    if not sys.stderr.isatty():
        return text
    width = max(40, min(100, shutil.get_terminal_size().columns))
    return textwrap.fill(text, width=width, break_long_words=False, break_on_hyphens=False)


def some(names: Sequence[str]) -> str:
    """The first names of a list that may be long, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def table(rows: Sequence[Mapping[str, object]], *, wrapped: str, spare: Sequence[str] = ()) -> str:
    """Lay out rows for stdout; on a terminal, no wider than it is.

    Args:
        rows: Text by column, the same columns in each.
        wrapped: The column whose text is wrapped where the table is too wide.
        spare: Columns that are left out, one after the other, where that leaves too little room.
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
    """Write binary output to stdout, which is no terminal."""
    sys.stdout.buffer.write(content)


def emit_json(value: Any) -> None:
    """Print `value` as JSON on stdout, in ASCII: any terminal or encoding takes it."""
    _print(json.dumps(value, indent=1, sort_keys=True), sys.stdout)


def note(message: str, console: "Console | None" = None) -> None:
    """Print a message on stderr, so that it does not mix with output that a program reads.

    Args:
        message: One or more lines.
        console: Rich's console where it draws progress bars, above which the message goes; None where there are none.
    """
    if console is None:
        _print(message, sys.stderr)
    else:
        console.print(for_terminal(message), markup=False, highlight=False)


def warn(message: str) -> None:
    """Warn on stderr, as one paragraph."""
    note(one_paragraph("lrbench: warning", message))


def _print(text: str, stream: TextIO) -> None:
    """Print text from anywhere: nothing in it can control the terminal, and every encoding takes it."""
    encoding = stream.encoding or "utf-8"
    try:
        print(for_terminal(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        # `lrbench tasks | head` is not an error. Nothing may be left to flush at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(0 if stream is sys.stdout else 1)
