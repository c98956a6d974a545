"""Verdicts of studies on results of known accuracy, loss and curvature."""

from types import SimpleNamespace

import numpy as np
import pytest

from lrbench.config.schedule import snapshot_keys
from lrbench.leaderboard.evidence import Evidence
from lrbench.studies.claims import decide_study
from lrbench.studies.definition import load_study
from lrbench.studies.evidence import StudyEvidence
from lrbench.studies.page import render_study
from lrbench.studies.registry import FIGURES, claims_of
from lrbench.studies.stages import STATISTICS, rows_by_epoch

IMAGES = 3000


def results(suite, accuracy=None, fit=None, seed=0):
    """Return results of a suite with given accuracies and measures of fit by arm and stage, which vary a little by unit."""
    draw, accuracy = np.random.default_rng(seed), accuracy or {}
    rows = list(dict.fromkeys((key.arm, key.stage) for key in snapshot_keys(suite, seed=suite.seeds[0])))
    evidence = Evidence(name=suite.name, suite=suite, rows=rows, columns=[])
    for unit in suite.seeds:
        hardness = draw.random(IMAGES)
        luck = draw.normal(scale=0.003)
        for row in rows:
            share = accuracy.get(row, 0.5) + luck
            # The same images are hard for every snapshot.
            evidence.source_correct[row, unit] = (hardness < share).astype(np.float32)
        for name, values in (fit or {}).items():
            noise = np.exp(draw.normal(scale=0.02))
            evidence.fit.setdefault(name, {}).update(
                {(row, unit): values[row] * noise for row in rows if row in values}
            )
    return evidence


def decide(study, *evidences):
    evidence = StudyEvidence(study=study, suites={one.name: one for one in evidences})
    outcomes = decide_study(evidence, claims_of(study))
    figure = FIGURES[study.figure](evidence, outcomes)
    assert study.title in render_study(evidence, outcomes, figure)
    return outcomes


ACCURACIES = {
    ("step", 2): 0.9, ("hold", 2): 0.8, ("average", 2): 0.9, ("moving-average", 2): 0.901, ("grow", 2): 0.9,
    ("small", 2): 0.7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "small_loss", "verdicts"),
    [
        ({}, 0.1, ("supported", "contradicted", "supported")),
        (
            {("average", 2): 0.85, ("moving-average", 2): 0.85, ("grow", 2): 0.8},
            0.4,
            ("contradicted", "supported", "contradicted"),
        ),
        # The drop gains nothing, so that nothing needs an explanation.
        ({("hold", 2): 0.9}, 0.1, ("inconclusive", "inconclusive", "supported")),
    ],
)
def test_beliefs_follow_from_accuracies_and_losses(accuracy, small_loss, verdicts):
    study = load_study("beliefs")
    losses = {("step", 1): 0.5, ("step", 2): 0.2, ("small", 1): 0.7, ("small", 2): small_loss}
    outcomes = decide(study, results(study.suites[0], ACCURACIES | accuracy, {"loss": losses}))
    assert tuple(outcomes[name].verdict for name in ("B3", "B4", "B5")) == verdicts
    reasons = {case.reason for case in outcomes["B3"].cases}
    assert reasons == {""} or any("no effect to explain" in reason for reason in reasons)


def test_beliefs_without_all_results_are_open():
    study = load_study("beliefs")
    evidence = results(study.suites[0], ACCURACIES, {"loss": {("step", 2): 0.2, ("small", 2): 0.1}})
    del evidence.source_correct[("grow", 2), 13], evidence.fit["loss"][("small", 2), 13]
    outcomes = decide(study, evidence)
    assert [outcomes[name].verdict for name in ("B3", "B4", "B5")] == ["inconclusive", "contradicted", "inconclusive"]
    assert outcomes["B3"].cases[0].reason == "incomplete results"


def edge_results(study, small_hold, full_hold, sharpness):
    small, full = study.suites
    curves = {
        "largest_eigenvalue": {("step", 1): sharpness},
        "batch_sharpness": {("step", 1): 2.0},
    }
    return tuple(
        results(suite, fit={"loss": {("step", 1): 1.0, ("step", 2): 0.4, ("hold", 2): hold}, **curves})
        for suite, hold in ((small, small_hold), (full, full_hold))
    )


@pytest.mark.parametrize(
    ("full_hold", "rate_times_sharpness", "verdicts", "reason"),
    [
        (0.41, 2.0, ("supported", "supported"), ""),
        (0.8, 3.0, ("contradicted", "contradicted"), ""),
        (0.41, 1.0, ("supported", "inconclusive"), "edge not reached"),
    ],
)
def test_edge_compares_the_full_batch_with_small_ones(full_hold, rate_times_sharpness, verdicts, reason):
    study = load_study("edge")
    # The rate is 0.2, without momentum.
    outcomes = decide(study, *edge_results(study, 0.8, full_hold, rate_times_sharpness / 0.2))
    assert tuple(outcomes[name].verdict for name in ("B1", "B2")) == verdicts
    (full,) = (case for case in outcomes["B2"].cases if case.decides)
    assert full.reason == reason and full.name.startswith("edge-full")


def test_edge_without_the_full_batch_is_open():
    study = load_study("edge")
    small, _ = edge_results(study, 0.8, 0.4, 10.0)
    outcomes = decide(study, small)
    assert outcomes["B1"].cases[0].reason.startswith("no complete pair") and outcomes["B1"].verdict == "inconclusive"


@pytest.mark.parametrize(
    ("accuracy", "ends", "verdicts", "reason"),
    [
        ({"auto": 0.9, "short": 0.85}, 40, ("supported", "supported"), ""),
        ({"auto": 0.85, "short": 0.9}, 40, ("contradicted", "contradicted"), ""),
        ({"auto": 0.9, "short": 0.9}, 40, ("supported", "equivalent"), ""),
        ({"auto": 0.9, "short": 0.9}, 60, ("contradicted", "inconclusive"), "no stage ended early"),
    ],
)
def test_pace_counts_epochs_of_every_unit(accuracy, ends, verdicts, reason):
    study = load_study("pace")
    suite = study.suites[0]
    evidence = results(suite, {(arm, 3): share for arm, share in ({"step": 0.9} | accuracy).items()})
    evidence.entries = [
        SimpleNamespace(arm=arm, stage=3, pretraining_seed=unit, epoch=60 if arm == "step" else ends)
        for arm in ("step", "auto", "short")
        for unit in suite.seeds
    ]
    outcomes = decide(study, evidence)
    assert tuple(outcomes[name].verdict for name in ("A1", "A2")) == verdicts
    assert outcomes["A2"].cases[0].reason == reason


def test_stages_need_every_statistic():
    study = load_study("stages")
    suite = study.suites[0]
    evidence = results(suite)
    draw = np.random.default_rng(5)
    for name in STATISTICS:
        for unit in suite.seeds:
            course = 1 + 0.01 * draw.normal(size=34)
            values = {row: course[epoch] for epoch, row in rows_by_epoch(evidence).items()}
            values |= {("step", 2): 2.0, ("grow", 2): 1.0 if name == "loss" else 2.0}
            evidence.fit.setdefault(name, {}).update({(row, unit): value for row, value in values.items()})
    outcomes = decide(study, evidence)
    assert (outcomes["S1"].verdict, outcomes["S2"].verdict) == ("supported", "inconclusive")
    assert {case.verdict for case in outcomes["S1"].cases} == {"supported"}
