"""Learning-rate arms: one record per arm. Adding a record to `ARMS` adds an arm to every part of lrbench.

Other packages add arms by entry points of group `lrbench.arms`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lrbench.config.records import Group, Registry

if TYPE_CHECKING:
    from lrbench.config.pretraining import Schedule


Mean = Literal["epochs", "tail", "moving"]
"""Weights that a mean is of: those at the ends of a stage's epochs, those after every update of its last epoch, or those after
every update of the stage, in an exponential moving average."""


def _stage_rate(schedule: "Schedule", stage: int) -> float:
    return schedule.rates[stage - 1]


def _previous_rate(schedule: "Schedule", stage: int) -> float:
    return schedule.rates[stage - 2]


def _first_rate(schedule: "Schedule", _stage: int) -> float:
    return schedule.rates[0]


def _small_rate(schedule: "Schedule", _stage: int) -> float:
    return schedule.small_rate


def _grown_rate(schedule: "Schedule", stage: int) -> float:
    return schedule.rates[stage - 1] * schedule.growth(stage)


def _no_growth(_schedule: "Schedule", _stage: int) -> int:
    return 1


def _no_epochs(_schedule: "Schedule") -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One learning-rate schedule under test.

    Attributes:
        name: Name in suites, paths, results and pages.
        rate: Learning rate of a stage (from 1), given the schedule and the stage's number.
        growth: Factor by which the batch of a stage (from 1) is larger than the schedule's.
        falls: True when the rate, or the noise of the gradient, falls during training, at boundaries or continuously.
        cosine: True when the rate falls from `rate` to 0 along half a cosine over all epochs.
        shift: Sign with which the arm moves every boundary by `schedule.shift_epochs`; 0 for the schedule's boundaries.
        extra_epochs: Epochs of a stage that the arm adds after the schedule's last, given the schedule; 0 for no such stage.
        shares: Arm that owns the first stages of this one; None when the arm owns all of its stages.
        shared_stages: Last stage that is shared with `shares`; None for all stages of the schedule.
        trunk: Arm from whose previous stage each stage starts; None for the previous stage of this arm.
        mean_of: Arm whose weights are averaged over each stage; nothing is trained.
        mean_over: Weights of the stage that are averaged.
        kept_from: Arm whose training saves intermediate weights for this one: for every stage of an arm that is
            `intermediate`, else for the first stage.
        intermediate: True when snapshots are intermediate weights of `kept_from`, numbered by epoch instead of stage.
        adaptive: True when a rule ends each stage (`stats.stage_end`), at the latest at the schedule's boundary.
        paced_by: Arm whose number of epochs in the same seed takes the place of the schedule's: boundaries move in proportion.
        marker: Matplotlib marker in figures.
        description: One line for pages, a template for `describe`.
        comparison: Difference from `step`, for the pages that compare the two; None when they are never compared.
    """

    name: str
    rate: Callable[["Schedule", int], float] = _stage_rate
    growth: Callable[["Schedule", int], int] = _no_growth
    falls: bool = False
    cosine: bool = False
    shift: int = 0
    extra_epochs: Callable[["Schedule"], int] = _no_epochs
    shares: str | None = "step"
    shared_stages: int | None = 0
    trunk: str | None = None
    mean_of: str | None = None
    mean_over: Mean = "epochs"
    kept_from: str | None = None
    intermediate: bool = False
    adaptive: bool = False
    paced_by: str | None = None
    marker: str
    description: str
    comparison: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Arms that a suite with this arm must have too."""
        return tuple(
            dict.fromkeys(filter(None, (self.mean_of, self.kept_from, self.trunk, self.shares, self.paced_by)))
        )

    @property
    def has_own_pace(self) -> bool:
        """True if its stages may end before those of `ends`, at epochs that differ between seeds."""
        return self.adaptive or self.paced_by is not None

    def ends(self, schedule: "Schedule") -> tuple[int, ...]:
        """Epoch at which each stage ends at the latest, from stage 0, which ends at 0, to the last."""
        if self.intermediate:
            assert self.kept_from is not None
            return (0, *schedule.trail_epochs(ARMS[self.kept_from].extra_epochs(schedule)))
        boundaries = (boundary + self.shift * schedule.shift_epochs for boundary in schedule.boundaries)
        extra = self.extra_epochs(schedule)
        return (0, *boundaries, schedule.epochs, *((schedule.epochs + extra,) if extra else ()))

    def keeper(self, stage: int) -> str | None:
        """Return the arm whose training saves the snapshot of a stage, or None if no other arm's does."""
        return self.kept_from if self.intermediate or stage == 1 else None

    def describe(self, schedule: "Schedule") -> str:
        """Return the arm's description with the schedule's numbers filled in."""
        ends, extra = self.ends(schedule), self.extra_epochs(schedule)
        return self.description.format(
            rates=" to ".join(f"{rate:g}" for rate in schedule.rates),
            first_rate=f"{schedule.rates[0]:g}",
            small_rate=f"{schedule.small_rate:g}",
            boundaries=", ".join(map(str, ends[1:-1])),
            epochs=", ".join(map(str, ends[1:])),
            extra_epochs=extra,
            decay=schedule.moving_decay,
            bound=f", up to {schedule.largest_batch} images" if schedule.largest_batch else "",
            longer=f", for {extra} more epochs than `step`" if extra else "",
        )


_REGISTERED = (
    Arm(
        name="step",
        falls=True,
        shares=None,
        marker="o",
        description="the rate falls from {rates} after epochs {boundaries}",
    ),
    Arm(
        name="hold",
        rate=_previous_rate,
        trunk="step",
        shared_stages=1,
        marker="s",
        description="each stage again from the same weights, momentum and order of images, at the rate of the previous stage",
        comparison="`hold` branches from `step` at the previous boundary with the same weights, momentum and data order, and "
        "trains for as many updates",
    ),
    Arm(
        name="constant",
        rate=_first_rate,
        shares="hold",
        shared_stages=2,
        extra_epochs=lambda schedule: schedule.constant_extra or 0,
        marker="^",
        description="the rate stays {first_rate}{longer}; shares stages 0 and 1 with `step` and stage 2 with `hold`",
        comparison="`constant` never lets the rate fall",
    ),
    Arm(
        name="average",
        rate=_previous_rate,
        mean_of="hold",
        shared_stages=1,
        marker="D",
        description="the mean of `hold`'s weights at the ends of the stage's epochs",
        comparison="`average` is the mean of `hold`'s weights",
    ),
    Arm(
        name="constant-average",
        rate=_first_rate,
        mean_of="constant",
        shares="average",
        shared_stages=2,
        marker="d",
        description="the mean of `constant`'s weights at the ends of the stage's epochs; shares stage 2 with `average`",
        comparison="`constant-average` is the mean of its weights",
    ),
    Arm(
        name="step-average",
        falls=True,
        mean_of="step",
        shared_stages=1,
        marker="p",
        description="the mean of `step`'s weights at the ends of the stage's epochs",
        comparison="`step-average` is the mean of `step`'s weights",
    ),
    Arm(
        name="tail-average",
        rate=_previous_rate,
        mean_of="hold",
        mean_over="tail",
        shared_stages=1,
        marker="h",
        description="the mean of `hold`'s weights after every update of the stage's last epoch",
        comparison="`tail-average` is the mean of `hold`'s weights over the last epoch",
    ),
    Arm(
        name="step-tail-average",
        falls=True,
        mean_of="step",
        mean_over="tail",
        shared_stages=1,
        marker="8",
        description="the mean of `step`'s weights after every update of the stage's last epoch",
        comparison="`step-tail-average` is the mean of `step`'s weights over the last epoch",
    ),
    Arm(
        name="moving-average",
        rate=_previous_rate,
        mean_of="hold",
        mean_over="moving",
        shared_stages=1,
        marker="1",
        description="the exponential moving average of `hold`'s weights over the stage's updates, of decay {decay:g}",
        comparison="`moving-average` is the exponential moving average of `hold`'s weights",
    ),
    Arm(
        name="step-moving-average",
        falls=True,
        mean_of="step",
        mean_over="moving",
        shared_stages=1,
        marker="2",
        description="the exponential moving average of `step`'s weights over the stage's updates, of decay {decay:g}",
        comparison="`step-moving-average` is the exponential moving average of `step`'s weights",
    ),
    Arm(
        name="trail",
        rate=_first_rate,
        kept_from="constant",
        intermediate=True,
        marker="v",
        description="intermediate weights of the run without decay, after epochs {epochs}",
    ),
    Arm(
        name="early",
        falls=True,
        shift=-1,
        kept_from="step",
        marker="<",
        description="`step` with its boundaries at epochs {boundaries}",
        comparison="`early` lets the rate fall sooner",
    ),
    Arm(
        name="late",
        falls=True,
        shift=1,
        kept_from="hold",
        marker=">",
        description="`step` with its boundaries at epochs {boundaries}",
        comparison="`late` lets it fall later",
    ),
    Arm(
        name="small",
        rate=_small_rate,
        marker="P",
        description="the rate is {small_rate} from the start",
        comparison="`small` has a small rate from the start",
    ),
    Arm(
        name="small-trail",
        rate=_small_rate,
        kept_from="small",
        intermediate=True,
        marker="4",
        description="intermediate weights of the run at the rate {small_rate}, after epochs {epochs}",
    ),
    Arm(
        name="cosine",
        rate=_first_rate,
        falls=True,
        cosine=True,
        marker="X",
        description="the rate falls from {first_rate} to 0 along half a cosine; snapshots at the epochs of `step`'s boundaries",
        comparison="`cosine` lets it fall throughout",
    ),
    Arm(
        name="auto",
        falls=True,
        kept_from="step",
        adaptive=True,
        marker="3",
        description="`step`, but a stage ends when its training loss has stopped falling, by epochs {epochs} at the latest",
        comparison="`auto` lets it fall when the training loss has stopped falling",
    ),
    Arm(
        name="short",
        falls=True,
        paced_by="auto",
        marker="+",
        description="`step` with boundaries moved in proportion, so that each seed trains for as many epochs as with `auto`",
        comparison="`short` is `step` in as few epochs as `auto`",
    ),
    Arm(
        name="grow",
        rate=_grown_rate,
        falls=True,
        growth=lambda schedule, stage: schedule.growth(stage),
        shared_stages=1,
        marker="H",
        description="the batch grows where the rate of `step` falls, by the same factor{bound}; the rate stays otherwise",
        comparison="`grow` lets the noise of the gradient fall with the batch instead of the rate (Smith et al. 2018)",
    ),
    Arm(
        name="raise",
        rate=_first_rate,
        extra_epochs=lambda schedule: schedule.raised_epochs,
        shared_stages=None,
        marker="*",
        description="{extra_epochs} more epochs at {first_rate} after the end of `step`",
    ),
)


def plugin_problem(arm: Arm, schedule: "Schedule") -> str | None:
    """Return why an arm of a plug-in, whose functions may return anything, cannot follow a schedule; None if it can."""
    try:
        ends = arm.ends(schedule)
        arm.describe(schedule)
        own = range(len(ends) if arm.shared_stages is None else arm.shared_stages + 1, len(ends))
        rates = [arm.rate(schedule, stage) for stage in own]
        factors = [arm.growth(schedule, stage) for stage in own]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if list(ends) != sorted(set(ends)) or any(type(end) is not int for end in ends):
        return f"its stages end at the epochs {ends}, which are not rising whole numbers"
    if not all(isinstance(rate, int | float) and 0 < rate < math.inf for rate in rates):
        return f"its learning rates are {rates}, which are not all positive numbers"
    if not all(type(factor) is int and factor > 0 for factor in factors):
        return f"its batches grow by {factors}, which are not all positive whole numbers"
    return None


def _objection(arm: Arm, arms: Mapping[str, Arm]) -> str | None:
    unknown = [name for name in arm.needs if name not in arms]
    return f"it starts from the arm {unknown[0]!r}, which does not exist" if unknown else None


ARMS: Registry[Arm] = Registry(_REGISTERED, Group(name="lrbench.arms", kind=Arm, objection=_objection))
"""All arms by name."""
