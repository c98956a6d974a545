"""What is wrong with a TOML file, in a user's words: the key, what it is, and what it should be."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from lrbench.config.strict import NAME_PATTERN, Strict
from lrbench.config.task import Task

_TEXT, _LIST = "must be text (in quotes)", "must be a list (in brackets)"
# By pydantic's kind of error: what it says of the value, given what pydantic knows of the limit.
_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "int_type": lambda known: "must be a whole number",
    "int_from_float": lambda known: "must be a whole number",
    "float_type": lambda known: "must be a number",
    "finite_number": lambda known: "must be a finite number",
    "bool_type": lambda known: "must be true or false",
    "string_type": lambda known: _TEXT,
    "tuple_type": lambda known: _LIST,
    "model_type": lambda known: "must be a table",
    "model_attributes_type": lambda known: "must be a table",
    "dict_type": lambda known: "must be a table",
    "greater_than_equal": lambda known: f"must be {known['ge']:,} or more",
    "greater_than": lambda known: f"must be greater than {known['gt']:g}",
    "less_than_equal": lambda known: f"must be {known['le']:,} or less",
    "less_than": lambda known: f"must be less than {known['lt']:g}",
    "too_short": lambda known: f"must have at least {known['min_length']} item",
    "too_long": lambda known: f"must have no more than {known['max_length']} items",
    "string_too_long": lambda known: f"must have no more than {known['max_length']} characters",
    "string_pattern_mismatch": lambda known: (
        "must be of small letters, digits, `.`, `_` and `-`"
        if known["pattern"] == NAME_PATTERN
        else f"must have the form {known['pattern']}"
    ),
}
# Names that pydantic puts into a location to say which variant of a union was tried; they are not keys of the file.
_VARIANTS = {
    "folders", "split-folders", "lists", "table", "indexed", "hub", "torchvision", "synthetic", "first", "listed", "drawn",
    "column", "tuple[str, ...]", "str", "constrained-str", "int", "float", "[key]",
}  # fmt: skip


# Longer ones are cut, in characters; of more problems than so many the rest are counted.
_LONGEST, _MOST = 80, 10

# How to come by a value that cannot be made up.
_HOW = {"files.split.sha256": " (`sha256sum` and the list's file name print it)"}


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` where a known name is near, else nothing."""
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def explain(model: type[Strict], error: ValidationError) -> str:
    """All that is wrong, each problem once.

    Args:
        model: What the content should have been.
        error: What pydantic found.
    """
    found: dict[str, list[str]] = {}
    problems = error.errors(include_url=False)
    for problem in problems:
        key, words = _problem(model, problem)
        # A list whose items are refused counts as empty afterwards, which says nothing more.
        if problem["type"] == "too_short" and any(_within(other, problem) for other in problems):
            continue
        known = found.setdefault(key, [])
        if words not in known:
            known.append(words)
    clauses = [f"`{key}`{_joined(words)}" if key else _joined(words).lstrip(": ") for key, words in found.items()]
    more = [f"and {len(clauses) - _MOST:,} more problems"] if len(clauses) > _MOST else []
    text = "; ".join([*clauses[:_MOST], *more])
    return text if text.endswith("?") else f"{text}."


def _problem(model: type[Strict], problem: Any) -> tuple[str, str]:
    """The key, and what is wrong with it, as it follows the key."""
    location = [_cut(str(part)) for part in problem["loc"] if not (isinstance(part, str) and part in _VARIANTS)]
    key, kind, known = ".".join(location), problem["type"], problem.get("ctx", {})
    given = problem.get("input")
    message = f": {problem['msg'].removeprefix('Value error, ')}"
    message = message[:2] + message[2:3].lower() + message[3:]
    if kind == "extra_forbidden":
        fields = _fields_at(model, [str(part) for part in problem["loc"][:-1]])
        if model is Task and len(problem["loc"]) == 1:
            # Not a field: it is gone from the content by the time that this is looked at.
            fields = sorted([*fields, "like"])
        listed = f" Known here: {', '.join(fields)}" if fields else ""
        return key, f" is not a known key.{suggestion(location[-1], fields)}{listed}"
    if kind == "missing":
        return key, f" is missing{_HOW.get(key, '')}"
    if kind == "literal_error":
        words = _one_of(_quoted(known["expected"]), given)
        return (".".join(location[:-1]), f": a key{words}") if problem["loc"][-1] == "[key]" else (key, words)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(known["discriminator"]).strip("'")
        options = _quoted(known["expected_tags"]) if "expected_tags" in known else _tags(model, problem["loc"], tag)
        missing = f" is missing: it is one of {', '.join(options)}"
        return f"{key}.{tag}", missing if kind == "union_tag_not_found" else _one_of(options, known["tag"])
    if kind == "value_error":
        return key, message
    if kind == "json_invalid":
        deep = "recursion" in problem["msg"]
        return key, ": lists or tables are nested too deeply" if deep else ": it holds half of a surrogate pair"
    words = f" {_WORDS[kind](known)}" if kind in _WORDS else message
    shown = str(given).lower() if isinstance(given, bool) else _cut(repr(given))
    return key, words + ("" if isinstance(given, dict) else f", not {shown}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _one_of(options: list[str], given: Any) -> str:
    hint = suggestion(_cut(str(given)), options)
    return f" must be one of {', '.join(options)}, not {_cut(repr(given))}" + (f".{hint}" if hint else "")


def _joined(words: list[str]) -> str:
    """Several problems of one value as one: what it may be, and what it is."""
    if {each.partition(", not ")[0].strip() for each in words} == {_TEXT, _LIST}:
        return f" {_TEXT} or {_LIST.removeprefix('must be ')}, not {words[0].partition(', not ')[2]}"
    # An empty list is neither text nor a list of it, and only the second says what is wrong.
    empty = [clause for clause in words if "must have at least" in clause]
    return "; ".join(empty or words)


def _within(inner: Any, outer: Any) -> bool:
    return len(inner["loc"]) > len(outer["loc"]) and inner["loc"][: len(outer["loc"])] == outer["loc"]


def _quoted(text: str) -> list[str]:
    return [part.strip(" '") for part in text.replace(" or ", ", ").split(",") if part.strip(" '")]


def _tags(model: type[Strict], location: tuple[Any, ...], tag: str) -> list[str]:
    current: Any = model
    for part in location:
        current = _step(current, str(part))
    return [
        option
        for variant in _options(current)
        if isinstance(variant, type) and issubclass(variant, Strict)
        for option in _options(variant.model_fields[tag].annotation)
    ]


def _fields_at(model: type[Strict], location: list[str]) -> list[str]:
    """The keys known at a location, following variants of unions by their tag."""
    current: Any = model
    for part in location:
        current = _step(current, part)
        if current is None:
            return []
    return sorted(current.model_fields) if isinstance(current, type) and issubclass(current, Strict) else []


def _step(current: Any, part: str) -> Any:
    if isinstance(current, type) and issubclass(current, Strict):
        field = current.model_fields.get(part)
        return None if field is None else field.annotation
    for option in _options(current):
        if isinstance(option, type) and issubclass(option, Strict):
            for tag in ("layout", "kind"):
                field = option.model_fields.get(tag)
                if field is not None and part in _options(field.annotation):
                    return option
            if part.isdigit():
                return option
    return None


def _options(annotation: Any) -> tuple[Any, ...]:
    return tuple(getattr(annotation, "__args__", ()))
