"""Lineage: which snapshots of a suite exist, and whether they come from the weights that their parents hold now."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from lrbench.config import Suite
from lrbench.config.arms import SnapshotKey, segment, snapshot_keys
from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.store.snapshots import read_metadata, remade_parent, snapshot_path
from lrbench.store.suites import SuiteMismatch, recipe


def is_made(suite: Suite, key: SnapshotKey, workspace: Workspace) -> bool:
    """Whether a snapshot is there, made with this suite's pretraining settings.

    Raises:
        SuiteMismatch: The snapshot has a different architecture or different pretraining settings.
        InputError: The file is damaged or another snapshot, or its parent's weights have been replaced since.
    """
    path = snapshot_path(workspace.checkpoints, suite.name, key)
    if path.is_dir():
        raise InputError(f"{path} is a folder, where the snapshot's file should be. Move it aside.")
    if not path.exists():
        return False
    metadata = read_metadata(path)
    if metadata.architecture != suite.model.architecture:
        raise SuiteMismatch(
            f"{path} is a snapshot of {metadata.architecture}, but suite {suite.name} pretrains "
            f"{suite.model.architecture}. Move it away, or give the suite another name (--set name=NAME)."
        )
    if metadata.recipe != recipe(suite):
        raise SuiteMismatch(
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
