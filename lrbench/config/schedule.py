"""Training segments of a suite: their parents, epochs and learning rates.

A *segment* is one stage of one arm. It starts from the complete state at the end of its parent segment and trains for the
stage's epochs. A stage that several arms share is one segment, owned by the arm that trains it.
"""

import math
from dataclasses import dataclass, replace

from lrbench.config.arms import ARMS, Mean
from lrbench.config.pretraining import Schedule
from lrbench.config.suite import Suite
from lrbench.core.errors import InputError


@dataclass(frozen=True, order=True, kw_only=True)
class SnapshotKey:
    """Arm, pretraining seed and stage of a suite's snapshot. `str()` gives `arm/seed0/stage1`."""

    arm: str
    seed: int
    stage: int

    def __str__(self) -> str:
        return f"{self.arm}/seed{self.seed}/stage{self.stage}"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One stage of one arm for one seed.

    Attributes:
        key: The snapshot at its end.
        parent: The snapshot whose state it starts from; None for the initialisation.
        rate: Learning rate after a warm-up, the highest one with `cosine`; 0 for the initialisation.
        first_epoch: Epoch at whose start it begins, counted from the start of pretraining.
        last_epoch: Epoch at whose end it ends (exclusive end of the range).
        averaged: True when the snapshot is a mean of weights of the parent's training and nothing is trained.
        kept_epoch: Epoch after which the parent's training saves the snapshot's weights; nothing is trained.
        cosine: True when the rate falls along half a cosine over all epochs instead of at boundaries.
        growth: Factor by which the batch is larger than the schedule's.
        adaptive: True when a rule ends it, at the end of `last_epoch` at the latest.
        paced_by: Snapshot at the end of the training whose number of epochs replaces the schedule's.
        paced_epochs: That number; None until the snapshot exists.
    """

    key: SnapshotKey
    parent: SnapshotKey | None
    rate: float
    first_epoch: int
    last_epoch: int
    averaged: bool = False
    kept_epoch: int | None = None
    cosine: bool = False
    growth: int = 1
    adaptive: bool = False
    paced_by: SnapshotKey | None = None
    paced_epochs: int | None = None

    @property
    def derived(self) -> bool:
        """True when the snapshot is computed or saved by the parent's training."""
        return self.averaged or self.kept_epoch is not None

    @property
    def needs(self) -> tuple[SnapshotKey, ...]:
        """Snapshots that must exist before: the parent, and the one that gives the number of epochs."""
        return tuple(dict.fromkeys(key for key in (self.parent, self.paced_by) if key is not None))

    @property
    def branches(self) -> bool:
        """True when training continues from intermediate weights that the parent's training saves."""
        return self.kept_epoch is not None and not ARMS[self.key.arm].intermediate


def last_stage(arm: str, schedule: Schedule) -> int:
    """Return the number of an arm's last stage."""
    return len(ARMS[arm].ends(schedule)) - 1


def owner(arm: str, stage: int, schedule: Schedule) -> str:
    """Return the arm that owns a stage of `arm`: `arm`, or the arm that it shares the stage with."""
    record = ARMS[arm]
    shared = schedule.stages if record.shared_stages is None else record.shared_stages
    return arm if record.shares is None or stage > shared else owner(record.shares, stage, schedule)


def owned_stages(arm: str, schedule: Schedule) -> tuple[int, ...]:
    """Return the stages that an arm owns."""
    return tuple(stage for stage in range(last_stage(arm, schedule) + 1) if owner(arm, stage, schedule) == arm)


def find_segment(schedule: Schedule, key: SnapshotKey) -> Segment:
    """Return the segment that ends in snapshot `key`.

    Raises:
        InputError: The arm does not own the stage.
    """
    arm, stage = key.arm, key.stage
    if stage not in owned_stages(arm, schedule):
        stages = ", ".join(f"stage{number}" for number in owned_stages(arm, schedule))
        raise InputError(f"arm {arm} does not own stage{stage}. It owns {stages}.")
    if stage == 0:
        return Segment(key=key, parent=None, rate=0.0, first_epoch=0, last_epoch=0)
    record = ARMS[arm]
    ends = record.ends(schedule)
    rate = record.rate(schedule, stage)

    def parent(trunk: str, trunk_stage: int) -> SnapshotKey:
        return SnapshotKey(arm=owner(trunk, trunk_stage, schedule), seed=key.seed, stage=trunk_stage)

    keeper = record.keeper(stage)
    if keeper is not None:
        trunk_ends = ARMS[keeper].ends(schedule)
        # A rule ends the stage at the trunk's boundary at the latest.
        until = ends[stage] if record.adaptive else ends[stage] + 1
        trunk_stage = next(number for number, end in enumerate(trunk_ends) if end >= until)
        return Segment(
            key=key,
            parent=parent(keeper, trunk_stage),
            rate=rate,
            first_epoch=trunk_ends[trunk_stage - 1],
            last_epoch=ends[stage],
            kept_epoch=ends[stage],
            adaptive=record.adaptive,
        )
    pace = record.paced_by
    return Segment(
        key=key,
        parent=parent(record.mean_of, stage) if record.mean_of else parent(record.trunk or arm, stage - 1),
        rate=rate,
        first_epoch=ends[stage - 1],
        last_epoch=ends[stage],
        averaged=record.mean_of is not None,
        cosine=record.cosine,
        growth=record.growth(schedule, stage),
        adaptive=record.adaptive,
        paced_by=None if pace is None else parent(pace, last_stage(pace, schedule)),
    )


def with_pace(schedule: Schedule, segment: Segment, first_epoch: int, epochs: int | None) -> Segment:
    """Return a segment of an arm that has its own pace with the epochs that it has in one run.

    Args:
        schedule: The suite's schedule.
        segment: The segment, with the latest epochs at which it starts and ends.
        first_epoch: Epoch at which its parent ended.
        epochs: Epochs of the training that it is paced by; None for an adaptive segment.

    Returns:
        The segment. With `paced_by`, boundary b moves to round(b · epochs / schedule's epochs), but every stage has an epoch
        after the warm-up.
    """
    if epochs is None:
        return replace(segment, first_epoch=first_epoch)
    stage, stages = segment.key.stage, schedule.stages
    earliest = max(first_epoch, schedule.warmup) + 1
    last = max(round(schedule.ends[stage] * epochs / schedule.epochs), earliest)
    last = min(last, epochs - (stages - stage))
    return replace(segment, first_epoch=first_epoch, last_epoch=last, paced_epochs=epochs)


def previous_stage(schedule: Schedule, key: SnapshotKey) -> SnapshotKey | None:
    """Return the snapshot of an earlier stage from which `key` was trained; None for the initialisation."""
    before: SnapshotKey | None = key
    # A mean, and weights saved within a stage, have a parent of the same stage.
    while before is not None and before.stage >= key.stage:
        before = find_segment(schedule, before).parent
    return before


def next_segment(suite: Suite, key: SnapshotKey) -> Segment | None:
    """Return the segment that continues from snapshot `key` after a boundary, or None if there is none.

    It belongs to the same arm where that arm continues from `key`, else to an arm that shares the snapshot. A stage after the
    schedule's end counts for its own arm only.
    """
    stage = key.stage + 1
    for arm in dict.fromkeys((key.arm, *suite.arms)):
        last = last_stage(arm, suite.schedule) if arm == key.arm else suite.schedule.stages
        if stage <= last and stage in owned_stages(arm, suite.schedule):
            following = find_segment(suite.schedule, SnapshotKey(arm=arm, seed=key.seed, stage=stage))
            if following.parent == key and not following.derived:
                return following
    return None


def learning_rate(schedule: Schedule, segment: Segment, update: int, updates_per_epoch: int) -> float:
    """Learning rate of one update: a function of the update's number only.

    Args:
        schedule: The suite's schedule.
        segment: The segment that the update belongs to.
        update: Its number, from 0, counted from the start of pretraining.
        updates_per_epoch: Updates in an epoch.

    Returns:
        The segment's rate. In the warm-up it is multiplied by `(update + 1) / warm-up updates`. With `cosine` it follows half
        a cosine that starts after the warm-up and would reach 0 after the last update (Loshchilov and Hutter 2017, without
        restarts).
    """
    warmup = schedule.warmup * updates_per_epoch
    if update < warmup:
        return segment.rate * (update + 1) / warmup
    if not segment.cosine:
        return segment.rate
    return cosine_rate(segment.rate, update - warmup, schedule.epochs * updates_per_epoch - warmup)


def cosine_rate(rate: float, update: int, updates: int) -> float:
    """Learning rate of an update (from 0) on half a cosine from `rate` to 0 (Loshchilov and Hutter 2017, eq. 5)."""
    return rate * 0.5 * (1.0 + math.cos(math.pi * update / updates))


def snapshot_keys(suite: Suite, *, arm: str | None = None, seed: int | None = None) -> list[SnapshotKey]:
    """Return all snapshots of a suite, or those that one arm or seed needs: parents before children, seed by seed.

    Raises:
        InputError: The suite has no such arm or seed.
    """
    if arm is not None and arm not in suite.arms:
        raise InputError(f"suite {suite.name} has no arm {arm!r}. It has {', '.join(suite.arms)}.")
    if seed is not None and seed not in suite.seeds:
        listed = ", ".join(map(str, suite.seeds))
        raise InputError(f"suite {suite.name} has no seed {seed}. It has {listed}.")
    keys: dict[SnapshotKey, None] = {}

    def add(key: SnapshotKey) -> None:
        for needed in find_segment(suite.schedule, key).needs:
            if needed not in keys:
                add(needed)
        keys[key] = None

    for one_seed in suite.seeds if seed is None else (seed,):
        for name in suite.arms if arm is None else (arm,):
            for stage in range(last_stage(name, suite.schedule) + 1):
                add(SnapshotKey(arm=owner(name, stage, suite.schedule), seed=one_seed, stage=stage))
    return list(keys)


def kept_epochs(suite: Suite, trunk: Segment) -> dict[int, bool]:
    """Return the epochs of a segment after which its training saves the weights for another arm.

    Returns:
        For each such epoch, True when the momentum is saved too, because training continues from there.
    """
    kept: dict[int, bool] = {}
    for arm in ARMS.values():
        if arm.kept_from is None or arm.name not in suite.arms:
            continue
        for stage in owned_stages(arm.name, suite.schedule):
            branch = find_segment(suite.schedule, SnapshotKey(arm=arm.name, seed=trunk.key.seed, stage=stage))
            # The rule decides while the trunk trains.
            if branch.kept_epoch is not None and branch.parent == trunk.key and not branch.adaptive:
                kept[branch.kept_epoch] = kept.get(branch.kept_epoch, False) or branch.branches
    return kept


def keeps_stage_end(suite: Suite, trunk: Segment) -> bool:
    """Return whether the training of a segment saves its state where the rule of an adaptive arm would end it."""
    return any(
        ARMS[arm].adaptive and find_segment(suite.schedule, replace(trunk.key, arm=arm, stage=1)).parent == trunk.key
        for arm in suite.arms
    )


def means_to_keep(suite: Suite, trunk: Segment) -> frozenset[Mean]:
    """Return which means of its weights the training of a segment computes for other arms of the suite."""
    return frozenset(
        ARMS[arm].mean_over
        for arm in suite.arms
        if ARMS[arm].mean_of is not None and trunk.key.stage in owned_stages(arm, suite.schedule)
        if find_segment(suite.schedule, replace(trunk.key, arm=arm)).parent == trunk.key
    )
