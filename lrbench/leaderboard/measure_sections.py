"""Sections of the details page on measures beside accuracy. A section appears where there are results for it."""

from lrbench.config.relatives import RELATIVES, related_keys
from lrbench.config.schedule import SnapshotKey
from lrbench.leaderboard.claims import tested_protocols
from lrbench.leaderboard.evidence import MEAN_OF_TARGETS, SOURCE, Evidence, row_name
from lrbench.leaderboard.figure_data import staged_rows
from lrbench.leaderboard.markup import NOTHING, Marked, bracketed, number, points, rounded, table
from lrbench.leaderboard.measures import (
    CORRELATED,
    MIN_CORRELATED,
    Measures,
    collect_measures,
    correlate,
    matched_difference,
    run_without_decay,
)
from lrbench.stats.effects import mean_effect

_FEATURES = {
    "nc1": (
        "Neural collapse: variability within classes (NC1)",
        "Variability of features within classes over that between classes; 0 if every image has the mean feature of its class.",
    ),
    "nc2": (
        "Neural collapse: angles between classes (NC2)",
        "Mean deviation of the cosines between class means from those of equal angles; 0 if all angles are equal.",
    ),
    "class_separation": (
        "Class separation",
        "Share of the cosine distance between images that is between classes; 1 if classes are separated completely.",
    ),
}

_NAMES = {
    "nc1": "NC1",
    "nc2": "NC2",
    "class_separation": "class separation",
    "effective_rank": "effective rank",
    "feature_norm": "feature norm",
    "cka_previous": "CKA with the previous stage",
}


def measure_sections(evidence: Evidence, level: str) -> list[str]:
    """Return the sections on measures beside accuracy, under headings of a level."""
    measures = collect_measures(evidence)
    sections = [
        *((title, _features(evidence, measures, name, text)) for name, (title, text) in _FEATURES.items()),
        ("Similarity of snapshots (linear CKA)", _similarity(evidence, measures)),
        ("Few-shot curve", _few_shot(evidence, measures)),
        *(
            (f"{protocol}: at the same source accuracy", _matched(evidence, protocol))
            for protocol in tested_protocols(evidence)
        ),
        ("What goes along with worse transfer", _correlations(evidence, measures)),
    ]
    return [f"{level} {title}\n\n{text}" for title, text in sections if text]


def _features(evidence: Evidence, measures: Measures, name: str, text: str) -> str:
    """Return a table of a measure of features by snapshot, on the source and on each target."""
    lines = []
    targets = [target for target in evidence.suite.targets if _any(measures, name, target)]
    with_source, seeds = measures.has(f"source_{name}"), len(evidence.seeds)
    for row in staged_rows(evidence):
        # Every target of a snapshot records the same description of the source.
        source = next(
            (
                estimate
                for target in evidence.suite.targets
                if (estimate := measures.estimate(f"source_{name}", row, [target])) is not None
            ),
            None,
        )
        values = [measures.estimate(name, row, [target]) for target in targets]
        if source is not None or any(values):
            line = {"snapshot": row_name(row)} | ({SOURCE: number(source, seeds, 2)} if with_source else {})
            lines.append(line | dict(zip(targets, (number(value, seeds, 2) for value in values), strict=True)))
    where = (
        "the source's test images and the targets' training images" if with_source else "the targets' training images"
    )
    return f"{table(lines)}\n\n{text} On {where}; mean ± half the 95 % interval over seeds." if lines else ""


def _any(measures: Measures, name: str, target: str) -> bool:
    return any(task == target for _, task in measures.values.get(name, {}))


def _similarity(evidence: Evidence, measures: Measures) -> str:
    """Return a table of linear CKA by pair of snapshots and target."""
    lines = []
    for row in staged_rows(evidence):
        key = SnapshotKey(arm=row[0], seed=evidence.seeds[0], stage=row[1])
        related = related_keys(evidence.suite, key)
        for name in RELATIVES:
            values = [measures.estimate(f"cka_{name}", row, [target]) for target in evidence.suite.targets]
            if name in related and any(values):
                other = related[name]
                lines.append(
                    {"snapshots": f"{row_name(row)} and {row_name((other.arm, other.stage))}"}
                    | dict(
                        zip(
                            evidence.suite.targets,
                            (number(value, len(evidence.seeds), 3) for value in values),
                            strict=True,
                        )
                    )
                )
    if not lines:
        return ""
    return (
        f"{table(lines)}\n\nSimilarity of the features of each target's test images under two snapshots: 1 if they are equal "
        "up to rotation and scale. Mean ± half the 95 % interval over seeds."
    )


def _few_shot(evidence: Evidence, measures: Measures) -> str:
    """Return a table of few-shot accuracy, averaged over targets, by snapshot and number of images per class."""
    shots = measures.numbers("shots_")
    targets = [target for target in evidence.suite.targets if any(_any(measures, f"shots_{k}", target) for k in shots)]
    lines = []
    for row in staged_rows(evidence):
        values = [measures.estimate(f"shots_{count}", row, targets) for count in shots]
        if any(values):
            lines.append(
                {"snapshot": row_name(row)}
                | {
                    f"{count} image{'s' * (count > 1)}": points(value, len(evidence.seeds))
                    for count, value in zip(shots, values, strict=True)
                }
            )
    if not lines:
        return ""
    return (
        f"{table(lines)}\n\nAccuracy of the probe with this number of training images per class, in percent, on average over "
        f"{', '.join(targets)}; mean ± half the 95 % interval over seeds. {NOTHING}: a class of a target has fewer images."
    )


def _matched(evidence: Evidence, protocol: str) -> str:
    """Return the differences of `step` and the run without decay at the same source accuracy."""
    lines = []
    seeds, targets = len(evidence.seeds), evidence.suite.targets
    columns = [column for column in evidence.columns if column.protocol == protocol]
    for row in staged_rows(evidence):
        if row[0] != "step" or row in run_without_decay(evidence) or row[1] == 0:
            continue
        effects = [matched_difference(evidence, row, column) for column in columns]
        complete = [effect for effect in effects if effect is not None]
        if not complete:
            continue
        line = {"snapshot": row_name(row), SOURCE: points(evidence.source_accuracy(row), seeds)}
        line |= {
            column.task: points(None if effect is None else effect.estimate(), seeds, signed=True)
            for column, effect in zip(columns, effects, strict=True)
        }
        if len(targets) > 1:
            mean = mean_effect(complete) if len(complete) == len(effects) else None
            line[MEAN_OF_TARGETS] = points(None if mean is None else mean.estimate(), seeds, signed=True)
        lines.append(line)
    if not lines:
        return ""
    arms = "`trail` and `constant`" if "trail" in evidence.suite.arms else "`constant`"
    return (
        f"{table(lines)}\n\nTarget accuracy of `step` minus that of the run without decay at the same source accuracy, in "
        f"points: interpolated on {arms}, linearly and within each seed. Below zero: decay transfers worse than training "
        f"without decay up to the same source accuracy. {NOTHING}, or fewer seeds: the source accuracy is outside that of the "
        "run, and nothing is extrapolated. Source accuracies count as known."
    )


def _correlations(evidence: Evidence, measures: Measures) -> str:
    """Return the correlations of measures with target accuracy, or why there are none."""
    pairs = [pair for pair in evidence.control_pairs() if pair[1][0] == "hold"]
    names = [name for name in CORRELATED if measures.has(name)]
    if not pairs or not names:
        return ""
    if len(evidence.seeds) < MIN_CORRELATED:
        return (
            f"Correlations of these measures with target accuracy need at least {MIN_CORRELATED} pretraining seeds; the suite "
            f"has {len(evidence.seeds)}."
        )
    lines = []
    for row, control in pairs:
        for name in names:
            by_protocol = {
                protocol: correlate(evidence, measures, name, protocol, row, control)
                for protocol in tested_protocols(evidence)
            }
            if any(by_protocol.values()):
                lines.append(
                    {
                        "difference": f"{row_name(row)} − {row_name(control)}",
                        "measure": _measure_name(name),
                        **{
                            protocol: Marked(
                                NOTHING
                                if value is None
                                else f"{rounded(value.value, 2, signed=True)} {bracketed(value.low, value.high, 1, 2)}"
                            )
                            for protocol, value in by_protocol.items()
                        },
                    }
                )
    if not lines:
        return ""
    return (
        f"{table(lines)}\n\nPearson's r over pretraining seeds between the difference in a measure and the difference in "
        "target accuracy, with its 95 % interval (Fisher). Both are averaged over targets first, because the targets of one "
        "seed share a network. Above zero: where decay lowers the measure more, it transfers worse. Many measures are compared "
        "without adjustment, so these are hints, not evidence."
    )


def _measure_name(name: str) -> str:
    plain = name.removeprefix("source_")
    return f"{_NAMES[plain]}{' (source)' if name != plain else ''}"
