"""How a command line is read: what typer leaves unsaid is refused, and every refusal is one paragraph."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

Function = TypeVar("Function", bound=Callable[..., Any])

# How versions of the option parser describe numbers: pydantic's sentences or Click's.
_IN_OUR_WORDS = {
    r"^invalid value for ('[^']+'): (?:Input should be greater than or equal to (\d+)|\S+ is not in the range x>=(\d+))$": (
        r"\1 must be \2\3 or more"
    ),
    r"^invalid value for ('[^']+'): (?:Input should be a valid integer.*|'.*' is not a valid integer)$": (
        r"\1 must be a whole number"
    ),
}


class Command(TyperCommand):
    """A command that refuses empty text, and a second value for an option that takes one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after a command's name; the base class does so again once they have been checked."""
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        if "help" not in values:
            for parameter in self.params:
                _check(ctx, parameter, values.get(parameter.name), [each is parameter for each in given].count(True))
        return super().parse_args(ctx, args)

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the help's first paragraph, whole: the base class cuts it at `limit` characters."""
        return self.short_help or " ".join((self.help or "").partition("\n\n")[0].split())


class Commands(typer.Typer):
    """A group of such commands, with lrbench's settings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            no_args_is_help=True,
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """Register a command."""
        return super().command(name, cls=Command, **settings)


def _check(ctx: Any, parameter: Any, value: Any, times: int) -> None:
    """Refuse one parameter's raw value where it is empty, or was given more often than it is used."""
    option = parameter.param_type_name == "option"
    if value is None or (option and parameter.is_flag):
        return
    name = parameter.opts[0] if option else parameter.metavar or parameter.name.upper()
    if any(not str(text).strip() for text in (value if isinstance(value, list | tuple) else [value])):
        ctx.fail(f"{name} is empty: the shell variable in its place may be unset. Give it a value, or leave it out.")
    if option and times > 1 and not parameter.multiple:
        ctx.fail(f"{name} was given {times} times, but it takes one value. Give it once.")


def explain_usage(error: Any) -> str:
    """Say what is wrong with the words of a command, and where its options are listed.

    Args:
        error: The option parser's exception: it has `format_message()`, and mostly the context of the command.
    """
    from lrbench.config import suggestion

    said = " ".join(str(error.format_message()).replace("Value error, ", "").split()).rstrip(".")
    if said[1:2].islower():
        said = said[:1].lower() + said[1:]
    for pattern, words in _IN_OUR_WORDS.items():
        said = re.sub(pattern, words, said)
    # It lists all choices, and does not say which of them may have been meant.
    chosen = re.search(r"'([^']*)' is not one of (.+)$", said)
    hint = suggestion(chosen[1], re.findall(r"'([^']*)'", chosen[2])) if chosen else ""
    end = "" if said.endswith("?") else "."
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "lrbench"
    return f"{said}{end}{hint} `{command} --help` lists its options."
