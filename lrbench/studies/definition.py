"""Studies: suites, claims and a figure in one TOML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from lrbench.config.loading import resolve_task_files, validate
from lrbench.config.registry import find_studies, study_path
from lrbench.config.strict import Name, Strict, Text
from lrbench.config.suite import Suite
from lrbench.config.toml_files import apply_changes, read_toml
from lrbench.core.errors import InputError


class Study(Strict):
    """One study.

    Attributes:
        title: Heading of its page.
        question: The question that it answers, in one sentence.
        claims: Claims to decide, in the order of the page.
        figure: Figure of the page.
        limits: What the study cannot show, a sentence each.
        suites: Its suites.
    """

    name: Name
    title: Text
    question: Text
    claims: Annotated[tuple[Text, ...], Field(min_length=1)]
    figure: Text
    limits: tuple[Text, ...] = ()
    suites: Annotated[tuple[Suite, ...], Field(min_length=1, max_length=100)]

    @field_validator("claims")
    @classmethod
    def _check_claims(cls, claims: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(claims)) < len(claims):
            raise ValueError("a claim is named twice")
        return claims

    @model_validator(mode="after")
    def _check_suites(self) -> "Study":
        names = [suite.name for suite in self.suites]
        if len(set(names)) < len(names):
            raise ValueError("two suites have the same name")
        return self

    @property
    def units(self) -> tuple[int, ...]:
        """Pretraining seeds of any suite, in order."""
        return tuple(dict.fromkeys(seed for suite in self.suites for seed in suite.seeds))


def load_study(name_or_path: str, changes: Sequence[str] = ()) -> Study:
    """Read and validate a study.

    Its table `suite` holds values that all suites share; a suite's own tables override single keys. With `like = "NAME"`,
    missing keys are those of a shipped study.

    Args:
        name_or_path: A shipped study's name, or the path of a TOML file.
        changes: Changes of values of every suite, each `key.subkey=value`.

    Raises:
        InputError: There is no such study, its TOML is malformed, a key is unknown or wrong, or a claim does not exist or
            cannot be decided with the study's suites.
    """
    from lrbench.studies.registry import check_claims

    path = study_path(name_or_path)
    content = read_toml(path)
    if like := content.pop("like", None):
        content = {**read_toml(study_path(like)), **content}
    shared, suites = content.pop("suite", {}), content.get("suites")
    if isinstance(suites, list) and isinstance(shared, dict):
        content["suites"] = [_suite(shared, suite, content.get("name"), changes, path) for suite in suites]
    study = validate(Study, content, path, changed=bool(changes))
    check_claims(study, str(path))
    return study


def load_studies() -> list[Study]:
    """Return every shipped study."""
    return [load_study(name) for name in find_studies()]


def _suite(shared: dict[str, Any], own: Any, study: Any, changes: Sequence[str], path: Path) -> Any:
    """Return the content of a suite: the shared values, overridden key by key within tables."""
    if not isinstance(own, dict):
        return own
    content: dict[str, Any] = {"targets": [], "protocols": [], **_merged(shared, own), "study": study}
    resolve_task_files(content, path.parent, str(path))
    apply_changes(content, changes)
    resolve_task_files(content, Path(), "--set")
    if content["study"] != study or any(change.partition("=")[0].strip() == "name" for change in changes):
        raise InputError("--set changes values of every suite of the study: it cannot change `name` or `study`.")
    return content


def _merged(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(base[key], value)
        for key, value in other.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **other, **nested}
