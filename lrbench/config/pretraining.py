"""Settings of pretraining: the schedule, how updates are computed, and the re-estimation of BatchNorm statistics."""

import itertools
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lrbench.config.strict import BatchSize, Epochs, NotNegative, Positive, Strict, Threads, without_one_thread

MOVING_DECAY = 0.999
"""Default decay of a moving average of weights by one update."""

SHORTEST_STAGE = 15
"""Epochs of a stage that the rule of an adaptive arm needs. In shorter ones it hardly ever ends a stage before its boundary."""


class Schedule(Strict):
    """Pretraining of the arm `step`: SGD with momentum whose learning rate falls at each boundary.

    Attributes:
        epochs: Epoch at which the last stage ends.
        boundaries: Epochs after which the rate falls. Stage i ends at the i-th.
        rates: Learning rate of each stage, one more than there are boundaries.
        batch: Images per update, over all processes. An epoch has `train images // batch` updates; the remaining images differ
            between epochs. `all` makes one update with all training images, computed in pieces.
        momentum: Momentum of SGD.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Weight decay of SGD.
        augmentation: `crop-flip` (random-resized crop and horizontal flip), `flip`, or `none`.
        trail: Number of equal parts into which the arms `trail` and `small-trail` divide the epochs. They save the weights of
            the runs at the first and at the small rate at the end of each part, except where a stage ends. Parts of the same
            length continue over `constant_extra`.
        warmup: Epochs at the start over which the rate rises linearly to that of stage 1, in every arm.
        shift: Epochs by which the arms `early` and `late` move every boundary. Default: a third of the shortest stage, at
            least one epoch.
        small: Rate of the arm `small`. Default: the rate of stage 2.
        raised: Epochs that the arm `raise` adds after the last stage. Default: as many as the last stage has.
        moving_decay: Decay of an exponential moving average by one update. Weights before the stage do not count: the weights
            after the i-th of its n updates count in proportion to `moving_decay ** (n - i)`.
        largest_batch: Largest batch of the arm `grow`, a multiple of `batch`; from there on its rate falls. Default: none.
        constant_extra: Epochs that the arm `constant` adds after the last stage, at the first rate. Default: none.
    """

    epochs: Epochs
    boundaries: Annotated[tuple[Epochs, ...], Field(min_length=1, max_length=100)]
    rates: Annotated[tuple[Positive, ...], Field(max_length=101)]
    batch: BatchSize | Literal["all"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 1e-4
    augmentation: Literal["crop-flip", "flip", "none"] = "crop-flip"
    trail: Annotated[int, Field(gt=0, le=100)] = 9
    warmup: Annotated[int, Field(ge=0)] = 0
    shift: Epochs | None = None
    small: Positive | None = None
    raised: Epochs | None = None
    constant_extra: Epochs | None = None
    largest_batch: BatchSize | None = None
    moving_decay: Annotated[float, Field(gt=0, lt=1)] = MOVING_DECAY

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps the bytes and hashes of snapshots and suites that are older than the key.
        content: dict[str, Any] = write(self)
        for key in ("constant_extra", "largest_batch"):
            if content.get(key) is None:
                content.pop(key, None)
        if self.moving_decay == MOVING_DECAY:
            content.pop("moving_decay", None)
        return content

    @field_validator("boundaries")
    @classmethod
    def _check_boundaries(cls, boundaries: tuple[int, ...]) -> tuple[int, ...]:
        if any(after <= before for before, after in itertools.pairwise(boundaries)):
            raise ValueError(f"boundaries must increase, not {list(boundaries)}")
        return boundaries

    @field_validator("rates")
    @classmethod
    def _check_rates(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(after >= before for before, after in itertools.pairwise(rates)):
            raise ValueError(f"rates must decrease, not {list(rates)}")
        return rates

    @model_validator(mode="after")
    def _check_lengths(self) -> "Schedule":
        if self.boundaries[-1] >= self.epochs:
            raise ValueError(
                f"boundaries must be before the end: the last is {self.boundaries[-1]}, and training ends at epoch "
                f"{self.epochs}"
            )
        if len(self.rates) != len(self.boundaries) + 1:
            raise ValueError(
                f"boundaries define {len(self.boundaries) + 1} stages with a rate each, but the number of rates is "
                f"{len(self.rates)}"
            )
        if self.largest_batch is not None and (self.batch == "all" or self.largest_batch % self.batch):
            raise ValueError(f"largest_batch ({self.largest_batch}) must be a multiple of batch ({self.batch})")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.warmup >= self.boundaries[0]:
            raise ValueError(
                f"warmup ({self.warmup} epochs) must end before the first boundary (epoch {self.boundaries[0]})"
            )
        if self.shift is not None and self.shift >= self.shortest:
            raise ValueError(f"shift ({self.shift}) must be shorter than the shortest stage ({self.shortest} epochs)")
        return self

    def growth(self, stage: int) -> int:
        """Return the factor of the batch in a stage (from 1) of the arm `grow`: first rate over the stage's rate, bounded."""
        factor = round(self.rates[0] / self.rates[stage - 1])
        return factor if self.largest_batch is None else min(factor, self.largest_batch // self.batch_of(1))

    def batch_of(self, images: int) -> int:
        """Return the images per update, given the number of training images."""
        return images if self.batch == "all" else self.batch

    @property
    def shortest(self) -> int:
        """Epochs of the shortest stage."""
        return min(end - start for start, end in itertools.pairwise(self.ends))

    @property
    def shift_epochs(self) -> int:
        """Epochs by which the arms `early` and `late` move the boundaries."""
        return self.shift or max(1, self.shortest // 3)

    @property
    def small_rate(self) -> float:
        """Rate of the arm `small`."""
        return self.small or self.rates[1]

    @property
    def raised_epochs(self) -> int:
        """Epochs that the arm `raise` adds."""
        return self.raised or self.epochs - self.boundaries[-1]

    @property
    def stages(self) -> int:
        """Number of stages without the initialisation (stage 0)."""
        return len(self.rates)

    def trail_epochs(self, extra: int) -> tuple[int, ...]:
        """Return the epochs after which intermediate weights of an arm are saved, in increasing order.

        Args:
            extra: Epochs that the arm adds after the schedule's last stage.
        """
        total = self.epochs + extra
        parts = range(1, -(-self.trail * total // self.epochs))
        return tuple(sorted({round(self.epochs * part / self.trail) for part in parts} - {0, *self.ends, total}))

    @property
    def ends(self) -> tuple[int, ...]:
        """Epoch at which each stage ends, from stage 0, which ends at 0, to the last."""
        return (0, *self.boundaries, self.epochs)


class Training(Strict):
    """Computation and log of pretraining. Only `precision` and `threads` belong to the recipe that identifies snapshots.

    Attributes:
        precision: Precision of the forward pass. `bfloat16` (autocast; weights, sums and BatchNorm stay in float32) is faster
            on GPUs that support it.
        micro_batch: Images per forward and backward pass of one process; gradients are accumulated to the batch. With
            BatchNorm layers these images share statistics. Default: a process's share of the batch, or the value with which
            the parent snapshot was trained.
        compile: True to compile the network (`torch.compile`). Default: on a GPU, when the schedule has enough updates to
            recover the compilation time. If compilation fails, training continues without it.
        deterministic: True to make a GPU bit-reproducible, which is slower. A CPU always is.
        threads: CPU threads that compute the updates of one process. Sums of floats depend on it, so it is fixed independently
            of `--workers` and the machine. Updates on a GPU do not depend on it.
        statistics_batches: Batches of training images on which the log compares gradients at the end of each epoch, at least
            two; 0 for none. Snapshots do not depend on it.
        update_statistics: Whether the log has norms of weights and updates, and each snapshot after a constant rate names the
            epochs at which published rules would have ended its stage. Weights do not depend on it.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    micro_batch: Annotated[int, Field(gt=0, le=1 << 20)] | None = None
    compile: bool | None = None
    deterministic: bool = False
    threads: Threads = 1
    statistics_batches: Annotated[int, Field(ge=0, le=1_000)] = 0
    update_statistics: bool = False

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps the bytes of suites that are older than the keys.
        content = without_one_thread(write(self))
        for key in ("statistics_batches", "update_statistics"):
            if not content.get(key):
                content.pop(key, None)
        return content

    @field_validator("statistics_batches")
    @classmethod
    def _check_statistics_batches(cls, batches: int) -> int:
        if batches == 1:
            raise ValueError("statistics_batches must be 0 or at least 2: statistics compare the gradients of batches")
        return batches


class BatchNorm(Strict):
    """Re-estimation of BatchNorm's running statistics for each snapshot.

    Attributes:
        images: Training images on which the statistics are re-estimated.
    """

    images: Annotated[int, Field(ge=2, le=10**9)] = 4096
