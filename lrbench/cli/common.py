"""What the verbs share: options spelt one way, and output on the right stream."""

import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

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
        help="Go on with data that is not whole. Every result is marked partial and never ranked with full ones.",
    ),
]
NoCacheOption = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Keep no prepared pixels on disk: up to 1 GiB a split in memory, else each image decoded at each use.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def one_paragraph(start: str, message: str) -> str:
    """`start: message`, wrapped to the terminal's width where stderr is one."""
    text = " ".join(f"{start}: {message}".split())
    if not sys.stderr.isatty():
        return text
    width = max(40, min(100, shutil.get_terminal_size().columns))
    return textwrap.fill(text, width=width, break_long_words=False, break_on_hyphens=False)


def emit_json(value: Any) -> None:
    """Print `value` as JSON on stdout."""
    typer.echo(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))


def note(message: str) -> None:
    """Say something on stderr, where it does not mix with output that a program reads."""
    typer.echo(message, err=True)


def warn(message: str) -> None:
    """Warn on stderr, as one paragraph."""
    note(one_paragraph("lrbench: warning", message))
