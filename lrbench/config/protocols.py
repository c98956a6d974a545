"""The transfer protocols: a registry of descriptions, and the settings tables of a suite that they read."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticKnownError

from lrbench.config.strict import BatchSize, Count, NotNegative, Positive, Strict, Text, Threads, without_one_thread


class Probe(Strict):
    """Multinomial logistic regression on frozen features.

    Attributes:
        strengths: How many strengths are tried, evenly spaced in the logarithm.
        weakest: Smallest strength λ of the penalty λ/2·‖W‖² on the summed loss.
        strongest: Largest strength.
        tolerance: A fit is done when no entry of the mean objective's gradient is larger (than this times λ/N, where the
            penalty's curvature λ/N is above 1).
        iterations: Most L-BFGS iterations of one fit.
    """

    strengths: Annotated[int, Field(ge=1, le=1_000)] = 45
    weakest: Positive = 1e-6
    strongest: Positive = 1e5
    tolerance: Positive = 1e-7
    iterations: Annotated[int, Field(gt=0, le=1_000_000)] = 1000

    @model_validator(mode="after")
    def _ordered(self) -> "Probe":
        if self.strengths == 1 and self.weakest != self.strongest:
            raise ValueError("one strength alone is said by setting weakest and strongest to it as well")
        if self.strengths > 1 and self.weakest >= self.strongest:
            raise ValueError(f"weakest ({self.weakest:g}) must be below strongest ({self.strongest:g})")
        return self

    def grid(self) -> tuple[float, ...]:
        """The strengths, strongest first (the order in which a warm start helps)."""
        if self.strengths == 1:
            return (self.strongest,)
        low, high = math.log10(self.weakest), math.log10(self.strongest)
        step = (high - low) / (self.strengths - 1)
        return tuple(float(f"{10 ** (high - step * i):.6g}") for i in range(self.strengths))


class Knn(Strict):
    """Cosine nearest neighbours: the numbers of neighbours that are tried."""

    neighbours: Annotated[tuple[Count, ...], Field(min_length=1, max_length=100)] = (1, 5, 10, 20, 50, 100, 200)


class Finetune(Strict):
    """Training the whole network on the target: the grid that every snapshot gets.

    Attributes:
        rates: Learning rates of the grid.
        decays: Weight decays of the grid, each divided by the learning rate before use.
        updates: SGD updates of one run; the rate falls to 0 along half a cosine.
        halving: Give up the worse half of the grid, by validation, after an eighth, a quarter and a half of the updates
            (successive halving, Jamieson and Talwalkar 2016). Saves half of the time and more; not for figures to publish,
            since what starts slowly is given up.
        precision: Of the training's forward pass: `bfloat16` (autocast; weights and sums stay in single precision) is faster on
            GPUs that have it. Scores are computed in single precision.
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
    def _only_what_is_special(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Results from before there was a choice stay valid.
        return without_one_thread(write(self))


class Fewshot(Strict):
    """The probe on a few images of each class. There is no validation in it: the strength is fixed beforehand.

    A cell is one draw, keyed by the transfer seed: n draws are n transfer seeds.

    Attributes:
        shots: Images of each class; a class with fewer gives all.
        strength: λ of the penalty.
    """

    shots: Count = 5
    strength: Positive = 1.0


class Concat(Strict):
    """The probe on the features of two snapshots together: does the one hold what the other lacks?

    Attributes:
        partner: The other snapshot: `arm/stage1`, of the same suite and seed, or a reference in full.
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
        module: Dotted name of the implementation; see `lrbench.transfer.protocols`.
        tables: Settings tables that it reads and that its results record.
        features: Features that it reads: of the penultimate layer, of every stage of the network, or of the penultimate layer
            of the snapshot and of its partner (`concat.partner`).
        selects: Whether it selects hyper-parameters on validation images.
        logits: Whether its scores are logits, so that calibration error and likelihood are defined.
        evidence: Whether its results hold LogME (`chosen.logme`), which ranks snapshots without test images.
        trains: Whether it trains the network instead of reading frozen features.
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
    trains: bool = False
    memory_advice: str = ""


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
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
            version=1,
            help="a probe on a few images a class",
            module="lrbench.transfer.protocols.fewshot",
            tables=("fewshot", "probe"),
            selects=False,
        ),
        Protocol(
            name="concat",
            version=1,
            help="a probe on two snapshots' features together",
            module="lrbench.transfer.protocols.probe",
            tables=("concat", "probe"),
            features="partner",
        ),
        Protocol(
            name="depth",
            version=1,
            help="a probe after each stage",
            module="lrbench.transfer.protocols.depth",
            tables=("probe",),
            features="stages",
        ),
        Protocol(
            name="logme",
            version=2,
            help="evidence, untuned",
            module="lrbench.transfer.protocols.logme",
            selects=False,
            logits=False,
            evidence=True,
        ),
    )
}
"""Every protocol by its name, in the order in which they are listed."""


def gives_evidence(name: str) -> bool:
    """Return whether results of a protocol hold LogME; False for a name that is not registered."""
    return name in PROTOCOLS and PROTOCOLS[name].evidence


def _registered(name: Any) -> Any:
    if not isinstance(name, str) or name not in PROTOCOLS:
        # The same kind of error as a Literal's, for which messages exist.
        raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, PROTOCOLS))})
    return name


ProtocolName = Annotated[str, BeforeValidator(_registered)]
"""Name of a registered protocol."""
