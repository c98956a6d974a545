"""Helpers of the tests of the leaderboard."""

import re

import numpy as np
from scipy import stats

from lrbench.config.schedule import snapshot_keys
from lrbench.leaderboard import page
from lrbench.leaderboard.claims import decide
from lrbench.leaderboard.evidence import Column, Evidence, Values
from lrbench.stats.saturation import Scored, residual

IMAGES = 400
SOURCE_IMAGES = 2000


def first_right(share, count):
    """Correctness of a share of images: the first ones, so that networks of equal accuracy agree on every image."""
    return (np.arange(count) < round(share * count)).astype(np.float32)


def world(
    suite,
    seeds,
    draw,
    *,
    levels,
    source=None,
    seed_noise=0.01,
    tasks=("a",),
    labels=None,
    metric="top1",
    protocols=("probe",),
    with_source=True,
):
    """Return evidence in which row r has true accuracy `levels(r)`; seeds and images vary, and all seeds share images.

    `source(row, seed)` is the source accuracy. The source's images are nested: a better network is right where a worse one is.
    """
    suite = suite.model_copy(
        update={"seeds": tuple(range(seeds)), "protocols": tuple(protocols), "targets": tuple(tasks)}
    )
    rows = list(dict.fromkeys((key.arm, key.stage) for key in snapshot_keys(suite, seed=0)))
    columns = [Column(protocol=protocol, task=task) for protocol in protocols for task in tasks]
    labels = np.zeros(IMAGES, dtype=np.int64) if labels is None else labels
    evidence = Evidence(name="made-up", suite=suite, rows=rows, columns=columns)
    source = source or (lambda row, seed: 0.05 + 0.2 * row[1])
    for row in rows:
        for seed in range(seeds):
            evidence.source[row, seed] = source(row, seed)
            if with_source:
                set_source(evidence, row, seed, evidence.source[row, seed])
    for column in columns:
        values = evidence.values[column] = Values(metric=metric, labels=labels)
        difficulty = draw.normal(0, 0.6, len(labels))
        for seed in range(seeds):
            for row in rows:
                if not suite.uses(column.protocol, row[0]):
                    continue
                # Images have a latent difficulty: pairs of snapshots agree on most images, as real ones do.
                shift = stats.norm.ppf(levels(row)) * np.sqrt(1 + 0.36) + draw.normal(0, seed_noise * 3)
                values.correct[row, seed] = (shift + difficulty + draw.normal(0, 1.0, len(labels)) > 0).astype(float)
    return evidence


def set_source(evidence, row, seed, accuracy):
    """Set the predictions of a snapshot on the source's test images, and its source accuracy."""
    evidence.source_labels = np.zeros(SOURCE_IMAGES, dtype=np.int64)
    evidence.source_correct[row, seed] = first_right(accuracy, SOURCE_IMAGES)
    evidence.source[row, seed] = float(evidence.source_correct[row, seed].mean())


def set_target(evidence, row, seed, accuracy, column=None):
    """Set the predictions of a snapshot on a target, without noise."""
    values = evidence.values[evidence.columns[0] if column is None else column]
    values.correct[row, seed] = first_right(accuracy, len(values.labels))


def verdicts(evidence, name, *, task="a", protocol="probe", mean=False):
    """Return the decisions on a claim for one target, or for the mean over targets (`task=None`), by boundary.

    The mean over boundaries is the last of them if `mean` is true, and left out otherwise.
    """
    return [
        decision
        for decision in decide(evidence)
        if (decision.claim.name, decision.task, decision.protocol) == (name, task, protocol)
        and (mean or decision.boundary is not None)
    ]


def null_world(draw, extra, seeds=4, snapshots=9, images=800):
    """Return the residual of a snapshot whose error is `extra` above the curve of the null, on which all others are."""
    sources = [np.append(np.linspace(0.25, 0.75, snapshots), 0.4) + draw.normal(0, 0.005) for _ in range(seeds)]
    labels = np.zeros(images, dtype=np.int64)

    def scored(errors):
        difficulty = draw.normal(0, 0.8, images)
        shifts = stats.norm.ppf(1 - np.transpose(errors))[..., None] * np.sqrt(1 + 0.64)
        correct = shifts + difficulty + draw.normal(0, 1, (snapshots + 1, seeds, images)) > 0
        return Scored(correct=correct.astype(np.float64), labels=labels, metric="top1")

    above = extra * (np.arange(snapshots + 1) == snapshots)
    targets = [0.6 * errors**1.5 + 0.1 + above for errors in sources]
    return residual(scored(targets), scored(sources), tuple(range(seeds)), "test")


OBJECTS = Column(protocol="probe", task="tiny-objects")


def suite_page(workspace):
    """The text of the suite's main page, followed by that of its details page."""
    page.write(workspace, ["tiny"])
    return "\n".join((workspace.leaderboard / name).read_text() for name in ("tiny.md", "tiny-details.md"))


def table_after(text, heading):
    """The first table after a heading, as a list of rows of cells."""
    lines = text[text.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        # A link is read as its text.
        rows.append([re.sub(r"\[(.+?)\]\(.+?\)", r"\1", cell.strip()) for cell in line.strip("|").split("|")])
    return [row for row in rows if not row[0].startswith("-")]
