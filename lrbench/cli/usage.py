"""What is said where a command line cannot be understood: one paragraph, as of any other bad input."""

import re
from typing import Any

# What versions of the option parser say of numbers: pydantic's sentences or Click's.
_IN_OUR_WORDS = {
    r"^invalid value for ('[^']+'): (?:Input should be greater than or equal to (\d+)|\S+ is not in the range x>=(\d+))$": (
        r"\1 must be \2\3 or more"
    ),
    r"^invalid value for ('[^']+'): (?:Input should be a valid integer.*|'.*' is not a valid integer)$": (
        r"\1 must be a whole number"
    ),
}


def explain_usage(error: Any) -> str:
    """What is wrong with the words of a command, and where its options are listed.

    Args:
        error: The option parser's exception: it has `format_message()`, and mostly the context of the command.
    """
    from lrbench.registry import suggestion

    said = " ".join(str(error.format_message()).replace("Value error, ", "").split()).rstrip(".")
    said = said[:1].lower() + said[1:]
    for pattern, words in _IN_OUR_WORDS.items():
        said = re.sub(pattern, words, said)
    # Of choices it lists all, and does not say which of them may have been meant.
    chosen = re.search(r"'([^']*)' is not one of (.+)$", said)
    hint = suggestion(chosen[1], re.findall(r"'([^']*)'", chosen[2])) if chosen else ""
    end = "" if said.endswith("?") else "."
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "lrbench"
    return f"{said}{end}{hint} `{command} --help` says what it takes."
