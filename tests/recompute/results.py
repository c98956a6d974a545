"""Results of a suite as arrays, and the decisions on the claims on average over targets.

Of several protocol versions, weights or settings under one name, the newest version and the most frequent of the others count.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import pyarrow.parquet as parquet

from tests.recompute.formulas import (
    Array,
    Effect,
    Estimate,
    Images,
    average,
    combine,
    detectable,
    holm,
    predict_by_null,
    resampled_errors,
)

Row = tuple[str, int]

SIGNS = {"C1": -1, "C2": -1, "C3": -1, "C4": 1}
DECIDING = ("probe", "knn", "finetune")


@dataclass
class Column:
    """Results of one target under one protocol, or of the source: by row and seed, which test images are right."""

    name: str
    labels: Array
    metric: str
    correct: dict[tuple[Row, int], Array]

    def seeds(self, rows: Sequence[Row], among: Sequence[int]) -> tuple[int, ...]:
        return tuple(seed for seed in among if all((row, seed) in self.correct for row in rows))

    def stack(self, rows: Sequence[Row], seeds: Sequence[int]) -> Array:
        return np.array([[self.correct[row, seed] for seed in seeds] for row in rows])

    def effect(self, rows: Sequence[Row], seeds: Sequence[int]) -> Effect:
        """The accuracy of one row, or the first row minus the second."""
        correct = self.stack(rows, seeds)
        images = Images(correct[0] - correct[1] if len(rows) == 2 else correct[0], self.labels, self.metric)
        return Effect(tuple(seeds), images.headlines(), {self.name: images})


class Outcome(NamedTuple):
    """Named effects of a claim, and those tested if they differ; or the reason why there are none."""

    effects: list[tuple[str, Effect]] = []
    tested: list[Effect] = []
    reason: str = ""
    testable: bool = True


@dataclass
class Decision:
    """A test of one claim; `boundary` is 0 for the mean over the boundaries."""

    claim: str
    protocol: str
    boundary: int
    effects: list[tuple[str, Estimate]]
    tested: list[Estimate]
    reason: str
    testable: bool
    p: float | None = None
    adjusted: float | None = None
    detectable: float | None = None
    verdict: str = "inconclusive"

    @property
    def place(self) -> str:
        return boundary_name(self.boundary) if self.boundary else "mean"


def boundary_name(boundary: int) -> str:
    return f"{boundary} → {boundary + 1}"


def row_name(row: Row) -> str:
    return f"{row[0]}/stage{row[1]}"


class Results:
    """A suite's results in full data."""

    def __init__(self, folder: Path) -> None:
        self.suite = suite = json.loads((folder / "suite.json").read_text())
        self.seeds, self.margin = suite["seeds"], suite.get("margin", 2.0)
        schedule = suite["schedule"]
        self.stages = len(schedule["rates"])
        epochs, trail = schedule["epochs"], schedule["trail"] or 1
        longer = epochs + (schedule.get("constant_extra") or 0)
        self.trail_epochs = {}
        for arm, end in (("trail", longer), ("small-trail", epochs)):
            marks = {round(epochs * part / trail) for part in range(1, trail * end) if epochs * part < trail * end}
            self.trail_epochs[arm] = sorted(marks - {0, *schedule["boundaries"], epochs, end})
        self.rows = [(arm, stage) for arm in suite["arms"] for stage in self.owned(arm, longer > epochs)]
        registration = folder.parent.parent / "registrations" / f"{suite['name']}.json"
        self.registration = json.loads(registration.read_text()) if registration.is_file() else None
        self.load(pandas.DataFrame(_records(folder)))

    def owned(self, arm: str, longer: bool) -> range:
        """Stages that an arm does not share with another."""
        first = {"step": 0, "constant": 3, "constant-average": 3, "raise": self.stages + 1}.get(arm)
        if first is None:
            first = 2 if arm == "hold" or arm.endswith("average") else 1
        last = self.stages + (arm == "raise" or (arm == "constant" and longer))
        return range(first, (len(self.trail_epochs[arm]) if arm in self.trail_epochs else last) + 1)

    def load(self, frame: pandas.DataFrame) -> None:
        suite = self.suite
        frame = frame[~frame.partial & frame.row.isin(self.rows) & frame.seed.isin(self.seeds)]
        own = frame.protocol.isin(suite["protocols"]) & frame.task.isin(suite["targets"])
        own &= frame.transfer_seed.isin(suite["transfer_seeds"])
        weights = frame[own].groupby(["row", "seed"]).sha256.agg(lambda hashes: hashes.value_counts().index[0])
        key = pandas.MultiIndex.from_frame(frame[["row", "seed"]])
        current = frame.sha256.to_numpy() == weights.reindex(key).to_numpy()
        self.source_accuracy: dict[tuple[Row, int], float] = {}
        self.columns: dict[tuple[str, str], Column] = {}
        self.source: Column | None = None
        self.places: dict[Row, tuple[int, float]] = {}
        tabled = []
        for (protocol, task), group in frame[current & (own | (frame.protocol == "source"))].groupby(
            ["protocol", "task"]
        ):
            group = group[group.version == group.version.max()]
            group = group[group.conditions == group.conditions.value_counts().index[0]]
            correct = {
                place: np.mean(list(cells.correct), axis=0)
                for place, cells in group.groupby(["row", "seed"])
                if protocol == "source" or len(cells) == len(suite["transfer_seeds"])
            }
            metric = "top1" if protocol == "source" else group.metric.iloc[0]
            column = Column(task if protocol != "source" else "source", group.labels.iloc[0], metric, correct)
            if protocol == "source":
                self.source = column
            else:
                self.columns[protocol, task] = column
                accuracies = zip(group.row, group.seed, group.source_accuracy, strict=True)
                self.source_accuracy |= {(row, seed): value for row, seed, value in accuracies if value is not None}
                self.places |= {row: place for row, *place in zip(group.row, group.epoch, group.rate, strict=True)}
                tabled.append(group)
        self.entries = pandas.concat(tabled)

    def counts(self) -> tuple[int, int]:
        """Number of cells with results, and of all cells."""
        protocols, transfers = self.suite["protocols"], len(self.suite["transfer_seeds"])
        rows = [row for row in self.rows for protocol in protocols if self.uses(protocol, row[0])]
        used = [
            place
            for (protocol, _), column in self.columns.items()
            for place in column.correct
            if self.uses(protocol, place[0][0])
        ]
        return len(used) * transfers, len(rows) * len(self.suite["targets"]) * len(self.seeds) * transfers

    def uses(self, protocol: str, arm: str) -> bool:
        return arm in self.suite.get("protocol_arms", {}).get(protocol, self.suite["arms"])

    def effect(self, rows: Sequence[Row], protocol: str, task: str) -> Effect | None:
        column = self.columns.get((protocol, task))
        seeds = column.seeds(rows, self.seeds) if column else ()
        return column.effect(rows, seeds) if column and seeds else None

    def accuracy(self, row: Row, protocol: str, task: str) -> Estimate | None:
        effect = self.effect([row], protocol, task)
        return effect.estimate() if effect else None

    def is_better(self, row: Row, other: Row, protocol: str, task: str) -> bool:
        effect = self.effect([row, other], protocol, task)
        estimate = effect.estimate() if effect else None
        return estimate is not None and estimate.n > 1 and estimate.mean > estimate.half_width()

    # The claims.

    def outcome(self, claim: str, protocol: str, task: str, boundary: int) -> Outcome:
        steps = [("step", boundary + shift) for shift in (-1, 0, 1)]
        if claim == "C2":
            effect = self.effect(steps[:0:-1], protocol, task)
            return (
                Outcome([("this stage − previous stage", effect)])
                if effect
                else self.lacking(steps[1:], protocol, task)
            )
        if claim == "C3":
            return self.causal(protocol, task, boundary + 1)
        column, source = self.columns.get((protocol, task)), self.source
        null = [row for row in self.rows if self.in_null(row) and self.uses(protocol, row[0])]
        if claim == "C4" and len(null) < 8:
            count = f"{len(null)} snapshot{'s' * (len(null) != 1)} without decay and averaging"
            return Outcome(reason=f"not identified: the suite has {count}, 8 are needed", testable=False)
        rows = steps if claim == "C1" else [steps[2], *null]
        seeds = column.seeds(rows, source.seeds(rows, self.seeds)) if column and source else ()
        if not (column and source and seeds):
            return self.lacking(rows, protocol, task, with_source=True)
        if claim == "C1":
            return self.diminishing(steps, column, source, seeds)
        return self.beyond_saturation(null, steps[2], column, source, seeds)

    def lacking(self, rows: Sequence[Row], protocol: str, task: str, *, with_source: bool = False) -> Outcome:
        missing = [row for row in rows if self.effect([row], protocol, task) is None]
        if len(missing) == len(rows):
            return Outcome(reason="no results")
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return Outcome(reason=f"no results of {row_name(missing[0])}{more}")
        predicted = {row for row, _ in self.source.correct} if self.source else set()
        if with_source and not predicted.issuperset(rows):
            return Outcome(reason="no predictions on the source's test images are stored")
        return Outcome(reason="no seed has results of all snapshots needed")

    def causal(self, protocol: str, task: str, stage: int) -> Outcome:
        for control in ("hold", "average"):
            if control not in self.suite["arms"]:
                return Outcome(reason=f"the suite has no arm {control}", testable=False)
            if not self.uses(protocol, control):
                return Outcome(reason=f"the suite does not use {protocol} on the arm {control}", testable=False)
        rows = [("step", stage), ("hold", stage), ("average", stage)]
        effects = [(f"step − {row[0]}", self.effect([rows[0], row], protocol, task)) for row in rows[1:]]
        found = [(name, effect) for name, effect in effects if effect is not None]
        return Outcome(found) if len(found) == 2 else self.lacking(rows, protocol, task)

    def diminishing(self, rows: Sequence[Row], column: Column, source: Column, seeds: Sequence[int]) -> Outcome:
        """C1: t₂/s₂ − t₁/s₁ by the delta method, tested by θ = t₂ s₁ − t₁ s₂, over s₁ s₂."""
        pairs = [[rows[1], rows[0]], [rows[2], rows[1]]]
        for pair in pairs:
            gain = source.effect(pair, seeds).estimate()
            undefined = f"T of stage {pair[0][1]} is undefined: the source"
            if gain.mean == 0 or (gain.n > 1 and abs(gain.mean) <= gain.half_width()):
                return Outcome(reason=f"{undefined}'s gain is not significantly different from zero")
            if gain.mean < 0 and gain.n > 1:
                return Outcome(reason=f"{undefined} lost accuracy")
        effects = [part.effect(pair, seeds) for part in (column, source) for pair in pairs]
        t1, t2, s1, s2 = (effect.values.mean() for effect in effects)
        change = combine([-1 / s1, 1 / s2, t1 / s1**2, -t2 / s2**2], effects, norm_of_units=2)
        theta = combine([factor / (s1 * s2) for factor in (-s2, s1, t2, -t1)], effects, norm_of_units=2)
        change = replace(change, values=change.values - change.values.mean() + t2 / s2 - t1 / s1)
        theta = replace(theta, values=theta.values - theta.values.mean() + t2 / s2 - t1 / s1)
        return Outcome([("T of the next stage − T of this stage", change)], [theta])

    def in_null(self, row: Row) -> bool:
        """Whether a snapshot is trained at one rate only and is not an average."""
        return row in (("step", 1), ("hold", 2)) or (
            row[0] in ("constant", "trail", "small", "small-trail") and row[1] > 0
        )

    def beyond_saturation(
        self, null: Sequence[Row], row: Row, column: Column, source: Column, seeds: Sequence[int]
    ) -> Outcome:
        rows = [*null, row]
        errors = resampled_errors(
            source.stack(rows, seeds), source.labels, "top1", "source images of the saturation null"
        )
        for position, seed in enumerate(seeds):
            *others, own = errors[:, position, 0]
            less, more = sum(other < own for other in others), sum(other > own for other in others)
            if min(less, more) < 2:
                return Outcome(
                    reason=f"not identified: of the snapshots without decay of seed {seed}, {less} have less and {more} have "
                    f"more source error than this one ({100 * own:.1f} %); 2 of each are needed"
                )
        key = ("saturation null", self.suite["name"], column.name)
        observed = resampled_errors(column.stack(rows, seeds), column.labels, column.metric, *key)
        residuals = np.array(
            [
                observed[-1, s] - predict_by_null(errors[:-1, s], observed[:-1, s], errors[-1, s])
                for s in range(len(seeds))
            ]
        )
        share = 0.5 / (len(column.labels) + 1)
        floor = share * (1 - share) / len(column.labels)
        effect = Effect(tuple(seeds), residuals[:, 0], replicates=residuals[:, 1:], floor=floor)
        return Outcome([("error observed − predicted", effect)])

    def decisions(self) -> list[Decision]:
        """Decide each claim on average over targets: at each boundary, and on average over boundaries (`boundary` 0)."""
        decisions = []
        for claim in SIGNS:
            families: tuple[list[Decision], list[Decision]] = ([], [])
            for protocol in self.deciding():
                outcomes = {
                    boundary_name(boundary): pool(
                        {task: self.outcome(claim, protocol, task, boundary) for task in self.suite["targets"]}
                    )
                    for boundary in range(1, self.stages)
                }
                for boundary, outcome in enumerate([pool(outcomes), *outcomes.values()]):
                    families[boundary > 0].append(self.test(claim, protocol, boundary, outcome))
            for family in families:
                self.judge(family)
                decisions += family
        return decisions

    def by_place(self, decisions: Sequence[Decision], claim: str) -> list[Decision]:
        """Return the decisions on a claim by protocol, then boundary, with the mean last."""
        chosen = [decision for decision in decisions if decision.claim == claim]
        return sorted(chosen, key=lambda part: (self.deciding().index(part.protocol), part.boundary or self.stages))

    def deciding(self) -> list[str]:
        return [protocol for protocol in self.suite["protocols"] if protocol in DECIDING]

    def test(self, claim: str, protocol: str, boundary: int, outcome: Outcome) -> Decision:
        effects = [(name, effect.estimate()) for name, effect in outcome.effects]
        tested = [effect.estimate() for effect in outcome.tested] or [estimate for _, estimate in effects]
        decision = Decision(claim, protocol, boundary, effects, tested, outcome.reason, outcome.testable)
        if tested and all(estimate.n > 1 for estimate in tested):
            decision.p = max(estimate.p() for estimate in tested)
        if tested and len(self.seeds) < 3:
            decision.reason = f"{len(self.seeds)} pretraining seed{'s' * (len(self.seeds) > 1)}, at least 3 are needed"
        elif tested and (n := min(estimate.n for estimate in tested)) < len(self.seeds):
            decision.reason = f"incomplete: {n} of {len(self.seeds)} seeds"
        return decision

    def judge(self, family: Sequence[Decision]) -> None:
        members = [decision for decision in family if decision.testable]
        adjusted = holm([1.0 if decision.p is None else decision.p for decision in members])
        for decision, p in zip(members, adjusted, strict=True):
            if decision.p is None:
                continue
            decision.adjusted = p
            decision.detectable = max(detectable(estimate, len(members)) for _, estimate in decision.effects)
            if decision.reason:
                continue
            signs = {np.sign(estimate.mean) for estimate in decision.tested}
            within = (abs(part.mean) + part.half_width(0.1) < self.margin / 100 for part in decision.tested)
            if p < 0.05 and len(signs) > 1:
                decision.verdict = "mixed: iterate noise"
            elif p < 0.05:
                decision.verdict = "supported" if signs == {SIGNS[decision.claim]} else "contradicted"
            elif decision.claim != "C1" and all(within):
                decision.verdict = "equivalent"


def pool(named: Mapping[str, Outcome]) -> Outcome:
    """The mean outcome of targets or boundaries, or the first reason why there is none, with its name unless all share it."""
    outcomes = list(named.values())
    for name, outcome in named.items():
        if outcome.reason:
            shared = all(other.reason == outcome.reason for other in outcomes)
            return outcome if shared else outcome._replace(reason=f"{name}: {outcome.reason}")
    effects = [
        (parts[0][0], average([effect for _, effect in parts]))
        for parts in zip(*(outcome.effects for outcome in outcomes), strict=True)
    ]
    if any(not effect.seeds for _, effect in effects):
        return Outcome(reason="no seed has results of all snapshots needed on all targets")
    return Outcome(effects, [average(parts) for parts in zip(*(outcome.tested for outcome in outcomes), strict=True)])


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.parquet")):
        record = json.loads(path.with_suffix(".json").read_text())
        snapshot, task = record["snapshot"], record["task"]
        predictions = parquet.read_table(path, columns=["label", "prediction"], use_threads=False)
        labels, predicted = (column.to_numpy() for column in predictions.columns)
        settings = (
            record.get("settings"),
            record["preprocessing"],
            snapshot["batchnorm"],
            snapshot["source_fingerprint"],
        )
        yield {
            "row": (snapshot["arm"], snapshot["stage"]),
            "seed": snapshot["pretraining_seed"],
            "epoch": snapshot["epoch"],
            "rate": snapshot["rate"],
            "sha256": snapshot["sha256"],
            "source_accuracy": snapshot["source_accuracy"],
            "task": task["name"],
            "metric": task["metric"],
            "protocol": record["protocol"],
            "version": record["protocol_version"],
            "transfer_seed": record["seed"],
            "partial": record["partial"],
            "computed": record.get("computed"),
            "conditions": json.dumps([settings, task["fingerprint"], labels.tobytes().hex()], sort_keys=True),
            "labels": labels,
            "correct": (predicted == labels).astype(float),
        }
