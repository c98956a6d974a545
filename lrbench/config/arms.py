"""Arms: which stretches of training a suite needs, where each starts, and which snapshots they share.

A *segment* is one stage of one arm: it starts from the complete state at the end of its parent segment and trains at
one learning rate for that stage's epochs. Stages that two arms share are one segment, owned by the arm that trains it.
"""

import math
from dataclasses import dataclass

from lrbench.config.suite import Schedule, Suite
from lrbench.core.errors import InputError

MEAN_OF = {"average": "hold", "constant-average": "constant"}
"""Arms whose snapshots are means of the epoch-end weights of another arm's stage."""


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
        rate: Learning rate, by which a warm-up ends; 0 for the initialisation. With `cosine`, the highest.
        first_epoch: Epoch at whose start it begins, counted from the start of pretraining.
        last_epoch: Epoch at whose end it ends (exclusive end of the range).
        averaged: True when the snapshot is the mean of the parent's epoch-end weights and nothing is trained.
        kept_epoch: The epoch after which the parent's training kept the snapshot's weights; nothing is trained.
        cosine: Whether the rate falls along half a cosine over all epochs, and not at boundaries.
    """

    key: SnapshotKey
    parent: SnapshotKey | None
    rate: float
    first_epoch: int
    last_epoch: int
    averaged: bool = False
    kept_epoch: int | None = None
    cosine: bool = False

    @property
    def derived(self) -> bool:
        """Whether the snapshot comes out of its parent's training, which went on beyond it."""
        return self.averaged or self.kept_epoch is not None

    @property
    def branches(self) -> bool:
        """Whether training goes on from what the parent's training kept on its way; from `trail`'s snapshots none does."""
        return self.kept_epoch is not None and self.key.arm != "trail"


def last_stage(arm: str, schedule: Schedule) -> int:
    """The last stage of an arm. Those of `trail` are numbered by the epochs at which it keeps weights."""
    return len(schedule.trail_epochs) if arm == "trail" else len(schedule.ends_of(arm)) - 1


def owner(arm: str, stage: int, schedule: Schedule) -> str:
    """The arm that trains stage `stage` of `arm`: shared stages have one owner.

    Every arm shares stage 0 with `step`; `hold`, `constant` and their means share stage 1 too, and `raise` all of `step`'s;
    `constant` shares stage 2 with `hold`, and so does the mean of the one with the mean of the other.
    """
    shared = {"hold": 1, "constant": 1, "average": 1, "constant-average": 1, "raise": schedule.stages}.get(arm, 0)
    if stage <= shared:
        return "step"
    return {"constant": "hold", "constant-average": "average"}.get(arm, arm) if stage == 2 else arm


def owned_stages(arm: str, schedule: Schedule) -> tuple[int, ...]:
    """Stages that `arm` owns, under a schedule."""
    return tuple(stage for stage in range(last_stage(arm, schedule) + 1) if owner(arm, stage, schedule) == arm)


def segment(schedule: Schedule, key: SnapshotKey) -> Segment:
    """The segment that ends in snapshot `key`.

    Raises:
        InputError: The arm has no such stage of its own.
    """
    arm, stage = key.arm, key.stage
    if stage not in owned_stages(arm, schedule):
        stages = ", ".join(f"stage{each}" for each in owned_stages(arm, schedule))
        raise InputError(f"{arm} has no stage{stage} of its own. It has {stages}.")
    if stage == 0:
        return Segment(key=key, parent=None, rate=0.0, first_epoch=0, last_epoch=0)
    if arm == "trail":
        return _kept(schedule, key, "constant", schedule.trail_epochs[stage - 1])
    if arm in ("early", "late") and stage == 1:
        # A moved first boundary lies on the way of `step`'s first stage, or of `hold`'s going on from it.
        return _kept(schedule, key, "step" if arm == "early" else "hold", schedule.ends_of(arm)[1])
    # Rate i belongs to stage i; `hold` keeps the rate of the stage before, `constant` that of stage 1.
    rate = {
        "hold": schedule.rates[stage - 2],
        "average": schedule.rates[stage - 2],
        "constant": schedule.rates[0],
        "constant-average": schedule.rates[0],
        "cosine": schedule.rates[0],
        "raise": schedule.rates[0],
        "small": schedule.small_rate,
    }.get(arm)
    trunk = "step" if arm == "hold" else MEAN_OF.get(arm, arm)
    before = stage if arm in MEAN_OF else stage - 1
    ends = schedule.ends_of(arm)
    return Segment(
        key=key,
        parent=SnapshotKey(arm=owner(trunk, before, schedule), seed=key.seed, stage=before),
        rate=schedule.rates[stage - 1] if rate is None else rate,
        first_epoch=ends[stage - 1],
        last_epoch=ends[stage],
        averaged=arm in MEAN_OF,
        cosine=arm == "cosine",
    )


def _kept(schedule: Schedule, key: SnapshotKey, trunk: str, epoch: int) -> Segment:
    """A snapshot that the run at the first rate, as `trunk` knows it, passes at the end of an epoch."""
    ends = schedule.ends
    stage = next(number for number, end in enumerate(ends) if end > epoch)
    return Segment(
        key=key,
        parent=SnapshotKey(arm=owner(trunk, stage, schedule), seed=key.seed, stage=stage),
        rate=schedule.rates[0],
        first_epoch=ends[stage - 1],
        last_epoch=epoch,
        kept_epoch=epoch,
    )


def learning_rate(schedule: Schedule, stretch: Segment, update: int, updates_per_epoch: int) -> float:
    """The rate of one update: a function of its number and of nothing else.

    Args:
        schedule: The suite's schedule.
        stretch: The segment that the update belongs to.
        update: Its number, from 0, counted from the start of pretraining.
        updates_per_epoch: Updates in an epoch.

    Returns:
        The segment's rate; in the warm-up the share `(update + 1) / updates of the warm-up` of it; with `cosine` the rate of
        half a cosine that begins after the warm-up and would reach 0 after the last update (Loshchilov and Hutter 2017,
        without restarts).
    """
    warmup = schedule.warmup * updates_per_epoch
    if update < warmup:
        return stretch.rate * (update + 1) / warmup
    if not stretch.cosine:
        return stretch.rate
    return cosine_rate(stretch.rate, update - warmup, schedule.epochs * updates_per_epoch - warmup)


def cosine_rate(rate: float, update: int, updates: int) -> float:
    """Learning rate of an update (from 0) on half a cosine from `rate` to 0 (Loshchilov and Hutter 2017, eq. 5)."""
    return rate * 0.5 * (1.0 + math.cos(math.pi * update / updates))


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
                key = SnapshotKey(arm=owner(each_arm, stage, suite.schedule), seed=each_seed, stage=stage)
                _with_parents(suite.schedule, key, keys)
    return keys


def kept_epochs(suite: Suite, stretch: Segment) -> dict[int, bool]:
    """Epochs of a segment after which its training keeps the weights for another arm.

    Returns:
        For each such epoch, whether the momentum is kept too, because training goes on from there.
    """
    kept: dict[int, bool] = {}
    for arm in ("trail", "early", "late"):
        for stage in owned_stages(arm, suite.schedule) if arm in suite.arms else ():
            found = segment(suite.schedule, SnapshotKey(arm=arm, seed=stretch.key.seed, stage=stage))
            if found.kept_epoch is not None and found.parent == stretch.key:
                # `trail` comes first, so an arm that goes on from the same epoch has the last word.
                kept[found.kept_epoch] = found.branches
    return kept


def _with_parents(schedule: Schedule, key: SnapshotKey, keys: list[SnapshotKey]) -> None:
    if key in keys:
        return
    parent = segment(schedule, key).parent
    if parent is not None:
        _with_parents(schedule, parent, keys)
    keys.append(key)
