"""Effective suites: the TOML of a suite with `--set` applied, stored with its snapshots and its results."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from lrbench.config import Suite, find_suites, load_suite, suggestion
from lrbench.config.loading import validate
from lrbench.config.registry import is_path
from lrbench.config.toml_files import differences
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_bytes, read_json, sha256_json, write_json, write_text
from lrbench.core.workspace import Workspace
from lrbench.store.snapshots import foreign_snapshots

_REMEDY = "Delete it; the next run of the suite writes it again."
_LARGEST = 1 << 20
# Tables that snapshots depend on. Targets, protocols and seeds may change between runs; these may not.
_PRETRAINING = ("source", "model", "input", "schedule", "batchnorm")


class SuiteMismatch(InputError):
    """Existing snapshots were pretrained with settings that differ from the suite's."""


def recipe(suite: Suite) -> str:
    """SHA-256 over the settings of a suite that its snapshots depend on; the source's images are not part of it."""
    return sha256_json(_pretraining(suite))


def _pretraining(suite: Suite) -> dict[str, Any]:
    content = suite.model_dump(mode="json")
    # Speed and micro-batches may differ between machines.
    training = {name: content["training"][name] for name in ("precision", "threads") if name in content["training"]}
    return {name: content[name] for name in _PRETRAINING} | {"training": training}


def effective_path(workspace: Workspace, suite: str) -> Path:
    """Path of a suite's effective TOML, next to its snapshots."""
    return workspace.checkpoints / suite / "suite.toml"


def write_effective(workspace: Workspace, suite: Suite) -> None:
    """Write the effective suite next to its snapshots, if it is new or changed.

    Raises:
        SuiteMismatch: Snapshots with other pretraining settings exist under the same name.
    """
    path = effective_path(workspace, suite.name)
    if path.is_file():
        existing = read_effective(path)
        if recipe(existing) != recipe(suite) and _has_files(path):
            changes = ", ".join(differences(_pretraining(existing), _pretraining(suite)))
            raise SuiteMismatch(
                f"{path.parent} holds snapshots of a suite {suite.name!r} with other pretraining settings: {changes}. Give "
                f"the suite a new name (--set name={suite.name}-2), or delete {path.parent} to pretrain it again."
            )
    text = tomli_w.dumps(suite.model_dump(mode="json", exclude_none=True))
    if not path.is_file() or read_bytes(path) != text.encode():
        write_text(path, text)


def results_suite(suite: Suite) -> dict[str, Any]:
    """Return the content of `suite.json` next to a suite's results, which has none of this machine's paths."""
    return suite.model_dump(mode="json", exclude={"task_files"})


def write_suite_with_results(workspace: Workspace, suite: Suite) -> None:
    """Write the suite next to its results, so that its pages list the missing cells."""
    path = workspace.results / suite.name / "suite.json"
    content = results_suite(suite)
    # A damaged file is replaced.
    with suppress(FileNotFoundError, InputError):
        if read_json(path, _REMEDY) == content:
            return
    write_json(path, content)


def read_effective(path: Path) -> Suite:
    """Read an effective suite.

    Raises:
        InputError: The file is missing, damaged or of another suite.
    """
    import tomllib

    try:
        suite = validate(Suite, tomllib.loads(read_bytes(path, limit=_LARGEST).decode()), path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing. The next run of the suite writes it again.") from None
    except RecursionError as error:
        raise DamagedFile(path, "it is nested too deeply", _REMEDY) from error
    except ValueError as error:
        # Raised by tomllib, by the decoder of UTF-8, and by int() for numbers with thousands of digits.
        raise DamagedFile(path, str(error), _REMEDY) from error
    if suite.name != path.parent.name:
        raise InputError(
            f"{path} describes a suite {suite.name!r}, but is in the folder of {path.parent.name!r}. Move the folder back, "
            "or delete the file; the next run of the suite writes it again."
        )
    return suite


def suite_in_use(workspace: Workspace, name: str | None) -> Suite:
    """Return a suite as it was pretrained in this workspace.

    Args:
        workspace: Holds the snapshots.
        name: A suite's name or the path of its TOML; None for the suite pretrained last.

    Raises:
        InputError: There is no such suite, or none was pretrained.
    """
    if name is not None:
        path = effective_path(workspace, name)
        if is_path(name) or not os.path.isfile(path):
            _refuse_misspelt(workspace, name)
            return load_suite(name)
        return read_effective(path)
    last = max(filter(_has_files, workspace.checkpoints.glob("*/suite.toml")), key=_last_snapshot, default=None)
    if last is None:
        foreign = foreign_snapshots(workspace)
        example = f"{foreign[0]}, " if foreign else ""
        raise InputError(
            f"no suite was pretrained in {workspace.checkpoints.absolute()} yet. Run `lrbench pretrain` first (the "
            "suite `quick` takes minutes on a CPU), name a suite with --suite, or name weights that belong to no suite: "
            f"{example}a .safetensors path, timm:NAME or hf-hub:OWNER/NAME."
        )
    return read_effective(last)


def suite_to_run(workspace: Workspace, name: str, changes: Sequence[str], say: Callable[[str], None]) -> Suite:
    """Return the suite that a command runs: a shipped one, one at a path, or one that was pretrained in this workspace.

    Args:
        workspace: Holds the snapshots.
        name: A suite's name, or the path of its TOML.
        changes: Values of `--set`.
        say: Called with a note if the suite is read from the workspace.

    Raises:
        InputError: There is no such suite, or its TOML is invalid.
    """
    path = effective_path(workspace, name)
    if is_path(name) or name in find_suites() or not os.path.isfile(path):
        _refuse_misspelt(workspace, name)
        return load_suite(name, changes)
    # The user's own TOML may have changed since.
    say(f"using {name} as it was last run ({path}); pass the path of your own TOML if you have changed it since")
    return load_suite(str(path), changes)


def _refuse_misspelt(workspace: Workspace, name: str) -> None:
    """Suggest a suite of this workspace for a name that is similar to it and to no shipped suite.

    Raises:
        InputError: The name is misspelt.
    """
    shipped = find_suites()
    if is_path(name) or name in shipped or suggestion(name, shipped) or os.path.isfile(f"{name}.toml"):
        return
    if near := suggestion(name, [path.parent.name for path in sorted(workspace.checkpoints.glob("*/suite.toml"))]):
        raise InputError(
            f"there is no suite called {name!r}.{near} `lrbench suites` lists the shipped suites; name a suite of your own "
            "by the path of its TOML file."
        )


def _has_files(path: Path) -> bool:
    """Return whether anything was computed with the effective suite at `path`; a run that fails at once leaves only it."""
    return any(path.parent.glob("*/seed*/[!.]*"))


def _last_snapshot(path: Path) -> tuple[int, str]:
    # Broken links are skipped.
    times = [file.stat().st_mtime_ns for file in path.parent.glob("*/seed*/stage*.safetensors") if file.is_file()]
    return max(times, default=path.stat().st_mtime_ns), path.parent.name
