"""Section of a page on published rules that end stages, computed from the training log of `auto` and never steering it."""

from collections.abc import Iterator

from lrbench.leaderboard.evidence import Evidence
from lrbench.leaderboard.markup import NOTHING, table
from lrbench.studies.evidence import StudyEvidence
from lrbench.studies.pace import epochs

_RULES = {"auto": "auto", "plateau": "plateau", "sasa": "SASA+", "yaida": "Yaida"}

_DEFINITIONS = (
    "Three published rules are computed from the training log of `auto` and never steer it. Plateau: the loss has not "
    "improved by 0.01 % for more than ten epochs. SASA+ (arXiv 2002.10597) and Yaida (arXiv 1810.00004) test whether the "
    "weights have become stationary, from inner products of weights, gradients and momentum. "
    "[Definitions](../../docs/reference/studies.md#ends-of-stages-lrbench-study-pace)."
)
_READING = (
    f"Cells are epochs from the start of training; {NOTHING} is a rule that does not end the stage in this log. Stage 1 of "
    "`auto` is part of the training of `step`, so its log continues to the boundary; the log of a later stage ends with the "
    "stage."
)


def rules_section(evidence: StudyEvidence) -> str:
    """Return the section as Markdown: a row for each unit and stage, or why there are none."""
    suites = list(evidence.suites.values())
    lacking = [suite.name for suite in suites if not suite.stage_rules]
    parts = ["## Other rules", _DEFINITIONS]
    if lacking:
        parts.append(
            f"**Not computed for {', '.join(lacking)}.** These results hold no training log: neither the losses of epochs, "
            "which the plateau rule needs, nor norms of weights and updates, which SASA+ and Yaida need. Suites with "
            "`training.update_statistics = true` record them."
        )
    rows = [row for suite in suites for row in _rows(suite, named=len(suites) > 1)]
    if rows:
        parts += [table(rows), _READING]
    return "\n\n".join(parts)


def _rows(suite: Evidence, *, named: bool) -> Iterator[dict[str, str]]:
    for index, seed in enumerate(suite.seeds):
        for stage in range(1, suite.suite.schedule.stages + 1):
            ends = suite.stage_rules.get((("auto", stage), seed))
            if ends is None:
                continue
            last = int(epochs(suite, ("step" if stage == 1 else "auto", stage))[index])
            yield {
                **({"suite": suite.name} if named else {}),
                "unit": str(seed),
                "stage": str(stage),
                "log ends": str(last),
                **{title: _epoch(ends, name) for name, title in _RULES.items()},
            }


def _epoch(ends: dict[str, int | None], name: str) -> str:
    epoch = ends.get(name)
    return NOTHING if epoch is None else str(epoch)
