"""Ends of stages by published rules, from results to the page of a study."""

import json
from types import SimpleNamespace

from lrbench.config import load_suite
from lrbench.core.control import Control
from lrbench.jobs.plan import make_plan
from lrbench.leaderboard.evidence import Evidence
from lrbench.leaderboard.gathering import gather
from lrbench.store.snapshots import read_metadata, snapshot_path
from lrbench.studies.definition import load_study
from lrbench.studies.evidence import StudyEvidence
from lrbench.studies.stage_rules import rules_section
from tests.leaderboard.fake import put
from tests.pretraining.helpers import key

ONE = ["seeds=[0]", "protocols=[]", "targets=[]", 'arms=["step"]', "training.update_statistics=true"]


def test_results_name_the_ends_of_rules(home, place):
    short = ["schedule.epochs=2", "schedule.boundaries=[1]", "schedule.rates=[0.1,0.01]"]
    suite = load_suite("tiny.toml", [*ONE, *short])
    for job in make_plan(suite, place).jobs():
        job.run(suite, place, Control())
    (evidence,) = gather(place.workspace.results, suite)
    assert set(evidence.stage_rules) == {(("step", stage), 0) for stage in (1, 2)}
    for (row, seed), ends in evidence.stage_rules.items():
        assert ends == read_metadata(snapshot_path(place.workspace.checkpoints, "tiny", key(*row, seed))).stage_rules


def test_ends_survive_results_and_others_lack_them(place):
    suite, ends = load_suite("tiny.toml", ONE[:4]), {"auto": None, "plateau": 7}
    for stage, snapshot in ((1, {"stage_rules": ends}), (2, {})):
        put(place.workspace, suite, target="tiny-source", protocol="source", stage=stage, chosen={}, snapshot=snapshot)
    (evidence,) = gather(place.workspace.results, suite)
    assert evidence.stage_rules == {(("step", 1), 0): ends}
    records = [
        json.loads(path.read_text()) for path in sorted((place.workspace.results / "tiny").glob("*source*.json"))
    ]
    assert ["stage_rules" in record["snapshot"] for record in records] == [True, False]


def section(stage_rules):
    study = load_study("pace")
    (suite,) = study.suites
    entries = [
        SimpleNamespace(arm=arm, stage=stage, pretraining_seed=unit, epoch=epoch)
        for unit in suite.seeds
        for arm, stage, epoch in (("step", 1, 30), ("auto", 2, 41), ("auto", 3, 60))
    ]
    evidence = Evidence(name=suite.name, suite=suite, rows=[], columns=[], entries=entries, stage_rules=stage_rules)
    return rules_section(StudyEvidence(study=study, suites={suite.name: evidence}))


def test_page_shows_each_rule_beside_auto():
    stages = {1: {"auto": 28, "plateau": None, "sasa": 30, "yaida": 12}, 2: {"auto": 41, "plateau": 39}}
    text = section({(("auto", stage), 11): ends for stage, ends in stages.items()})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| 1"]
    assert rows == [["11", "1", "30", "28", "—", "30", "12"], ["11", "2", "41", "41", "39", "—", "—"]]
    assert "Not computed" not in text


def test_page_says_that_results_without_a_log_have_no_ends():
    text = section({})
    assert "**Not computed for pace-wrong10.** These results hold no training log" in text and "| unit" not in text
