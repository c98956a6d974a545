"""What is said where a command line cannot be understood: one paragraph, as of any other bad input."""

import re
from typing import Any


def explain_usage(error: Any) -> str:
    """What is wrong with the words of a command, and where its options are listed.

    Args:
        error: The option parser's exception: it has `format_message()`, and mostly the context of the command.
    """
    from lrbench.registry import suggestion

    said = " ".join(str(error.format_message()).replace("Value error, ", "").split()).rstrip(".")
    said = said[:1].lower() + said[1:]
    # Of choices it lists all, and does not say which of them may have been meant.
    chosen = re.search(r"'([^']*)' is not one of (.+)$", said)
    hint = suggestion(chosen[1], re.findall(r"'([^']*)'", chosen[2])) if chosen else ""
    end = "" if said.endswith("?") else "."
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "lrbench"
    return f"{said}{end}{hint} `{command} --help` says what it takes."
