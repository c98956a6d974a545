"""Validation errors of TOML files in words: the key, its value, and what is expected."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from lrbench.config.strict import NAME_PATTERN, Strict
from lrbench.config.task import Task

_TEXT, _LIST = "must be text (in quotes)", "must be a list (in brackets)"
_WHOLE, _CHOICE = "must be a whole number", "must be one of "
# Message for each of pydantic's error types, given the error's context.
_MESSAGES: dict[str, Callable[[dict[str, Any]], str]] = {
    "int_type": lambda context: _WHOLE,
    "int_from_float": lambda context: _WHOLE,
    "float_type": lambda context: "must be a number",
    "finite_number": lambda context: "must be a finite number",
    "bool_type": lambda context: "must be true or false",
    "string_type": lambda context: _TEXT,
    "tuple_type": lambda context: _LIST,
    "model_type": lambda context: "must be a table",
    "model_attributes_type": lambda context: "must be a table",
    "dict_type": lambda context: "must be a table",
    "greater_than_equal": lambda context: f"must be {context['ge']:,} or more",
    "greater_than": lambda context: f"must be greater than {context['gt']:g}",
    "less_than_equal": lambda context: f"must be {context['le']:,} or less",
    "less_than": lambda context: f"must be less than {context['lt']:g}",
    "too_short": lambda context: f"must have at least {context['min_length']} item",
    "too_long": lambda context: f"must have no more than {context['max_length']} items",
    "string_too_long": lambda context: f"must have no more than {context['max_length']} characters",
    "string_pattern_mismatch": lambda context: (
        "must consist of lowercase letters, digits, `.`, `_` and `-`"
        if context["pattern"] == NAME_PATTERN
        else f"must have the form {context['pattern']}"
    ),
}
# Names of union members in pydantic's locations, which are not keys of the file.
_VARIANTS = {
    "folders", "split-folders", "lists", "table", "indexed", "hub", "torchvision", "synthetic", "test-folders",
    "test-labels", "first", "listed", "drawn",
    "column", "tuple[str, ...]", "str", "constrained-str", "int", "constrained-int", "float", "[key]",
}  # fmt: skip
# Longer values are cut; more problems are only counted.
_MAX_CHARACTERS, _MAX_PROBLEMS = 80, 10
# How to obtain the value of a missing key.
_SOURCES = {"files.split.sha256": " (`sha256sum` and the list's file name print it)"}


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` if a known name is similar, else an empty string."""
    matches = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def explain(model: type[Strict], error: ValidationError) -> str:
    """Return all problems in one text, each once.

    Args:
        model: The expected record.
        error: Pydantic's error.
    """
    problems_of: dict[str, list[str]] = {}
    problems = error.errors(include_url=False)
    for problem in problems:
        key, text = _problem(model, problem)
        # Pydantic also reports a list as too short when its items are refused.
        if problem["type"] == "too_short" and any(_within(other, problem) for other in problems):
            continue
        texts = problems_of.setdefault(key, [])
        if text not in texts:
            texts.append(text)
    clauses = [f"`{key}`{_joined(texts)}" if key else _joined(texts).lstrip(": ") for key, texts in problems_of.items()]
    more = [f"and {len(clauses) - _MAX_PROBLEMS:,} more problems"] if len(clauses) > _MAX_PROBLEMS else []
    text = "; ".join([*clauses[:_MAX_PROBLEMS], *more])
    return text if text.endswith("?") else f"{text}."


def _problem(model: type[Strict], problem: Any) -> tuple[str, str]:
    """Return the key and the text that follows it."""
    location = [_cut(str(part)) for part in problem["loc"] if not _is_variant(part)]
    key, kind, context = ".".join(location), problem["type"], problem.get("ctx", {})
    value = problem.get("input")
    message = f": {problem['msg'].removeprefix('Value error, ')}"
    message = message[:2] + message[2:3].lower() + message[3:]
    if kind == "extra_forbidden":
        fields = _fields_at(model, [str(part) for part in problem["loc"][:-1]])
        if model is Task and len(problem["loc"]) == 1:
            # `like` is resolved before validation, so it is no field.
            fields = sorted([*fields, "like"])
        listed = f" Known keys: {', '.join(fields)}" if fields else ""
        return key, f" is not a known key.{suggestion(location[-1], fields)}{listed}"
    if kind == "missing":
        return key, f" is missing{_SOURCES.get(key, '')}"
    if kind == "literal_error":
        text = _one_of(_quoted(context["expected"]), value)
        return (".".join(location[:-1]), f": a key{text}") if problem["loc"][-1] == "[key]" else (key, text)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(context["discriminator"]).strip("'")
        options = _quoted(context["expected_tags"]) if "expected_tags" in context else _tags(model, problem["loc"], tag)
        missing = f" is missing: it is one of {', '.join(options)}"
        return f"{key}.{tag}", missing if kind == "union_tag_not_found" else _one_of(options, context["tag"])
    if kind == "value_error":
        return key, message
    if kind == "json_invalid":
        too_deep = "recursion" in problem["msg"]
        return key, ": lists or tables are nested too deeply" if too_deep else ": it holds half of a surrogate pair"
    text = f" {_MESSAGES[kind](context)}" if kind in _MESSAGES else message
    shown = str(value).lower() if isinstance(value, bool) else _cut(repr(value))
    return key, text + ("" if isinstance(value, dict) else f", not {shown}")


def _is_variant(part: int | str) -> bool:
    return isinstance(part, str) and (part in _VARIANTS or part.startswith("literal["))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"


def _one_of(options: list[str], value: Any) -> str:
    hint = suggestion(_cut(str(value)), options)
    return f" {_CHOICE}{', '.join(options)}, not {_cut(repr(value))}" + (f".{hint}" if hint else "")


def _joined(texts: list[str]) -> str:
    """Join the problems of one key, merging those of the members of a union."""
    if {text.partition(", not ")[0].strip() for text in texts} == {_TEXT, _LIST}:
        return f" {_TEXT} or {_LIST.removeprefix('must be ')}, not {texts[0].partition(', not ')[2]}"
    choices = [text for text in texts if text.startswith(f" {_CHOICE}")]
    numbers = [text for text in texts if text not in choices]
    if choices and numbers:
        options = choices[0].removeprefix(f" {_CHOICE}").partition(", not ")[0]
        return numbers[0].replace(_WHOLE, f"{_WHOLE} or {options}")
    # For an empty list, the union's problem with text is irrelevant.
    empty = [text for text in texts if "must have at least" in text]
    return "; ".join(empty or texts)


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
    """Return the keys known at a location, following members of unions by their tag."""
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
