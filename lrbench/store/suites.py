"""Suites as run: the TOML of a suite with `--set` applied, stored with its snapshots and its results."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from lrbench.config import Suite, find_suites, load_suite, suggestion
from lrbench.config.loading import differences, means_a_file, validated
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_bytes, read_json, sha256_json, write_json, write_text
from lrbench.core.workspace import Workspace
from lrbench.store.snapshots import foreign_snapshots

_REMEDY = "Delete it; the next run of the suite writes it again."
_LARGEST = 1 << 20
# What the snapshots depend on. The targets, protocols and seeds of a suite may change between runs; these may not.
_PRETRAINING = ("source", "model", "input", "schedule", "batchnorm")


class SuiteMismatch(InputError):
    """Existing snapshots were pretrained with settings that differ from the suite's."""


def recipe(suite: Suite) -> str:
    """SHA-256 over everything in a suite that its snapshots depend on, but for the source's images."""
    return sha256_json(_pretraining(suite))


def _pretraining(suite: Suite) -> dict[str, Any]:
    content = suite.model_dump(mode="json")
    # How fast and in what pieces it is computed may differ between machines; what is computed may not.
    training = {name: content["training"][name] for name in ("precision", "threads") if name in content["training"]}
    return {name: content[name] for name in _PRETRAINING} | {"training": training}


def effective_path(workspace: Workspace, suite: str) -> Path:
    """Where a suite's effective TOML lies."""
    return workspace.checkpoints / suite / "suite.toml"


def keep_suite(workspace: Workspace, suite: Suite) -> None:
    """Write the effective suite beside its snapshots, unless it stands there already.

    Raises:
        SuiteMismatch: Snapshots with other pretraining settings exist under the same name.
    """
    path = effective_path(workspace, suite.name)
    if path.is_file():
        before = read_effective(path)
        if recipe(before) != recipe(suite) and _begun(path):
            raise SuiteMismatch(
                f"{path.parent} holds snapshots of a suite {suite.name!r} with other pretraining settings: "
                f"{difference(before, suite)}. Give this one a name of its own (--set name={suite.name}-2), or delete "
                f"{path.parent} to start afresh."
            )
    text = tomli_w.dumps(suite.model_dump(mode="json", exclude_none=True))
    if not path.is_file() or read_bytes(path) != text.encode():
        write_text(path, text)


def keep_for_results(workspace: Workspace, suite: Suite) -> None:
    """Write the suite beside its results, so that its pages can say which cells are still missing."""
    path = workspace.results / suite.name / "suite.json"
    # Committed with the results, so without this machine's paths.
    content = suite.model_dump(mode="json", exclude={"task_files"})
    # A damaged one is replaced: what belongs there is known.
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
        suite = validated(Suite, tomllib.loads(read_bytes(path, limit=_LARGEST).decode()), path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing. The next run of the suite writes it again.") from None
    except RecursionError as error:
        raise DamagedFile(path, "it is nested too deeply", _REMEDY) from error
    except ValueError as error:
        # What tomllib says of TOML, the decoder of UTF-8, and Python of numbers with thousands of digits.
        raise DamagedFile(path, str(error), _REMEDY) from error
    if suite.name != path.parent.name:
        raise InputError(
            f"{path} describes a suite {suite.name!r}, but is in the folder of {path.parent.name!r}. Move the folder back, "
            "or delete the file: the next run of the suite writes it again."
        )
    return suite


def suite_in_use(workspace: Workspace, name: str | None) -> Suite:
    """The suite to work with: the one named, as it was pretrained here, or else the one pretrained last.

    Args:
        workspace: Where suites were pretrained.
        name: A suite's name or the path of its TOML; None for the one pretrained last.

    Raises:
        InputError: No such suite, or none was pretrained here.
    """
    if name is not None:
        path = effective_path(workspace, name)
        if means_a_file(name) or not os.path.isfile(path):
            _refuse_misspelt(workspace, name)
            return load_suite(name)
    else:
        found = sorted(filter(_begun, workspace.checkpoints.glob("*/suite.toml")), key=_last_snapshot)
        if not found:
            taken = foreign_snapshots(workspace)
            others = f"{taken[0]} (taken in before), " if taken else ""
            raise InputError(
                f"no suite was pretrained in {workspace.checkpoints.absolute()} yet. Run `lrbench pretrain` first (the "
                "suite `quick` takes minutes on a CPU), name a suite with --suite, or give a snapshot of another kind: "
                f"{others}a .safetensors path, timm:NAME or hf-hub:OWNER/NAME."
            )
        path = found[-1]
    return read_effective(path)


def suite_to_run(workspace: Workspace, name: str, changes: Sequence[str], say: Callable[[str], None]) -> Suite:
    """The suite that a command works on: a shipped one, one at a path, or one that was pretrained here before, by its name.

    Args:
        workspace: Where suites were pretrained.
        name: A suite's name, or the path of its TOML.
        changes: What `--set` says.
        say: Told where the suite is not read from a file that the user named.

    Raises:
        InputError: No such suite, or one whose TOML is wrong.
    """
    kept = effective_path(workspace, name)
    if means_a_file(name) or name in find_suites() or not os.path.isfile(kept):
        _refuse_misspelt(workspace, name)
        return load_suite(name, changes)
    # Its own file may say otherwise by now.
    say(f"{name} is taken as it was last run here ({kept}); name its own file if that was changed since")
    return load_suite(str(kept), changes)


def _refuse_misspelt(workspace: Workspace, name: str) -> None:
    """Refuse a name that is nearly that of a suite which was run here and of none that is shipped.

    Raises:
        InputError: Says which may have been meant.
    """
    shipped = find_suites()
    if means_a_file(name) or name in shipped or suggestion(name, shipped) or os.path.isfile(f"{name}.toml"):
        return
    if near := suggestion(name, [path.parent.name for path in sorted(workspace.checkpoints.glob("*/suite.toml"))]):
        raise InputError(
            f"there is no suite called {name!r}.{near} That was run here; `lrbench suites` lists those that are shipped, and a "
            "suite of your own is named by the path of its TOML file."
        )


def difference(before: Suite, after: Suite) -> str:
    """Which pretraining settings differ, as `schedule.batch was 64 and is now 32, …`."""
    return ", ".join(differences(_pretraining(before), _pretraining(after)))


def _begun(path: Path) -> bool:
    """Whether anything was made with the effective suite at `path`: what failed at once leaves no more than the suite."""
    return any(path.parent.glob("*/seed*/[!.]*"))


def _last_snapshot(path: Path) -> tuple[int, str]:
    # Links that lead nowhere are no snapshots.
    times = [each.stat().st_mtime_ns for each in path.parent.glob("*/seed*/stage*.safetensors") if each.is_file()]
    return max(times, default=path.stat().st_mtime_ns), path.parent.name
