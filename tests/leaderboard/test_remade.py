"""Results of a snapshot that was pretrained again with different weights, next to older results."""

import pytest

from lrbench.leaderboard.evidence import Column
from lrbench.leaderboard.gathering import gather
from tests.leaderboard.fake import fill, put
from tests.leaderboard.helpers import OBJECTS, suite_page, table_after

OTHER = {"snapshot": {"sha256": "9" * 64}}


def test_other_transfers_do_not_choose_the_weights(workspace, tiny):
    """The suite's cell was transferred again; other protocols still have more results of the old weights."""
    suite = tiny.model_copy(update={"targets": tiny.targets[:1], "protocols": ("probe",)})
    put(workspace, suite, stage=1, wrong=4, source=0.7, **OTHER)
    for protocol in ("knn", "fewshot", "depth"):
        put(workspace, suite, stage=1, wrong=20, source=0.3, protocol=protocol)
    (body,) = gather(workspace.results, suite)
    assert body.accuracy(("step", 1), OBJECTS).mean == pytest.approx(0.9) and body.excluded == []


def test_other_transfer_of_newer_weights_is_noted(workspace, tiny):
    """A clone has results of another machine, and one snapshot was pretrained again and transferred."""
    fill(workspace, tiny)
    newer = put(workspace, tiny, stage=2, wrong=4, protocol="fewshot", **OTHER)
    put(workspace, tiny, stage=3, wrong=4, protocol="fewshot")
    text = suite_page(workspace)
    rows = {row[0]: row for row in table_after(text, "## fewshot: other transfers")}
    assert rows["step/stage2"][2] == "90.0 (1 of 2 seeds)" and "Excluded" not in text and "Incomplete" not in text
    assert "different weights than the tables above" in text and "pretrained again: step/stage2 of seed 0." in text
    newer.unlink()
    assert "different weights" not in suite_page(workspace)


def test_source_accuracy_is_of_the_suites_weights(workspace, tiny):
    fill(workspace, tiny)
    put(workspace, tiny, stage=2, wrong=4, protocol="fewshot", source=0.9, **OTHER)
    (body,) = gather(workspace.results, tiny)
    assert body.source[("step", 2), 0] == pytest.approx(0.45)


def test_tie_of_weights_keeps_the_same_columns_complete(workspace, tiny):
    for stage, sha256 in ((1, "5"), (2, "0"), (3, "f")):
        put(workspace, tiny, stage=stage, wrong=4, snapshot={"sha256": sha256 * 64})
        put(workspace, tiny, stage=stage, wrong=4, protocol="knn", snapshot={"sha256": "7" * 64})
    (body,) = gather(workspace.results, tiny)
    knn = Column(protocol="knn", task=OBJECTS.task)
    assert all(body.accuracy(("step", stage), OBJECTS) for stage in (1, 2, 3))
    assert not any(body.accuracy(("step", stage), knn) for stage in (1, 2, 3)) and len(body.excluded) == 3
