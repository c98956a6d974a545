"""Second page of a suite in Markdown: every comparison and decision, the settings, and the results that are left out."""

import json
from collections import Counter
from collections.abc import Sequence

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.config.protocols import gives_evidence
from lrbench.core.escaping import for_markdown
from lrbench.leaderboard import summary, tables, verdicts
from lrbench.leaderboard.claims import Decision
from lrbench.leaderboard.evidence import Evidence, row_name
from lrbench.leaderboard.factorial import factorial_table
from lrbench.leaderboard.figures import Figure
from lrbench.leaderboard.markup import bullets, code, link, table
from lrbench.leaderboard.measure_sections import measure_sections
from lrbench.leaderboard.registration import registration_sentence
from lrbench.leaderboard.suite_page import main_figures, result_sections

READING = """## How to read the decisions

- *Mean of targets* is the primary evidence: the effect averaged over the suite's targets, for each seed. Single targets
  are secondary.
- *Boundary* 1 → 2 is between stages 1 and 2. *Mean* is one test of the effect averaged over the boundaries.
- *Verdict*: *supported* or *contradicted* if the adjusted p is below 0.05, by the sign of the effect. For C3 both differences
  must have that sign; *mixed: iterate noise* if they are significant with opposite signs, because weights at a large rate are
  noisy.
  *No difference beyond δ points* if the 90 % interval is within ±δ (two one-sided tests). Otherwise *inconclusive*. The claims
  were fixed before any result.
- *Effect*: with its 95 % interval over pretraining seeds and test images, in points of accuracy (of error for C4), or as a
  difference of T for C1 (delta method).
- *p* is two-sided. For C1 it tests the cross product of the gains, whose variance differs; it may disagree with the
  interval. For C3 it is the larger p of the two differences.
- *p (Holm)* adjusts within a claim: means over targets for protocols and boundaries, single targets for targets too. Tests
  without results count.
- *Detectable*: the smallest effect that these seeds detect by itself in four of five repetitions, after Holm; *none* if that
  is more than 100 points. C3 needs two such effects at once, which are detected together less often.
- Intervals of the source contain its test images. Without stored predictions on them there is no interval, and C1 and C4 are
  not tested.
- C4's null is fitted to snapshots without decay and without averaging, of which two must have less and two more source error.
- C4's null never rises as source error falls. If networks without decay transfer worse the longer they train, C4 attributes
  that to decay."""


def render_details(
    suite: Suite, groups: Sequence[Evidence], decisions: Sequence[Sequence[Decision]], drawn: Sequence[Figure]
) -> str:
    """Return the details page of a suite.

    Args:
        suite: The suite.
        groups: Full results first, then those of partial data.
        decisions: The decisions on every claim, for each group.
        drawn: Figures of the first group.
    """
    parts = [
        f"# {for_markdown(suite.title or suite.name)}: details",
        f"The answer and the accuracies are on the {link('main page', f'{suite.name}.md')}.",
        for_markdown(registration_sentence(groups[0], groups[0].registration)),
    ]
    on_main_page = {figure.name for figure in main_figures(drawn)}
    for evidence, decided in zip(groups, decisions, strict=True):
        level = "##"
        if evidence.partial:
            level = "###"
            parts.append(
                "## Partial data\n\nThese results were computed on incomplete data (`--partial`). They are compared with one "
                "another only."
            )
        # Transfers of partial data that the suite does not name say nothing about the suite's own cells.
        if evidence.completed or not evidence.partial:
            if evidence is not groups[0]:
                parts.append(for_markdown(summary.in_short(evidence, decided)))
                parts += result_sections(evidence, decided, level)
            parts += _comparisons(evidence, decided, level)
        parts += _other_transfers(evidence, level)
        parts += measure_sections(evidence, level)
        if report := tables.source_report(evidence):
            parts.append(
                f"{level} Source accuracy by kind of evidence\n\n{report}\n\n"
                "Share of images in percent, mean ± half the 95 % interval over seeds."
            )
        if evidence is groups[0] and (others := [figure for figure in drawn if figure.name not in on_main_page]):
            parts += ["## Figures", *(figure.markdown(suite.name) for figure in others)]
    if any(evidence.completed or not evidence.partial for evidence in groups):
        parts.append(READING)
    parts.append(_settings(suite, groups))
    for evidence in groups:
        parts += _left_out(evidence)
    return "\n\n".join(part for part in parts if part) + "\n"


def _comparisons(evidence: Evidence, decisions: Sequence[Decision], level: str) -> list[str]:
    """Return the verdicts, differences, T, controls and decisions of every protocol of the suite."""
    parts = []
    for protocol in evidence.suite.protocols:
        sections = [
            ("verdict on each claim", verdicts.verdict_table(evidence, decisions, protocol)),
            (
                "difference from the previous stage",
                f"{tables.differences(evidence, protocol)}\n\nIn points, paired over seeds and images.",
            ),
            (
                "transferability T of each stage",
                f"{tables.transferability(evidence, protocol)}\n\n"
                "T is the gain on the target divided by the gain on the source, from the previous stage to this one, with "
                "Fieller's 95 % interval. It is *undefined* where the source's gain is not significantly different from zero. "
                "T shrinks by saturation alone; read it together with the differences and the controls. On the log-odds scale, "
                f"which has no ceiling:\n\n{tables.transferability(evidence, protocol, scale='logit')}",
            ),
            ("decay against its controls", _controls(evidence, protocol, falling=False)),
            ("rate and averaging", _factorial(evidence, protocol)),
            ("other ways to let the rate fall", _controls(evidence, protocol, falling=True)),
            (
                "decisions",
                f"{verdicts.decision_table(evidence, decisions, protocol)}\n\n"
                "[How to read the decisions](#how-to-read-the-decisions)",
            ),
            (
                "differences within one run",
                f"{verdicts.run_differences(evidence, protocol)}\n\n"
                "In points, with the 95 % interval over test images (paired bootstrap). McNemar's exact p is given where all "
                "images have equal weight and there is one transfer seed. One run says nothing about another, so these "
                "differences decide nothing. The crossed bootstrap resamples seeds and images independently; with few seeds it "
                "is too narrow, and it decides nothing either.",
            ),
        ]
        if gives_evidence(protocol):
            targets = [column.task for column in tables.of_protocol(evidence, protocol)]
            sections.insert(0, ("scores", _logme_scores(evidence, targets)))
        parts += [f"{level} {protocol}: {title}\n\n{text}" for title, text in sections if text]
    return parts


def _controls(evidence: Evidence, protocol: str, *, falling: bool) -> str:
    """Return the differences of `step` and the arms whose rate falls, or does not fall, with descriptions of those arms."""
    differences = tables.control_differences(evidence, protocol, falling=falling)
    if not differences:
        return ""
    meaning = (
        "`step` transfers worse than the other arm"
        if falling
        else "letting the rate fall transfers worse than the control"
    )
    # A mean follows the arm that it averages, because its description refers to that arm.
    names = list(ARMS)
    arms = sorted(ARMS.values(), key=lambda arm: (names.index(arm.mean_of or arm.name), arm.mean_of is not None))
    shown = "; ".join(
        arm.comparison for arm in arms if arm.comparison and arm.falls == falling and arm.name in evidence.suite.arms
    )
    return f"{differences}\n\nIn points, paired over seeds and images. Below zero: {meaning}. {shown}."


def _factorial(evidence: Evidence, protocol: str) -> str:
    """Return the main effects of the rate and of averaging; empty if the suite has no average of `step`."""
    text = factorial_table(evidence, protocol)
    return text and (
        f"{text}\n\nIn points, paired over seeds and images. `step` and `hold` with and without averaging of their weights are "
        "a 2 × 2: the effect of the rate is the mean difference of the two rates, the effect of averaging the mean gain by "
        "averaging, and the interaction how much more the rate's effect is with averaging than without. These effects decide "
        "no claim."
    )


def _other_transfers(evidence: Evidence, level: str) -> list[str]:
    """Return the tables of transfers that the suite does not name."""
    parts = []
    for protocol in tables.other_protocols(evidence):
        columns = [column for column in evidence.other_columns if column.protocol == protocol]
        text = "Transfers of these snapshots that the suite does not name, computed one by one."
        if others := evidence.rows_of_other_weights(columns):
            listed = ", ".join(f"{row_name(row)} of seed {seed}" for row, seed in others)
            text += (
                " These rows have different weights than the tables above, because the snapshots were pretrained again: "
                f"{listed}."
            )
        parts.append(f"{level} {protocol}: other transfers\n\n{tables.other_transfers(evidence, protocol)}\n\n{text}")
        if gives_evidence(protocol):
            parts.append(_logme_scores(evidence, [column.task for column in columns]))
    return parts


def _logme_scores(evidence: Evidence, targets: Sequence[str]) -> str:
    return f"{tables.logme_scores(evidence, targets)}\n\n{tables.LOGME} Mean ± half the 95 % interval over seeds."


def _settings(suite: Suite, groups: Sequence[Evidence]) -> str:
    schedule = suite.schedule
    stages = ", ".join(
        f"stage {stage}: epochs {start + 1} to {end} at {rate:g}"
        for stage, (start, end, rate) in enumerate(
            zip(schedule.ends[:-1], schedule.ends[1:], schedule.rates, strict=True), start=1
        )
    )
    entries = [entry for evidence in groups for entry in evidence.entries]
    devices = Counter(entry.device for entry in entries if entry.device)
    versions = sorted({entry.versions for entry in entries})
    targets = {
        entry.task: f"{_task(entry.task)}, {code(entry.fingerprint[:12])}: {entry.train_count:,} training and "
        f"{entry.test_count:,} test images, {entry.classes} classes"
        # Few-shot transfers train on fewer images; the largest number is shown.
        for entry in {
            (entry.task, entry.fingerprint): entry for entry in sorted(entries, key=lambda entry: entry.train_count)
        }.values()
    }
    sources = sorted({entry.source_fingerprint for entry in entries} - {""})
    arguments = f" with {for_markdown(str(suite.model.arguments))}" if suite.model.arguments else ""
    lines = [
        f"- Network: {code(suite.model.architecture)}{arguments}, {suite.input.size} px input.",
        f"- Schedule of `step`: {stages}; batch {schedule.batch}, momentum {schedule.momentum:g}, weight decay "
        f"{schedule.weight_decay:g}, augmentation {schedule.augmentation}.",
        f"- Arms: {', '.join(suite.arms)}. Pretraining seeds: {', '.join(map(str, suite.seeds))}. Transfer seeds: "
        f"{', '.join(map(str, suite.transfer_seeds))}.",
        f"- Source: {', '.join([_task(suite.source), *(code(fingerprint[:12]) for fingerprint in sources)])}.",
        *[
            " ".join([f"- Target: {targets[name]}.", *map(for_markdown, tables.task_notes(name))])
            for name in suite.targets
            if name in targets
        ],
        *[
            f"- Device: {for_markdown(device)}{f' (results: {count:,})' if len(devices) > 1 else ''}."
            for device, count in sorted(devices.items())
        ],
        *[
            f"- Versions: {for_markdown(', '.join(f'{name} {value}' for name, value in json.loads(record).items()))}."
            for record in versions
        ],
        f"- Records and per-image predictions: [results/{suite.name}](results/{suite.name}). The name of a row in the tables "
        "of accuracy links to its records.",
    ]
    return "## Settings\n\n" + "\n".join(lines)


def _task(name: str) -> str:
    """Return a task's name, followed by its title if it has one."""
    title = tables.task_title(name)
    return code(name) if title == name else f"{code(name)} ({for_markdown(title)})"


def _left_out(evidence: Evidence) -> list[str]:
    """Return the missing results, those that are not comparable, and those that cannot be read."""
    parts = []
    suffix = " (partial data)" if evidence.partial else ""
    missing = tables.missing_cells(evidence)
    if missing and (evidence.completed or not evidence.partial):
        parts.append(f"## Missing results{suffix}\n\n{bullets(missing)}")
    if evidence.excluded:
        rows = [
            {"cell": entry.cell, "accuracy": f"{100 * entry.headline:.1f}", "why it is excluded": reason}
            for entry, reason in sorted(evidence.excluded, key=lambda pair: pair[0].cell)
        ]
        parts.append(f"## Excluded results{suffix}\n\nThese are not comparable with the tables.\n\n{table(rows)}")
    if evidence.problems:
        parts.append(f"## Unreadable results{suffix}\n\n{bullets(evidence.problems)}")
    return parts
