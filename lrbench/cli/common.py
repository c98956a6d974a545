"""What the commands share: options spelt one way, and everything that is printed."""

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from lrbench.escaping import for_terminal

if TYPE_CHECKING:
    from rich.console import Console

# Names in one message.
_SHOWN = 5

SuiteArgument = Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or the path of a suite TOML.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value of the suite, such as schedule.batch=128. Repeatable."
    ),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root", metavar="DIR", help="Folder that holds the data sets. [default: $LRBENCH_DATA, or ./data]"
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


def show(text: str) -> None:
    """Print a command's output on stdout."""
    _print(text, sys.stdout)


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
    print(for_terminal(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
