"""The effective suite: what a suite's TOML and `--set` came to, kept beside its snapshots and its results."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from lrbench.arms import SnapshotKey, segment, snapshot_keys
from lrbench.errors import InputError
from lrbench.files import DamagedFile, read_bytes, read_json, sha256_json, write_json, write_text
from lrbench.registry import Suite, find_suites, load_suite, suggestion
from lrbench.registry.loading import differences, means_a_file, validated
from lrbench.snapshots import read_metadata, remade_parent, snapshot_path, snapshots_taken_in
from lrbench.workspace import Workspace

_REMEDY = "Delete it; the next run of the suite writes it again."
_LARGEST = 1 << 20
# What the snapshots depend on. The targets, protocols and seeds of a suite may change between runs; these may not.
_PRETRAINING = ("source", "model", "input", "schedule", "batchnorm")


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
        InputError: Snapshots made with other pretraining settings lie there under the same name.
    """
    path = effective_path(workspace, suite.name)
    if path.is_file():
        before = read_effective(path)
        if recipe(before) != recipe(suite) and _begun(path):
            _refuse_unknown_model(suite)
            raise InputError(
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
            taken = snapshots_taken_in(workspace)
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


def is_made(suite: Suite, key: SnapshotKey, workspace: Workspace) -> bool:
    """Whether a snapshot is there, made with this suite's pretraining settings.

    Raises:
        InputError: A file is there that is damaged, is another snapshot, or was made with other settings, another architecture,
            or from other weights than its parent holds now.
    """
    path = snapshot_path(workspace.checkpoints, suite.name, key)
    if path.is_dir():
        raise InputError(f"{path} is a folder, where the snapshot's file should be. Move it aside.")
    if not path.exists():
        return False
    metadata = read_metadata(path)
    if metadata.architecture != suite.model.architecture:
        _refuse_unknown_model(suite)
        raise InputError(
            f"{path} is a snapshot of {metadata.architecture}, but suite {suite.name} pretrains "
            f"{suite.model.architecture}. Move it away, or give the suite another name (--set name=NAME)."
        )
    if metadata.recipe != recipe(suite):
        raise InputError(
            f"{path} was pretrained with other settings than suite {suite.name} has now. Give the suite another name "
            f"(--set name=NAME), or delete {path.parents[2]} to pretrain all of it anew."
        )
    header = (metadata.arm, metadata.seed, metadata.stage)
    if header != (key.arm, key.seed, key.stage):
        raise InputError(
            f"{path} is {'/'.join(map(str, header))} (arm, seed, stage) by its header, and lies where {key} belongs. Move it "
            "where it belongs, or delete it: the next run makes what is missing."
        )
    if (parent := remade_parent(path, metadata)) is not None:
        coming = _come_of(suite, key.seed, workspace, lambda each: _has_other_parent(suite, each, workspace))
        others = " ".join(f"{each}.safetensors" for each in coming)
        raise InputError(
            f"{path} was made from other weights than {parent} holds now, which was made anew or replaced since: they are not "
            f"of one run. In {path.parents[2]}, delete what comes of the former weights ({others}; "
            "`lrbench snapshots delete`) and run the same command "
            f"again, which makes what is missing; or put the former {parent.stem} back with all of its files ({parent.name}, "
            f"{parent.stem}.bn.safetensors, {parent.stem}.state.pt)."
        )
    return True


def _has_other_parent(suite: Suite, key: SnapshotKey, workspace: Workspace) -> bool:
    path = snapshot_path(workspace.checkpoints, suite.name, key)
    with suppress(InputError):
        return path.is_file() and remade_parent(path, read_metadata(path)) is not None
    return False


def refuse_unkept(suite: Suite, keys: Sequence[SnapshotKey], workspace: Workspace) -> None:
    """Refuse snapshots that come out of a training which kept nothing for them, since the suite had not their arm then.

    Args:
        suite: The suite.
        keys: Snapshots that are to be made.
        workspace: Where those that they come out of lie, if they are made.

    Raises:
        InputError: Says what there is to choose from.
    """
    arms: dict[str, None] = {}
    again: dict[SnapshotKey, None] = {}
    for key in keys:
        stretch = segment(suite.schedule, key)
        if stretch.kept_epoch is None or stretch.parent is None:
            continue
        path = snapshot_path(workspace.checkpoints, suite.name, stretch.parent)
        if not path.is_file():
            continue
        kept = read_metadata(path).kept
        # Of snapshots from before this was recorded, only the state beside them knows.
        if kept is not None and (stretch.kept_epoch not in kept or (stretch.branches and not kept[stretch.kept_epoch])):
            arms[key.arm] = None
            again[stretch.parent] = None
    if arms:
        raise unkept(suite, tuple(arms), tuple(again), workspace)


def unkept(suite: Suite, arms: Sequence[str], trained: Sequence[SnapshotKey], workspace: Workspace) -> InputError:
    """The error that trainings kept nothing for arms.

    Args:
        suite: The suite.
        arms: The arms.
        trained: What the trainings ended in.
        workspace: Where that lies.
    """
    coming = [
        each
        for seed in dict.fromkeys(key.seed for key in trained)
        for each in _come_of(suite, seed, workspace, lambda key: key in trained)
    ]
    folder = workspace.checkpoints / suite.name
    return InputError(
        f"{', '.join(map(str, trained))} of suite {suite.name} kept no weights on the way for {', '.join(arms)}, which the "
        f"suite had not when they were trained. Give the suite with more arms a name of its own (--set name={suite.name}-2), "
        f"which pretrains all; or leave {', '.join(arms)} out; or, in {folder}, delete what has to be trained again for it "
        f"({' '.join(f'{each}.safetensors' for each in coming)}; `lrbench snapshots delete`) and run "
        "the same command again."
    )


def _come_of(suite: Suite, seed: int, workspace: Workspace, first: Callable[[SnapshotKey], bool]) -> list[SnapshotKey]:
    """The snapshots of a pretraining seed that are there and among the first, or come of these, at once or by way of others."""
    found: list[SnapshotKey] = []
    for each in snapshot_keys(suite, seed=seed):
        if segment(suite.schedule, each).parent in found or first(each):
            found.append(each)
    return [each for each in found if snapshot_path(workspace.checkpoints, suite.name, each).is_file()]


def _refuse_unknown_model(suite: Suite) -> None:
    """Before a misspelt model is taken for another network, which a suite of another name could have."""
    from lrbench.model_limits import refuse_unknown

    refuse_unknown(suite.model.architecture)


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
