"""Arms: which stretches of training a suite needs, where each starts, and which snapshots they share.

A *segment* is one stage of one arm: it starts from the complete state at the end of its parent segment and trains at
one learning rate for that stage's epochs. Stages that two arms share are one segment, owned by the arm that trains it.
"""

from dataclasses import dataclass

from lrbench.errors import InputError
from lrbench.registry.suite import Schedule, Suite


@dataclass(frozen=True, order=True, kw_only=True)
class SnapshotKey:
    """Which snapshot of a suite: arm, pretraining seed and stage. `str()` gives `arm/seed0/stage1`."""

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
        rate: Learning rate throughout; 0 for the initialisation.
        first_epoch: Epoch at whose start it begins, counted from the start of pretraining.
        last_epoch: Epoch at whose end it ends (exclusive end of the range).
        averaged: True when the snapshot is the mean of the parent's epoch-end weights and nothing is trained.
        kept_epoch: The epoch after which the parent's training kept the snapshot's weights; nothing is trained.
    """

    key: SnapshotKey
    parent: SnapshotKey | None
    rate: float
    first_epoch: int
    last_epoch: int
    averaged: bool = False
    kept_epoch: int | None = None

    @property
    def derived(self) -> bool:
        """Whether the snapshot comes out of its parent's training, which went on beyond it."""
        return self.averaged or self.kept_epoch is not None


def last_stage(arm: str, schedule: Schedule) -> int:
    """The last stage of an arm. Those of `trail` are numbered by the epochs at which it keeps weights."""
    return len(schedule.trail_epochs) if arm == "trail" else schedule.stages


def owner(arm: str, stage: int) -> str:
    """The arm that trains stage `stage` of `arm`: shared stages have one owner.

    Every arm shares stages 0 and 1 with `step`, but for `trail`, which shares stage 0 alone; `constant` shares stage 2 with
    `hold`.
    """
    if arm == "trail":
        return "step" if stage == 0 else arm
    if stage <= 1:
        return "step"
    if arm == "constant" and stage == 2:
        return "hold"
    return arm


def owned_stages(arm: str, schedule: Schedule) -> tuple[int, ...]:
    """Stages that `arm` owns, under a schedule."""
    return tuple(stage for stage in range(last_stage(arm, schedule) + 1) if owner(arm, stage) == arm)


def segment(schedule: Schedule, key: SnapshotKey) -> Segment:
    """The segment that ends in snapshot `key`.

    Raises:
        InputError: The arm has no such stage of its own.
    """
    if not 0 <= key.stage <= last_stage(key.arm, schedule) or owner(key.arm, key.stage) != key.arm:
        stages = ", ".join(f"stage{stage}" for stage in owned_stages(key.arm, schedule))
        raise InputError(f"{key.arm} has no stage{key.stage} of its own. It has {stages}.")
    ends = schedule.ends
    if key.stage == 0:
        return Segment(key=key, parent=None, rate=0.0, first_epoch=0, last_epoch=0)
    if key.arm == "trail":
        epoch = schedule.trail_epochs[key.stage - 1]
        stage = next(number for number, end in enumerate(ends) if end > epoch)
        return Segment(
            key=key,
            parent=SnapshotKey(arm=owner("constant", stage), seed=key.seed, stage=stage),
            rate=schedule.rates[0],
            first_epoch=ends[stage - 1],
            last_epoch=epoch,
            kept_epoch=epoch,
        )
    # Rate i belongs to stage i; `hold` keeps the rate of the stage before, `constant` that of stage 1.
    rate_of = {"step": key.stage, "hold": key.stage - 1, "average": key.stage - 1, "constant": 1}[key.arm]
    before = key.stage - 1
    parent_arm = {"step": "step", "hold": "step", "constant": owner("constant", before), "average": "hold"}[key.arm]
    parent_stage = key.stage if key.arm == "average" else before
    return Segment(
        key=key,
        parent=SnapshotKey(arm=parent_arm, seed=key.seed, stage=parent_stage),
        rate=schedule.rates[rate_of - 1],
        first_epoch=ends[before],
        last_epoch=ends[key.stage],
        averaged=key.arm == "average",
    )


def snapshot_keys(suite: Suite, *, arm: str | None = None, seed: int | None = None) -> list[SnapshotKey]:
    """Every snapshot of a suite, parents before children, seed by seed; optionally those that one arm or seed needs.

    Raises:
        InputError: The suite has no such arm or seed.
    """
    if arm is not None and arm not in suite.arms:
        raise InputError(f"suite {suite.name} has no arm {arm!r}. It has {', '.join(suite.arms)}.")
    if seed is not None and seed not in suite.seeds:
        listed = ", ".join(map(str, suite.seeds))
        raise InputError(f"suite {suite.name} has no seed {seed}. It has {listed}.")
    keys: list[SnapshotKey] = []
    for each_seed in suite.seeds if seed is None else (seed,):
        for each_arm in suite.arms if arm is None else (arm,):
            for stage in range(last_stage(each_arm, suite.schedule) + 1):
                key = SnapshotKey(arm=owner(each_arm, stage), seed=each_seed, stage=stage)
                _with_parents(suite.schedule, key, keys)
    return keys


def kept_epochs(suite: Suite, stretch: Segment) -> tuple[int, ...]:
    """Epochs of a segment after which its training keeps the weights, for the arm `trail`."""
    key = stretch.key
    if "trail" not in suite.arms or key.stage == 0 or owner("constant", key.stage) != key.arm or stretch.derived:
        return ()
    return tuple(epoch for epoch in suite.schedule.trail_epochs if stretch.first_epoch < epoch < stretch.last_epoch)


def _with_parents(schedule: Schedule, key: SnapshotKey, keys: list[SnapshotKey]) -> None:
    if key in keys:
        return
    parent = segment(schedule, key).parent
    if parent is not None:
        _with_parents(schedule, parent, keys)
    keys.append(key)
