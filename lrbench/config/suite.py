"""Suites: one experiment in one TOML file."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lrbench.config import own_tasks
from lrbench.config.arms import ARMS, plugin_problem
from lrbench.config.books import book_name
from lrbench.config.pretraining import SHORTEST_STAGE, BatchNorm, Schedule, Training
from lrbench.config.protocols import Concat, Fewshot, Finetune, Knn, Probe, ProtocolName, SourceFit
from lrbench.config.records import key_of
from lrbench.config.strict import (
    Arguments,
    Name,
    Seed,
    Strict,
    Text,
)
from lrbench.core.workspace import FOREIGN

# A plan lists every cell in memory.
_MAX_CELLS = 1_000_000

# On the scale [0, 1]. timm's networks use deviations from 1/255 (unscaled images) to 1.
_Mean = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Std = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]


MARGIN = 2.0
"""Default margin of equivalence in points of accuracy."""

Margin = Annotated[float, Field(gt=0, le=100)]

ArmName = Annotated[str, key_of(ARMS)]
"""Name of a registered arm."""


class Model(Strict):
    """The network that is pretrained.

    Attributes:
        architecture: Name of a timm model.
        arguments: Keyword arguments of `timm.create_model`.
    """

    architecture: Text
    arguments: Arguments = {}


class Input(Strict):
    """Preprocessing of images.

    Attributes:
        size: Side of the square input in pixels.
        crop_fraction: `size` over the short side to which an image is resized before the centre crop (0.875 for
            resize 256, crop 224).
        interpolation: Filter of the resize, antialiased.
        mean: Subtracted from each channel, on the scale [0, 1].
        std: Divides each channel, on the scale [0, 1].
        crop_mode: `center` keeps the aspect ratio and crops the centre. `squash` resizes both sides to the same length, as
            some timm networks are evaluated.
    """

    size: Annotated[int, Field(ge=8, le=8192)]
    crop_fraction: Annotated[float, Field(ge=0.1, le=1)] = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[_Mean, _Mean, _Mean] = (0.485, 0.456, 0.406)
    std: tuple[_Std, _Std, _Std] = (0.229, 0.224, 0.225)
    crop_mode: Literal["center", "squash"] = "center"

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps the bytes and hashes of snapshots and suites that are older than the keys.
        content: dict[str, Any] = write(self)
        if self.crop_mode == "center":
            content.pop("crop_mode", None)
        return content


class Suite(Strict):
    """One experiment.

    Attributes:
        name: Name on the command line, of its folders and of its page.
        title: Title of its page. Default: the name.
        source: Task to pretrain on: a name, or the path of a task file relative to the suite file.
        targets: Tasks to transfer to, by name or path. A suite without targets has no protocols either, and only predicts its
            source.
        arms: Learning-rate schedules under test. `auto` needs stages of at least 15 epochs after the warm-up.
        protocols: Transfer protocols. Predictions of the source (`source`) are always computed and not named.
        seeds: Pretraining seeds, the unit of replication; fewer than three decide no claim.
        transfer_seeds: Seeds of each transfer: validation split, order of images, few-shot draw.
        protocol_arms: Arms on whose snapshots a protocol is used, by protocol, as `{ finetune = ["step", "hold"] }`. Default:
            all arms.
        validation: Share of each class held out for selection on targets without a validation split.
        margin: Difference in points of accuracy below which two snapshots count as equivalent; `lrbench register` fixes it.
        source_hits: Whether each snapshot also predicts the wrongly labelled training images of the source, as many rightly
            labelled ones, and images with conflicting evidence. The source must have such images.
        books: Whether each pretraining seed has its own code book: seed k is pretrained on the source with book k,
            `<source>-book<k>`. The source is of generator `ps10`.
        study: Study that the suite belongs to; `lrbench study` sets it.
        model: Network.
        input: Preprocessing of images.
        schedule: Pretraining of the arm `step`.
        training: Computation and log of pretraining.
        batchnorm: Re-estimation of BatchNorm statistics.
        probe: Settings of the protocol `probe`.
        knn: Settings of the protocol `knn`.
        finetune: Settings of the protocol `finetune`.
        fewshot: Settings of the protocol `fewshot`.
        concat: Settings of the protocol `concat`.
        source_fit: Fit of snapshots to training images of the source.
        task_files: TOML files of unregistered tasks, by task name. `load_suite` adds the paths given as `source` or `targets`.
    """

    name: Name
    title: Text = ""
    source: Name
    targets: Annotated[tuple[Name, ...], Field(max_length=1_000)]
    arms: Annotated[tuple[ArmName, ...], Field(min_length=1)]
    protocols: tuple[ProtocolName, ...]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)]
    transfer_seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)] = (0,)
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    margin: Margin = MARGIN
    source_hits: bool = False
    books: bool = False
    study: Name | None = None
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
    source_fit: SourceFit = SourceFit()
    task_files: dict[Name, str] = {}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        own_tasks.remember(self.task_files)

    @model_validator(mode="after")
    def _remember_task_files(self) -> "Suite":
        own_tasks.remember(self.task_files)
        return self

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps the bytes and hashes of suites that are older than the keys.
        content: dict[str, Any] = write(self)
        if not self.task_files:
            content.pop("task_files", None)
        if self.margin == MARGIN:
            content.pop("margin", None)
        for key in ("source_hits", "books", "study"):
            if not getattr(self, key):
                content.pop(key, None)
        if not self.source_fit.images:
            content.pop("source_fit", None)
        return content

    def source_of(self, seed: int) -> str:
        """Return the name of the task on which a seed is pretrained."""
        return book_name(self.source, seed) if self.books else self.source

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the tasks on which the seeds are pretrained."""
        return tuple(dict.fromkeys(map(self.source_of, self.seeds)))

    def uses(self, protocol: str, arm: str) -> bool:
        """Return True if a protocol is used on the snapshots that an arm owns."""
        return arm in next((arms for name, arms in self.protocol_arms.items() if name == protocol), self.arms)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name == FOREIGN:
            raise ValueError(f"{FOREIGN!r} is the folder of imported snapshots: give the suite another name")
        if name.endswith("-details"):
            raise ValueError(f"{name!r} ends like the details page of another suite: give the suite another name")
        return name

    @field_validator("targets", "arms", "protocols", "seeds", "transfer_seeds")
    @classmethod
    def _check_unique(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        duplicates = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if duplicates:
            raise ValueError(f"{duplicates[0]!r} is named twice")
        return values

    @model_validator(mode="after")
    def _check_targets(self) -> "Suite":
        if bool(self.targets) != bool(self.protocols):
            empty, other = ("targets", "protocols") if self.protocols else ("protocols", "targets")
            raise ValueError(f"{empty} is empty: add {empty}, or empty {other} too to predict only the source")
        return self

    @model_validator(mode="after")
    def _check_arms(self) -> "Suite":
        for arm in self.arms:
            plugin = ARMS.plugin(arm)
            if plugin is not None and (problem := plugin_problem(ARMS[arm], self.schedule)) is not None:
                raise ValueError(
                    f"arm {arm!r} of {plugin.origin} cannot be used: {problem}. Correct or remove the package"
                )
            for needed in ARMS[arm].needs:
                if needed not in self.arms:
                    raise ValueError(f"arm {arm!r} starts from {needed!r}: add {needed!r} to the arms")
        schedule = self.schedule
        ratios = [schedule.rates[0] / rate for rate in schedule.rates]
        if "grow" in self.arms and (uneven := [ratio for ratio in ratios if abs(ratio - round(ratio)) > 1e-6 * ratio]):
            raise ValueError(
                f"arm 'grow' enlarges the batch by the factor by which the rate falls, which must be whole, not {uneven[0]:g}: "
                "change schedule.rates, or remove 'grow'"
            )
        if "grow" in self.arms and schedule.batch == "all":
            raise ValueError("arm 'grow' enlarges the batch, which has all images already: remove 'grow'")
        shortest = min(schedule.shortest, schedule.boundaries[0] - schedule.warmup)
        for arm in (arm for arm in self.arms if ARMS[arm].adaptive and shortest < SHORTEST_STAGE):
            raise ValueError(
                f"arm {arm!r} ends a stage by a rule that needs stages of at least {SHORTEST_STAGE} epochs after the warm-up, "
                f"but the shortest has {shortest}: lengthen the schedule, or remove {arm!r}"
            )
        for arm in (arm for arm in self.arms if ARMS[arm].shift):
            ends = ARMS[arm].ends(schedule)
            fits = (
                list(ends) == sorted(set(ends))
                and ends[1] > schedule.warmup
                and schedule.shift_epochs < schedule.shortest
            )
            if not fits:
                raise ValueError(
                    f"arm {arm!r} would move the boundaries to epochs {', '.join(map(str, ends[1:-1]))}, which leaves a stage "
                    f"without an epoch or ends the first one during warm-up: lengthen the stages, lower schedule.shift, or "
                    f"remove {arm!r}"
                )
        return self

    @model_validator(mode="after")
    def _check_size(self) -> "Suite":
        snapshots = sum(len(ARMS[arm].ends(self.schedule)) for arm in self.arms)
        cells = snapshots * len(self.seeds) * len(self.targets) * len(self.protocols) * len(self.transfer_seeds)
        if cells > _MAX_CELLS:
            raise ValueError(
                f"up to {snapshots:,} snapshots a seed, {len(self.seeds):,} seeds, {len(self.targets):,} targets, "
                f"{len(self.protocols)} protocols and {len(self.transfer_seeds):,} transfer seeds make {cells:,} cells, more "
                f"than {_MAX_CELLS:,}: split them into several suites"
            )
        return self

    @field_validator("protocol_arms")
    @classmethod
    def _check_protocol_arms_have_step(cls, arms: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        without = [protocol for protocol, listed in arms.items() if "step" not in listed]
        if without:
            raise ValueError(f"protocol_arms.{without[0]} must include `step`, with which every claim compares")
        return arms

    @model_validator(mode="after")
    def _check_protocol_arms(self) -> "Suite":
        for protocol, listed in self.protocol_arms.items():
            missing = [arm for arm in listed if arm not in self.arms]
            if protocol not in self.protocols or missing:
                unknown = f"arm {missing[0]!r}" if missing else f"protocol {protocol!r}"
                raise ValueError(f"protocol_arms.{protocol} names {unknown}, which the suite does not have")
        return self
