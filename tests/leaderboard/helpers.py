"""Helpers of the tests of the leaderboard."""

import re

import numpy as np
from scipy import stats

from lrbench.config.schedule import snapshot_keys
from lrbench.leaderboard import page
from lrbench.leaderboard.claims import CLAIMS, decide
from lrbench.leaderboard.evidence import Column, Evidence, Values
from lrbench.stats.saturation import residual

IMAGES = 400


def world(suite, seeds, draw, *, levels, source=None, seed_noise=0.01, tasks=("a",), labels=None, metric="top1"):
    """Evidence in which row r has true accuracy `levels(r)`; seeds and images vary, images shared by all seeds."""
    suite = suite.model_copy(update={"seeds": tuple(range(seeds)), "protocols": ("probe",), "targets": tuple(tasks)})
    rows = list(dict.fromkeys((key.arm, key.stage) for key in snapshot_keys(suite, seed=0)))
    columns = [Column(protocol="probe", task=task) for task in tasks]
    labels = np.zeros(IMAGES, dtype=np.int64) if labels is None else labels
    evidence = Evidence(name="made-up", suite=suite, rows=rows, columns=columns)
    source = source or (lambda row, seed: 0.05 + 0.2 * row[1])
    for row in rows:
        for seed in range(seeds):
            evidence.source[row, seed] = source(row, seed)
    for column in columns:
        values = evidence.values[column] = Values(metric=metric, labels=labels)
        difficulty = draw.normal(0, 0.6, len(labels))
        for seed in range(seeds):
            for row in rows:
                # Images have a latent difficulty: pairs of snapshots agree on most images, as real ones do.
                shift = stats.norm.ppf(levels(row)) * np.sqrt(1 + 0.36) + draw.normal(0, seed_noise * 3)
                values.correct[row, seed] = (shift + difficulty + draw.normal(0, 1.0, len(labels)) > 0).astype(float)
    return evidence


def verdicts(evidence, name):
    claim = next(claim for claim in CLAIMS if claim.name == name)
    return [decision for decision in decide(evidence) if decision.claim == claim]


def null_world(draw, extra, seeds=4, snapshots=9, images=800):
    """Return the residual of a snapshot whose error is `extra` above the curve of the null, on which all others are."""
    sources = [np.linspace(0.3, 0.8, snapshots) + draw.normal(0, 0.005) for _ in range(seeds)]
    difficulty = draw.normal(0, 0.8, images)

    def hits(error):
        shift = stats.norm.ppf(1 - error) * np.sqrt(1 + 0.64)
        return (shift + difficulty + draw.normal(0, 1, images) > 0).astype(float)

    correct = [np.array([hits(0.6 * error**1.5 + 0.1) for error in errors]) for errors in sources]
    observed = np.array([hits(0.6 * 0.35**1.5 + 0.1 + extra) for _ in range(seeds)])
    return residual(sources, correct, [0.35] * seeds, observed, np.zeros(images, dtype=np.int64), "top1", "test")


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
