"""Reference of the Python interface, from its docstrings."""

import inspect
import re
from importlib import import_module
from typing import Any

import lrbench

_SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example")


def api_page() -> str:
    """Return a page of every public name of `lrbench` with its signature and docstring."""
    lines = [
        "# Python reference",
        "",
        "Generated from the docstrings. [Python](python.md) introduces the interface.",
        "",
    ]
    for name, home in lrbench._HOMES.items():
        lines += _described(f"lrbench.{name}", getattr(import_module(home), name))
    from lrbench.api.evaluation import Comparison, Evaluation
    from lrbench.core import errors

    for result in (Evaluation, Comparison):
        lines += _described(result.__name__, result)
    for error in (errors.InputError, errors.FailureError, errors.OutOfMemory, errors.InterruptedWork):
        lines += [f"## {error.__name__}", "", *_text(inspect.getdoc(error) or ""), ""]
    return "\n".join(lines)


def _described(name: str, value: Any) -> list[str]:
    """Return the section of a function or class: signature, docstring and public properties."""
    kind = "class " if isinstance(value, type) else ""
    lines = [f"## {name}", "", "```python", f"{kind}{name}{_signature(value)}", "```", ""]
    lines += _text(inspect.getdoc(value) or "")
    if isinstance(value, type):
        properties = {key: member for key, member in vars(value).items() if isinstance(member, property)}
        for key, member in properties.items():
            if not key.startswith("_"):
                lines.append(f"- `{key}`: {' '.join((inspect.getdoc(member) or '').split())}")
    return [*lines, ""]


def _signature(value: Any) -> str:
    """Return a signature with one parameter on each line if it is long."""
    signature = inspect.signature(value)
    plain = str(signature)
    if len(plain) <= 80:
        return plain
    parts, starred = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        parts.append(str(parameter))
    returned = plain.rpartition(" -> ")[2]
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f") -> {returned}"


def _text(docstring: str) -> list[str]:
    """Return a docstring in Google's style as Markdown."""
    lines: list[str] = []
    section = ""
    for line in docstring.splitlines():
        heading = line.removesuffix(":")
        if line.endswith(":") and heading in _SECTIONS:
            section = heading
            lines += [f"**{heading}**", ""]
            if heading == "Example":
                lines.append("```python")
            continue
        if section == "Example":
            lines.append(line.removeprefix("    "))
            continue
        entry = re.match(r"    (\*{0,2}\w[\w, ]*): (.*)", line) if section else None
        if entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif section and line.startswith("        ") and lines and lines[-1].startswith("- "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.strip() if section else line)
    if section == "Example":
        lines.append("```")
    return [*lines, ""]
