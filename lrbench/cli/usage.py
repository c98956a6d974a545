"""Parsing of the command line: stricter than typer, with errors of one paragraph."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Function = TypeVar("Function", bound=Callable[..., Any])

# Messages of different versions of the option parser about numbers, and their replacements.
_REPLACEMENTS = {
    r"^invalid value for ('[^']+'): (?:Input should be greater than or equal to (\d+)|\S+ is not in the range x>=(\d+))$": (
        r"\1 must be \2\3 or more"
    ),
    r"^invalid value for ('[^']+'): (?:Input should be a valid integer.*|'.*' is not a valid integer)$": (
        r"\1 must be a whole number"
    ),
}


class Command(TyperCommand):
    """A command that refuses empty values, and repetition of an option that takes one value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the arguments, then parse them as the base class does."""
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        if "help" not in values:
            for parameter in self.params:
                _check(ctx, parameter, values.get(parameter.name), sum(used is parameter for used in given))
        return super().parse_args(ctx, args)

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the whole first paragraph of the help, which the base class cuts at `limit` characters."""
        return self.short_help or " ".join((self.help or "").partition("\n\n")[0].split())


class ShowGroup(TyperGroup):
    """A group that runs its command `show` if the first argument names no command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `show`, then parse the arguments as the base class does."""
        if not args or args[0] not in {*self.commands, "-h", "--help"}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


class Commands(typer.Typer):
    """A group of such commands."""

    def __init__(self, *, add_completion: bool = False, **settings: Any) -> None:
        super().__init__(
            no_args_is_help=True,
            add_completion=add_completion,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """Register a command."""
        return super().command(name, cls=Command, **settings)


def _check(ctx: Any, parameter: Any, value: Any, times: int) -> None:
    """Refuse an empty value, or a second value of an option that takes one."""
    option = parameter.param_type_name == "option"
    if value is None or (option and parameter.is_flag):
        return
    name = parameter.opts[0] if option else parameter.metavar or parameter.name.upper()
    if any(not str(text).strip() for text in (value if isinstance(value, list | tuple) else [value])):
        ctx.fail(f"{name} is empty; a shell variable may be unset. Give it a value, or omit it.")
    if option and times > 1 and not parameter.multiple:
        ctx.fail(f"{name} was given {times} times, but it takes one value. Give it once.")


def explain_usage(error: Any) -> str:
    """Return a message for wrong arguments, with the command that lists the options.

    Args:
        error: The option parser's exception, with `format_message()` and usually the command's context.
    """
    from lrbench.config import suggestion

    message = " ".join(str(error.format_message()).replace("Value error, ", "").split()).rstrip(".")
    if message[1:2].islower():
        message = message[:1].lower() + message[1:]
    for pattern, words in _REPLACEMENTS.items():
        message = re.sub(pattern, words, message)
    # The parser lists all choices, but suggests none.
    chosen = re.search(r"'([^']*)' is not one of (.+)$", message)
    hint = suggestion(chosen[1], re.findall(r"'([^']*)'", chosen[2])) if chosen else ""
    end = "" if message.endswith("?") else "."
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "lrbench"
    return f"{message}{end}{hint} `{command} --help` lists its options."
