"""The transfer protocols: a registry of descriptions, and the settings tables of a suite that they read.

Other packages add protocols by entry points of group `lrbench.protocols`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lrbench.config.records import Group, Registry, key_of
from lrbench.config.strict import (
    BatchSize,
    Count,
    NotNegative,
    Positive,
    Strict,
    Text,
    Threads,
    without_one_thread,
)


class Probe(Strict):
    """Multinomial logistic regression on frozen features.

    Attributes:
        strengths: Number of strengths in the grid, evenly spaced on a log scale.
        weakest: Smallest strength λ of the penalty λ/2·‖W‖² on the summed loss.
        strongest: Largest strength.
        tolerance: A fit has converged when no entry of the mean objective's gradient exceeds it, times λ/N if the penalty's
            curvature λ/N is above 1.
        iterations: Maximum number of L-BFGS iterations per fit.
    """

    strengths: Annotated[int, Field(ge=1, le=1_000)] = 45
    weakest: Positive = 1e-6
    strongest: Positive = 1e5
    tolerance: Positive = 1e-7
    iterations: Annotated[int, Field(gt=0, le=1_000_000)] = 1000

    @model_validator(mode="after")
    def _check_strengths(self) -> "Probe":
        if self.strengths == 1 and self.weakest != self.strongest:
            raise ValueError("strengths = 1 needs weakest and strongest to be equal")
        if self.strengths > 1 and self.weakest >= self.strongest:
            raise ValueError(f"weakest ({self.weakest:g}) must be below strongest ({self.strongest:g})")
        return self

    def grid(self) -> tuple[float, ...]:
        """Return the strengths in decreasing order, in which each fit starts from the previous one."""
        if self.strengths == 1:
            return (self.strongest,)
        low, high = math.log10(self.weakest), math.log10(self.strongest)
        step = (high - low) / (self.strengths - 1)
        return tuple(float(f"{10 ** (high - step * i):.6g}") for i in range(self.strengths))


class Knn(Strict):
    """Nearest neighbours by cosine similarity.

    Attributes:
        neighbours: Grid of the number of neighbours.
    """

    neighbours: Annotated[tuple[Count, ...], Field(min_length=1, max_length=100)] = (1, 5, 10, 20, 50, 100, 200)


class Finetune(Strict):
    """Training of the whole network on the target, with a grid of settings.

    Attributes:
        rates: Learning rates of the grid.
        decays: Weight decays of the grid, divided by the learning rate before use.
        updates: SGD updates of one run, over which the rate falls to 0 along half a cosine.
        batch: Images per update.
        momentum: Nesterov momentum of SGD.
        augmentation: As in pretraining.
        halving: Stop the worse half of the grid, by validation accuracy, after an eighth, a quarter and half of the updates
            (successive halving, Jamieson and Talwalkar 2016). Saves at least half of the time. Not for published figures,
            because it stops runs that start slowly.
        precision: Precision of the forward pass in training. `bfloat16` (autocast; weights and sums stay in float32) is faster
            on GPUs that support it. Scores are computed in float32.
        threads: CPU threads that compute the updates, as in pretraining.
    """

    rates: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=100)] = (1e-4, 1e-3, 1e-2, 1e-1)
    decays: Annotated[tuple[NotNegative, ...], Field(min_length=1, max_length=100)] = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)
    updates: Annotated[int, Field(gt=0, le=10_000_000)] = 5000
    batch: BatchSize = 64
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    augmentation: Literal["crop-flip", "flip", "none"] = "crop-flip"
    halving: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Threads = 1

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps results valid that are older than the key.
        return without_one_thread(write(self))


class Fewshot(Strict):
    """The probe on a few images per class, without validation: the strength is fixed.

    Each transfer seed draws its own images.

    Attributes:
        shots: Images per class for the headline metric. All images of a class with fewer are used.
        curve: Images per class for the few-shot curve. A number is left out where a class has fewer images.
        strength: λ of the penalty.
    """

    shots: Count = 5
    curve: Annotated[tuple[Count, ...], Field(max_length=100)] = (1, 2, 5, 10, 20)
    strength: Positive = 1.0

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps the bytes of suites that are older than the key.
        content: dict[str, Any] = write(self)
        if self.curve == Fewshot.model_fields["curve"].default:
            content.pop("curve", None)
        return content


LANCZOS_VECTORS = 20
"""Default number of vectors of Lanczos iterations."""


class SourceFit(Strict):
    """Fit of a snapshot to a fixed sample of its source's training images, with the evaluation transform.

    Attributes:
        images: Number of images; 0 computes no fit.
        gradients: Whether to compare the gradients of batches, too.
        curvature: Whether to compute the largest eigenvalue of the Hessian, too.
        batch: Images in each of up to 16 batches whose gradients are compared.
        lanczos_vectors: Vectors of the Lanczos iterations for the eigenvalue. The iterations take at least about as many
            products with the Hessian. It changes the eigenvalue by up to about 1 %.
    """

    images: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    gradients: bool = False
    curvature: bool = False
    batch: BatchSize = 64
    lanczos_vectors: Annotated[int, Field(ge=3, le=1_000)] = LANCZOS_VECTORS

    @model_serializer(mode="wrap")
    def _omit_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keeps the bytes of suites and results that are older than the key.
        content: dict[str, Any] = write(self)
        if self.lanczos_vectors == LANCZOS_VECTORS:
            content.pop("lanczos_vectors", None)
        return content

    @model_validator(mode="after")
    def _check_batches(self) -> "SourceFit":
        if self.gradients and self.images < 2 * self.batch:
            raise ValueError(
                f"gradients compares gradients of at least two batches of {self.batch} images, but images is {self.images}"
            )
        return self


class Concat(Strict):
    """The probe on the concatenated features of two snapshots.

    Attributes:
        partner: Reference to the other snapshot. `arm/stage1` is in the same suite and seed.
    """

    partner: Text = "step/stage1"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Description of a transfer protocol. Its implementation is imported only where it runs.

    Attributes:
        name: Name in suites, results and `--protocol`.
        version: Version of the procedure. Raise it with every change that can change a result: results of two versions are
            never ranked together.
        help: Description in `lrbench transfer --help`.
        module: Dotted name of the implementation, which may import torch; see `lrbench.transfer.protocols`.
        tables: Settings tables that it reads and that its results record.
        features: Features that it reads: of the penultimate layer, of every stage of the network, or of the penultimate layer
            of the snapshot and of its partner (`concat.partner`).
        selects: Whether it selects hyper-parameters on validation images.
        logits: Whether its scores are logits, so that calibration error and likelihood are defined.
        evidence: Whether its results hold LogME (`chosen.logme`), which ranks snapshots without test images.
        compares: Whether its results compare the features with those of related snapshots, and describe them on the source.
        trains: Whether it trains the network instead of reading frozen features. Only `finetune` does.
        decides: Whether claims are decided under it. The others describe features.
        memory_advice: Sentence for the out-of-memory error: which settings need less memory.
    """

    name: str
    version: int
    help: str
    module: str
    tables: tuple[str, ...] = ()
    features: Literal["penultimate", "stages", "partner"] = "penultimate"
    selects: bool = True
    logits: bool = True
    evidence: bool = False
    compares: bool = False
    trains: bool = False
    decides: bool = True
    memory_advice: str = ""


_REGISTERED = (
    Protocol(
        name="probe",
        version=2,
        help="logistic regression on frozen features",
        module="lrbench.transfer.protocols.probe",
        tables=("probe",),
    ),
    Protocol(
        name="knn",
        version=3,
        help="nearest neighbours",
        module="lrbench.transfer.protocols.knn",
        tables=("knn",),
        logits=False,
    ),
    Protocol(
        name="finetune",
        version=2,
        help="the whole network trained",
        module="lrbench.transfer.protocols.finetune",
        tables=("finetune",),
        trains=True,
        memory_advice='Or lower finetune.batch, set finetune.precision = "bfloat16", or turn off finetune.halving, which '
        "keeps every network of the grid.",
    ),
    Protocol(
        name="fewshot",
        version=2,
        help="a probe on a few images a class, with a curve over their number",
        module="lrbench.transfer.protocols.fewshot",
        tables=("fewshot", "probe"),
        selects=False,
        decides=False,
    ),
    Protocol(
        name="concat",
        version=1,
        help="a probe on two snapshots' features together",
        module="lrbench.transfer.protocols.probe",
        tables=("concat", "probe"),
        features="partner",
        decides=False,
    ),
    Protocol(
        name="depth",
        version=1,
        help="a probe after each stage",
        module="lrbench.transfer.protocols.depth",
        tables=("probe",),
        features="stages",
        decides=False,
    ),
    Protocol(
        name="logme",
        version=2,
        help="evidence, untuned",
        module="lrbench.transfer.protocols.logme",
        selects=False,
        logits=False,
        evidence=True,
        decides=False,
    ),
    Protocol(
        name="representation",
        version=1,
        help="nearest class mean, with neural collapse and similarity to related snapshots (CKA)",
        module="lrbench.transfer.protocols.representation",
        selects=False,
        logits=False,
        compares=True,
        decides=False,
    ),
)

SOURCE = Protocol(
    name="source",
    version=1,
    help="the network's own classifier on the source's test images",
    module="lrbench.transfer.source",
    selects=False,
)
"""Predictions of a snapshot on the test images of its source. Every snapshot of a suite has them; nothing is transferred, and
neither suites nor commands name it."""

SOURCE_HITS = Protocol(
    name="source-hits",
    version=1,
    help="the network's own classifier on images of the source with wrong labels or conflicting evidence",
    module="lrbench.transfer.source",
    selects=False,
)
"""Predictions of a snapshot on the images in `HIT_BLOCKS`. Snapshots of a suite with `source_hits = true` have them."""

SOURCE_FIT = Protocol(
    name="source-fit",
    version=1,
    help="the network's own classifier on a sample of the source's training images, and the curvature of their loss",
    module="lrbench.transfer.source",
    selects=False,
    tables=("source_fit",),
)
"""Predictions of a snapshot on a sample of training images. Snapshots of a suite with `source_fit.images` above 0 have them."""

HEAD = Protocol(
    name="head",
    version=1,
    help="the network's own classifier, on tasks with further test images of its source",
    module="lrbench.transfer.head",
    selects=False,
    logits=False,
    decides=False,
)
"""Predictions of a network's own classifier on the test images of a task with `[head]`. Nothing is transferred; suites do not
name it."""

HIT_BLOCKS = ("wrong", "right", "conflict")
"""Images of `SOURCE_HITS` in order: wrongly labelled training images, as many rightly labelled ones, the split `conflict`."""

RESERVED = {protocol.name: protocol for protocol in (SOURCE, SOURCE_HITS, SOURCE_FIT)}
"""Protocols of predictions of the source, by name. They transfer nothing."""


TABLES = ("probe", "knn", "finetune", "fewshot", "concat")
"""Tables of settings that a protocol may read."""


def _objection(protocol: Protocol, _protocols: Mapping[str, Protocol]) -> str | None:
    if protocol.trains:
        return "it trains the network (trains=True), which only `finetune` does"
    unknown = [table for table in protocol.tables if table not in TABLES]
    return f"it reads the table {unknown[0]!r}, which is not one of {', '.join(TABLES)}" if unknown else None


PROTOCOLS: Registry[Protocol] = Registry(
    _REGISTERED, Group(name="lrbench.protocols", kind=Protocol, reserved=(*RESERVED, HEAD.name), objection=_objection)
)
"""Every transfer protocol by its name, in the order in which they are listed."""


def source_splits(name: str) -> tuple[Literal["train", "test", "conflict"], ...]:
    """Return the splits of the source that a protocol of `RESERVED` reads."""
    if name == SOURCE_HITS.name:
        return ("train", "conflict")
    return ("train",) if name == SOURCE_FIT.name else ("test",)


def find_protocol(name: str) -> Protocol:
    """Return the protocol of a cell: a transfer protocol, a reserved one, or `HEAD`."""
    if name in RESERVED:
        return RESERVED[name]
    return HEAD if name == HEAD.name else PROTOCOLS[name]


def requested_protocols() -> list[str]:
    """Return the names of the protocols that a user may ask for."""
    return [*PROTOCOLS, HEAD.name]


def gives_evidence(name: str) -> bool:
    """Return whether results of a protocol hold LogME; False for a name that is not registered."""
    return name in PROTOCOLS and PROTOCOLS[name].evidence


def _refuse_source(name: object) -> object:
    if name == SOURCE.name:
        raise ValueError(
            f"{SOURCE.name!r} is not a transfer protocol; `lrbench run` computes it for every suite: remove it"
        )
    if name == HEAD.name:
        raise ValueError(
            f"suites do not have the protocol {HEAD.name!r}; `lrbench transfer --protocol head` computes it"
        )
    if name == SOURCE_HITS.name:
        raise ValueError(f"{SOURCE_HITS.name!r} is not a transfer protocol: set source_hits = true instead")
    if name == SOURCE_FIT.name:
        raise ValueError(f"{SOURCE_FIT.name!r} is not a transfer protocol: set source_fit.images instead")
    return name


ProtocolName = Annotated[str, key_of(PROTOCOLS), BeforeValidator(_refuse_source)]
"""Name of a registered protocol."""
