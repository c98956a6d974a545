"""What a suite is: the whole experiment in one TOML file."""

import itertools
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from lrbench.config import own_tasks
from lrbench.config.protocols import Concat, Fewshot, Finetune, Knn, Probe
from lrbench.config.strict import (
    Arguments,
    BatchSize,
    Epochs,
    Name,
    NotNegative,
    Positive,
    Seed,
    Strict,
    Text,
    Threads,
    without_one_thread,
)
from lrbench.core.workspace import FOREIGN

ArmName = Literal[
    "step", "hold", "constant", "average", "constant-average", "trail", "early", "late", "small", "cosine", "raise"
]
ProtocolName = Literal["probe", "knn", "finetune", "fewshot", "concat", "depth", "logme"]
# A plan lists every cell.
_MOST_CELLS = 1_000_000

# On the scale [0, 1]; timm's networks have deviations from 0.14 to 1, and 1/255 is of images that are not scaled.
_Mean = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Std = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]

# Arms that start from another arm's state cannot be run without it.
_NEEDS: dict[str, tuple[str, ...]] = {
    "hold": ("step",),
    "constant": ("hold",),
    "average": ("hold",),
    "constant-average": ("constant", "average"),
    "trail": ("constant",),
    "early": ("step",),
    "late": ("hold",),
    "small": ("step",),
    "cosine": ("step",),
    "raise": ("step",),
}


class Model(Strict):
    """The network: a timm architecture and the keyword arguments it is made with."""

    architecture: Text
    arguments: Arguments = {}


class Input(Strict):
    """How an image becomes the network's input.

    Attributes:
        size: Side of the square input in pixels.
        crop_fraction: `size` over the short side to which an image is resized before the centre crop (0.875 for
            resize 256, crop 224).
        mean: Subtracted from each channel, on the scale [0, 1].
        std: Divides each channel, on the scale [0, 1].
        crop_mode: `center` keeps the image's shape and cuts the middle out; `squash` resizes both sides alike, which changes
            the shape (some of timm's networks were evaluated so).
    """

    size: Annotated[int, Field(ge=8, le=8192)]
    crop_fraction: Annotated[float, Field(ge=0.1, le=1)] = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[_Mean, _Mean, _Mean] = (0.485, 0.456, 0.406)
    std: tuple[_Std, _Std, _Std] = (0.229, 0.224, 0.225)
    crop_mode: Literal["center", "squash"] = "center"

    @model_serializer(mode="wrap")
    def _only_what_is_special(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Snapshots and suites from before there was a choice keep their bytes and hashes.
        content: dict[str, Any] = write(self)
        if self.crop_mode == "center":
            content.pop("crop_mode", None)
        return content


class Schedule(Strict):
    """Pretraining of the `step` arm: SGD with momentum whose learning rate falls at each boundary.

    Attributes:
        epochs: Where the last stage ends.
        boundaries: Epochs after which the rate falls: stage i ends at the i-th.
        rates: Learning rate of each stage, one more than there are boundaries.
        batch: Images in one update. An epoch has `train images // batch` updates; the images left over differ from
            epoch to epoch.
        augmentation: `crop-flip` (random-resized crop and horizontal flip), `flip`, or `none`.
        trail: Into how many equal parts the arm `trail` divides the epochs: it keeps the weights of the run without decay at
            the end of each part where no stage ends.
        warmup: Epochs at the start over which the rate rises in a straight line to the first stage's, in every arm; 0 for none.
        shift: Epochs by which the arms `early` and `late` move every boundary; by default a third of the shortest stage, at
            least one epoch.
        small: The rate of the arm `small`; by default that of stage 2.
        raised: Epochs of the arm `raise` after the last stage; by default as many as the last stage has.
    """

    epochs: Epochs
    boundaries: Annotated[tuple[Epochs, ...], Field(min_length=1, max_length=100)]
    rates: Annotated[tuple[Positive, ...], Field(max_length=101)]
    batch: BatchSize
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 1e-4
    augmentation: Literal["crop-flip", "flip", "none"] = "crop-flip"
    trail: Annotated[int, Field(gt=0, le=100)] = 9
    warmup: Annotated[int, Field(ge=0)] = 0
    shift: Epochs | None = None
    small: Positive | None = None
    raised: Epochs | None = None

    @field_validator("boundaries")
    @classmethod
    def _rising(cls, boundaries: tuple[int, ...]) -> tuple[int, ...]:
        if any(after <= before for before, after in itertools.pairwise(boundaries)):
            raise ValueError(f"boundaries must rise from one to the next, not {list(boundaries)}")
        return boundaries

    @field_validator("rates")
    @classmethod
    def _falling(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(after >= before for before, after in itertools.pairwise(rates)):
            raise ValueError(f"rates must fall at every boundary, not {list(rates)}")
        return rates

    @model_validator(mode="after")
    def _fits(self) -> "Schedule":
        if self.boundaries[-1] >= self.epochs:
            raise ValueError(
                f"boundaries must lie before the end: the last is {self.boundaries[-1]}, and training ends at epoch "
                f"{self.epochs}"
            )
        if len(self.rates) != len(self.boundaries) + 1:
            raise ValueError(
                f"{len(self.boundaries)} boundaries make {len(self.boundaries) + 1} stages, which need as many rates; "
                f"rates has {len(self.rates)}"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.warmup >= self.boundaries[0]:
            raise ValueError(
                f"warmup ({self.warmup} epochs) must end before the first boundary (epoch {self.boundaries[0]})"
            )
        if self.shift is not None and self.shift >= self.shortest:
            raise ValueError(f"shift ({self.shift}) must be shorter than the shortest stage ({self.shortest} epochs)")
        return self

    @property
    def shortest(self) -> int:
        """Epochs of the shortest stage."""
        return min(end - start for start, end in itertools.pairwise(self.ends))

    @property
    def shifted_by(self) -> int:
        """Epochs by which `early` and `late` move the boundaries."""
        return self.shift or max(1, self.shortest // 3)

    @property
    def small_rate(self) -> float:
        """The rate of the arm `small`."""
        return self.small or self.rates[1]

    @property
    def raised_epochs(self) -> int:
        """Epochs that the arm `raise` trains for."""
        return self.raised or self.epochs - self.boundaries[-1]

    def ends_of(self, arm: str) -> tuple[int, ...]:
        """Epoch at which each stage of an arm ends, from stage 0 to its last, `trail` apart."""
        if arm in ("early", "late"):
            shift = self.shifted_by if arm == "late" else -self.shifted_by
            return (0, *(boundary + shift for boundary in self.boundaries), self.epochs)
        return (*self.ends, self.epochs + self.raised_epochs) if arm == "raise" else self.ends

    @property
    def stages(self) -> int:
        """Number of stages, the initialisation (stage 0) not counted."""
        return len(self.rates)

    @property
    def trail_epochs(self) -> tuple[int, ...]:
        """Epochs after which the arm `trail` keeps weights, rising."""
        parts = {round(self.epochs * part / self.trail) for part in range(1, self.trail)}
        return tuple(sorted(parts - {0, *self.ends}))

    @property
    def ends(self) -> tuple[int, ...]:
        """Epoch at which each stage ends, from stage 0 (which ends at 0) to the last."""
        return (0, *self.boundaries, self.epochs)


class Training(Strict):
    """How pretraining is computed. `precision` and `threads` tell snapshots of two suites apart; the rest a machine may decide.

    Attributes:
        precision: Of the forward pass: `bfloat16` (autocast; weights, sums and BatchNorm stay in single precision) is faster on
            GPUs that have it.
        micro_batch: Images in one forward and backward pass of one process, whose gradients are added up to the batch. With
            BatchNorm layers these are the images that share statistics. By default a process's whole share of the batch, or
            what the snapshots that training goes on from were made with.
        compile: Whether the network is compiled (`torch.compile`); by default on a GPU, where the schedule has updates enough
            to win back the time that compiling takes. Where it fails, training goes on without.
        deterministic: Whether a GPU must give the same bits each time, which is slower. A CPU always does.
        threads: CPU threads that compute the updates of one process. Sums of floats depend on their number, and after many
            updates so do the weights; it is fixed so that neither `--workers` nor the machine decides. A GPU's updates do not
            depend on it.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    micro_batch: Annotated[int, Field(gt=0, le=1 << 20)] | None = None
    compile: bool | None = None
    deterministic: bool = False
    threads: Threads = 1

    @model_serializer(mode="wrap")
    def _only_what_is_special(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Suites from before there was a choice keep their bytes.
        return without_one_thread(write(self))


class BatchNorm(Strict):
    """Re-estimation of BatchNorm's running statistics at a boundary, on that many training images."""

    images: Annotated[int, Field(ge=2, le=10**9)] = 4096


class Suite(Strict):
    """One experiment.

    Attributes:
        source: Task to pretrain on.
        targets: Tasks to transfer to.
        arms: Learning-rate schedules under test.
        protocols: How each snapshot is transferred.
        seeds: Pretraining seeds: the unit of replication.
        transfer_seeds: Seeds of each transfer (its validation split, its order of images).
        protocol_arms: For a protocol, the arms whose own snapshots it is used on; all arms for protocols not named here.
        validation: Share of a target's training images held out for selection where it has no validation split.
        task_files: TOML files of tasks that are not registered, by the tasks' names. `load_suite` fills it in where `source` or
            `targets` give a path.
    """

    name: Name
    title: Text = ""
    source: Name
    targets: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1_000)]
    arms: Annotated[tuple[ArmName, ...], Field(min_length=1)]
    protocols: Annotated[tuple[ProtocolName, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)]
    transfer_seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)] = (0,)
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    protocol_arms: dict[ProtocolName, tuple[ArmName, ...]] = {}
    model: Model
    input: Input
    schedule: Schedule
    training: Training = Training()
    batchnorm: BatchNorm = BatchNorm()
    probe: Probe = Probe()
    knn: Knn = Knn()
    finetune: Finetune = Finetune()
    fewshot: Fewshot = Fewshot()
    concat: Concat = Concat()
    task_files: dict[Name, str] = {}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        own_tasks.remember(self.task_files)

    @model_validator(mode="after")
    def _tasks_are_known(self) -> "Suite":
        own_tasks.remember(self.task_files)
        return self

    @model_serializer(mode="wrap")
    def _files_where_there_are_any(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        if not self.task_files:
            content.pop("task_files", None)
        return content

    def uses(self, protocol: str, arm: str) -> bool:
        """Whether a protocol is to be used on an arm's own snapshots."""
        return arm in next((arms for name, arms in self.protocol_arms.items() if name == protocol), self.arms)

    @field_validator("name")
    @classmethod
    def _not_taken(cls, name: str) -> str:
        if name == FOREIGN:
            raise ValueError(f"{FOREIGN!r} is the folder of snapshots from elsewhere: give the suite another name")
        return name

    @field_validator("targets", "arms", "protocols", "seeds", "transfer_seeds")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is named twice")
        return values

    @model_validator(mode="after")
    def _branches_have_trunks(self) -> "Suite":
        for arm in self.arms:
            for trunk in _NEEDS.get(arm, ()):
                if trunk not in self.arms:
                    raise ValueError(f"arm {arm!r} starts from {trunk!r}: name {trunk!r} among the arms too")
        schedule = self.schedule
        for arm in ("early", "late"):
            ends = schedule.ends_of(arm)
            fits = (
                list(ends) == sorted(set(ends))
                and ends[1] > schedule.warmup
                and schedule.shifted_by < schedule.shortest
            )
            if arm in self.arms and not fits:
                raise ValueError(
                    f"arm {arm!r} would move the boundaries to epochs {', '.join(map(str, ends[1:-1]))}, which leaves a stage "
                    f"without an epoch or ends the first within the warm-up: make the stages longer, set schedule.shift "
                    f"smaller, or leave {arm!r} out"
                )
        return self

    @model_validator(mode="after")
    def _can_be_listed(self) -> "Suite":
        snapshots = len(self.arms) * (self.schedule.stages + 1) + len(self.schedule.trail_epochs)
        cells = snapshots * len(self.seeds) * len(self.targets) * len(self.protocols) * len(self.transfer_seeds)
        if cells > _MOST_CELLS:
            raise ValueError(
                f"up to {snapshots:,} snapshots a seed, {len(self.seeds):,} seeds, {len(self.targets):,} targets, "
                f"{len(self.protocols)} protocols and {len(self.transfer_seeds):,} transfer seeds make {cells:,} cells, more "
                f"than {_MOST_CELLS:,}: divide them among several suites"
            )
        return self

    @field_validator("protocol_arms")
    @classmethod
    def _step_stays(cls, arms: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        without = [protocol for protocol, listed in arms.items() if "step" not in listed]
        if without:
            raise ValueError(
                f"protocol_arms.{without[0]} leaves out `step`, which every claim compares with: name it too"
            )
        return arms

    @model_validator(mode="after")
    def _protocol_arms_are_there(self) -> "Suite":
        for protocol, listed in self.protocol_arms.items():
            missing = [arm for arm in listed if arm not in self.arms]
            if protocol not in self.protocols or missing:
                what = f"arm {missing[0]!r}" if missing else f"protocol {protocol!r}"
                raise ValueError(f"protocol_arms.{protocol} speaks of {what}, which the suite does not name")
        return self
