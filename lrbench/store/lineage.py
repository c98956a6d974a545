"""Lineage: which snapshots of a suite exist, and whether they come from the weights that their parents hold now."""

from collections.abc import Collection, Sequence
from contextlib import suppress

from lrbench.config import Suite
from lrbench.config.schedule import Segment, SnapshotKey, find_segment, snapshot_keys, with_pace
from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.store.snapshots import read_metadata, replaced_parent, snapshot_path
from lrbench.store.suites import SuiteMismatch, recipe


def snapshot_exists(suite: Suite, key: SnapshotKey, workspace: Workspace) -> bool:
    """Return whether a snapshot exists, and check that it belongs to this suite.

    Raises:
        SuiteMismatch: The snapshot has a different architecture or different pretraining settings.
        InputError: The file is damaged or another snapshot, or its parent was replaced later.
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
            f"(--set name=NAME), or delete {path.parents[2]} to pretrain all of it again."
        )
    header = (metadata.arm, metadata.seed, metadata.stage)
    if header != (key.arm, key.seed, key.stage):
        raise InputError(
            f"{path} should be {key}, but its header says {'/'.join(map(str, header))} (arm, seed, stage). Move it to its "
            "place or delete it; the next run computes missing snapshots."
        )
    if (parent := replaced_parent(path, metadata)) is not None:
        outdated = {
            other for other in snapshot_keys(suite, seed=key.seed) if _has_replaced_parent(suite, other, workspace)
        }
        files = " ".join(f"{other}.safetensors" for other in _with_descendants(suite, key.seed, workspace, outdated))
        raise InputError(
            f"{path} was computed from earlier weights of {parent}, which was replaced later. Remove the snapshots computed "
            f"from the earlier weights (`lrbench snapshots remove`; in {path.parents[2]}: {files}) and run the same command "
            f"again. Or restore the earlier {parent.stem} with all of its files ({parent.name}, "
            f"{parent.stem}.bn.safetensors, {parent.stem}.state.pt)."
        )
    return True


def _has_replaced_parent(suite: Suite, key: SnapshotKey, workspace: Workspace) -> bool:
    path = snapshot_path(workspace.checkpoints, suite.name, key)
    with suppress(InputError):
        return path.is_file() and replaced_parent(path, read_metadata(path)) is not None
    return False


def resolve_segment(suite: Suite, key: SnapshotKey, workspace: Workspace) -> Segment:
    """Return the segment that ends in a snapshot; of an arm with its own pace, with the epochs that earlier stages left.

    As long as a snapshot that it needs is missing, its epochs are the schedule's, which the whole arm does not exceed.

    Raises:
        InputError: A snapshot that it needs is damaged, or was made again with a different number of epochs.
    """
    segment = find_segment(suite.schedule, key)
    if segment.parent is None or segment.derived or not (segment.adaptive or segment.paced_by):
        return segment
    paths = {needed: snapshot_path(workspace.checkpoints, suite.name, needed) for needed in segment.needs}
    if not all(path.is_file() for path in paths.values()):
        return segment
    parent, pace = read_metadata(paths[segment.parent]), segment.paced_by
    epochs = None if pace is None else read_metadata(paths[pace]).epoch
    if parent.paced_epochs not in (None, epochs):
        raise InputError(
            f"{segment.parent} is a stage of {parent.paced_epochs} epochs of training, but {pace} has ended after {epochs} "
            f"since. Delete {paths[segment.parent].parent} and run the same command again."
        )
    return with_pace(suite.schedule, segment, parent.epoch or 0, epochs)


def check_intermediate_weights(suite: Suite, keys: Sequence[SnapshotKey], workspace: Workspace) -> None:
    """Check that the runs from which snapshots take intermediate weights saved them.

    A run that was trained before an arm was added to the suite did not save weights for that arm.

    Args:
        suite: The suite.
        keys: Snapshots to be made.
        workspace: Holds the snapshots at which those runs ended, if they exist.

    Raises:
        InputError: Weights were not saved.
    """
    arms: dict[str, None] = {}
    parents: dict[SnapshotKey, None] = {}
    for key in keys:
        part = find_segment(suite.schedule, key)
        if part.kept_epoch is None or part.parent is None:
            continue
        path = snapshot_path(workspace.checkpoints, suite.name, part.parent)
        if not path.is_file():
            continue
        metadata = read_metadata(path)
        # Older headers do not record what was kept; then the state next to the snapshot is read when the training starts.
        kept = {part.kept_epoch: True} if metadata.kept is None else metadata.kept
        lacks = part.kept_epoch not in kept or (part.branches and not kept[part.kept_epoch])
        if metadata.stage_end is None if part.adaptive else lacks:
            arms[key.arm] = None
            parents[part.parent] = None
    if arms:
        raise missing_intermediate_weights(suite, tuple(arms), tuple(parents), workspace)


def missing_intermediate_weights(
    suite: Suite, arms: Sequence[str], parents: Sequence[SnapshotKey], workspace: Workspace
) -> InputError:
    """Return the error for runs that did not save the intermediate weights that arms need.

    Args:
        suite: The suite.
        arms: The arms.
        parents: Snapshots at which the runs ended.
        workspace: Holds them.
    """
    names = ", ".join(arms)
    files = " ".join(
        f"{key}.safetensors"
        for seed in dict.fromkeys(parent.seed for parent in parents)
        for key in _with_descendants(suite, seed, workspace, parents)
    )
    return InputError(
        f"suite {suite.name} did not save the intermediate weights that arm {names} needs when it trained "
        f"{', '.join(map(str, parents))}; {names} was added after these runs. Give the suite a new name (--set "
        f"name={suite.name}-2) to pretrain all of it, or remove {names} from the suite. Or delete the snapshots that must be "
        f"trained again (`lrbench snapshots remove`; in {workspace.checkpoints / suite.name}: {files}) and run the same "
        "command again."
    )


def _with_descendants(
    suite: Suite, seed: int, workspace: Workspace, first: Collection[SnapshotKey]
) -> list[SnapshotKey]:
    """Return the existing snapshots of a seed that are in `first` or were made from one of them, parents first."""
    keys: list[SnapshotKey] = []
    for key in snapshot_keys(suite, seed=seed):
        if key in first or set(keys).intersection(find_segment(suite.schedule, key).needs):
            keys.append(key)
    return [key for key in keys if snapshot_path(workspace.checkpoints, suite.name, key).is_file()]
