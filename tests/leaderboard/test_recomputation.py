"""Every number of a suite's main page agrees with its recomputation, which shares no statistics with lrbench."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lrbench.config.schedule import find_segment, snapshot_keys
from lrbench.leaderboard.claims import decide
from lrbench.leaderboard.gathering import gather, read_suite
from lrbench.leaderboard.suite_page import render_suite
from tests.leaderboard import fake
from tests.recompute.page import compare
from tests.recompute.results import Results

COMMITTED = Path(__file__).resolve().parents[2] / "leaderboard" / "results"


def main_page(results, name):
    suite = read_suite(results, name)
    evidence = gather(results, suite)[0]
    return render_suite(suite, evidence, decide(evidence), (), partial=False)


# Suites without targets have another page; tests/studies/test_committed.py recomputes their studies.
TRANSFERRED = [
    path.parent.name for path in sorted(COMMITTED.glob("*/suite.json")) if json.loads(path.read_text())["targets"]
]


@pytest.mark.parametrize("name", TRANSFERRED)
def test_committed_results_agree_with_recomputation(name):
    results, page = Results(COMMITTED / name), main_page(COMMITTED, name)
    count, wrong = compare(results, page)
    assert wrong == [] and count > 500


def test_comparison_sees_one_changed_digit():
    """The last digit of one interval."""
    page = main_page(COMMITTED, "quick")
    changed = re.sub(r"(\d\.)(\d) +\|", lambda match: f"{match[1]}{(int(match[2]) + 1) % 10} |", page, count=1)
    assert len(compare(Results(COMMITTED / "quick"), changed)[1]) == 1


LABELS = {"tiny-objects": np.arange(120) % 4, "tiny-indoor": np.arange(97) % 24, "tiny-source": np.arange(150) % 4}
METRICS = {"tiny-objects": "top1", "tiny-indoor": "mean_per_class", "tiny-source": "top1"}


def made_up(workspace, tiny, monkeypatch, draw, *, seeds=3, transfer_seeds=1, keep=lambda key, task: True, **changes):
    """Write results with sources: accuracies rise with the epoch, and images differ in difficulty."""
    suite = tiny.model_copy(
        update={
            "arms": (*tiny.arms, "trail"),
            "schedule": tiny.schedule.model_copy(update={"epochs": 20, "boundaries": (8, 14)}),
            "seeds": tuple(range(seeds)),
            "transfer_seeds": tuple(range(transfer_seeds)),
            **changes,
        }
    )
    for task, labels in LABELS.items():
        monkeypatch.setitem(fake.LABELS, task, labels)
    difficulty = {task: draw.normal(0, 0.7, len(labels)) for task, labels in LABELS.items()}
    cells = [(task, protocol) for task in suite.targets for protocol in suite.protocols] + [("tiny-source", "source")]
    for key in snapshot_keys(suite):
        segment = find_segment(suite.schedule, key)
        progress = -1 + (0.1 if key.arm == "step" else 0.13) * segment.last_epoch + draw.normal(0, 0.05)
        level = dict.fromkeys(suite.targets, 0.7 * progress) | {"tiny-source": 1.4 * progress}
        hard = {task: noise + draw.normal(0, 0.7, len(noise)) for task, noise in difficulty.items()}
        missed = {task: np.flatnonzero(hard[task] > level[task]) for task in hard}
        snapshot = {"epoch": segment.last_epoch, "rate": segment.rate}
        accuracy = 1 - len(missed["tiny-source"]) / len(LABELS["tiny-source"])
        for task, protocol in cells:
            for transfer_seed in suite.transfer_seeds if protocol != "source" else (0,):
                if not keep(key, task):
                    continue
                again = draw.normal(0, 0.3, len(hard[task])) if protocol != "source" else 0
                fake.put(
                    workspace,
                    suite,
                    arm=key.arm,
                    stage=key.stage,
                    seed=key.seed,
                    target=task,
                    protocol=protocol,
                    source=accuracy,
                    transfer_seed=transfer_seed,
                    missed=np.flatnonzero(hard[task] + again > level[task]),
                    snapshot=snapshot,
                    task={"metric": METRICS[task]},
                )
    return suite


def test_recomputation_with_source_predictions(workspace, tiny, monkeypatch):
    made_up(workspace, tiny, monkeypatch, np.random.default_rng(1), protocols=("probe",))
    folder = workspace.results / "tiny"
    page = main_page(workspace.results, "tiny")
    assert compare(Results(folder), page)[1] == []
    assert "T of the next stage" in page and "error observed − predicted" in page
