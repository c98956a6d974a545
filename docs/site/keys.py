"""Tables of the keys of TOML files: `python docs/site/keys.py` writes them between the markers of docs/reference/*.md.

Descriptions are those of the records in `lrbench/config`, so that the tables cannot drift; a test compares them.
"""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from lrbench.config import Suite, Task, files, head, pretraining, protocols, splits, suite, task
from lrbench.config.arms import ARMS
from lrbench.config.strict import Strict

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"(<!-- keys: (\w+)(?: ([\w.]+))? -->\n).*?(<!-- end of keys -->)", re.DOTALL)
# Fields whose tables have a section of their own.
_TABLES = {
    Task: {"files", "archives", "prepare", "about", "head"},
    Suite: {"model", "input", "schedule", "training", "batchnorm", *protocols.TABLES, "source_fit"},
}
_MODULES = (files, head, pretraining, protocols, splits, suite, task)


def key_table(model: type[Strict], prefix: str = "") -> str:
    """Return the keys of a record, their defaults and meanings, as a Markdown table."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if name in _TABLES.get(model, ()) or name in ("layout", "kind"):
            continue
        text, default = _meaning(model, name)
        choices = _choices(field.annotation)
        if choices and not any(f"`{value}`" in text for value in choices):
            text = f"{text.removesuffix('.')}: {', '.join(f'`{value}`' for value in choices)}."
        lines.append(f"| `{prefix}{name}` | {default or _default(field)} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _meaning(model: type[Strict], name: str) -> tuple[str, str]:
    """Return the description of a field without its default, and the default that it names."""
    text = model.model_fields[name].description or ""
    default = re.search(r" ?Default: (.+?)\.(?= |$)", text)
    if default:
        text = text.replace(default.group(), "").strip()
    if (model, name) == (Suite, "arms"):
        text += f" Arms: {', '.join(f'`{arm}`' for arm in ARMS if ARMS.plugin(arm) is None)}. {_needs()}"
    if (model, name) == (Suite, "protocols"):
        text += f" Protocols: {', '.join(f'`{one}`' for one in protocols.PROTOCOLS if not protocols.PROTOCOLS.plugin(one))}."
    return text, default.group(1) if default else ""


def _needs() -> str:
    """Return which other arms a suite with an arm must have."""
    needs: dict[str, list[str]] = {}
    for arm in ARMS.values():
        others = [need for need in arm.needs if need != "step"]
        if others and ARMS.plugin(arm.name) is None:
            needs.setdefault(" and ".join(f"`{need}`" for need in others), []).append(f"`{arm.name}`")
    clauses = [f"{', '.join(arms)}: {others}" for others, arms in needs.items()]
    return f"All need `step`, and some need others ({'; '.join(clauses)})."


def _choices(annotation: Any) -> list[str]:
    """Return the texts that a field may hold, if it is a choice of several."""
    if get_origin(annotation) is Literal:
        values = get_args(annotation)
        return [str(value) for value in values] if len(values) > 1 else []
    members = [member for member in get_args(annotation) if member is not type(None)]
    return _choices(members[0]) if len(members) == 1 and get_origin(annotation) is not tuple else []


def _default(field: Any) -> str:
    value = field.default
    if field.is_required():
        return ""
    if value is None or value in ((), {}, ""):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(_toml, value))}]`"
    if isinstance(value, dict):
        return f"`{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}`"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _record(name: str) -> type[Strict]:
    return next(record for module in _MODULES if (record := vars(module).get(name)) is not None)


def with_tables(text: str) -> str:
    """Return a page with the tables between its markers, `<!-- keys: RECORD PREFIX -->` and `<!-- end of keys -->`."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{key_table(_record(block[2]), block[3] or '')}\n\n{block[4]}", text)


if __name__ == "__main__":
    for path in sorted((ROOT / "docs" / "reference").glob("*.md")):
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
