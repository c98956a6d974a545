"""Accuracies outside the expected range of an ImageNet ResNet-50 give a warning and no failure."""

import numpy as np
import pytest

from lrbench.config import load_suite
from lrbench.store.cells import CellStatus
from lrbench.store.results import StoredResult, read_result
from tests.leaderboard.fake import put

BAND = "[about]\nsanity = { probe = [0.62, 0.71] }\n"


@pytest.fixture
def transferred(home, place, lrbench, monkeypatch):
    """Run `transfer` on an existing result with the given accuracy and snapshot."""
    (home / "banded.toml").write_text(
        'name = "banded"\n\n[files]\nlayout = "synthetic"\ngenerator = "indoor"\nsize = 32\ntrain = 50\ntest = 40\n\n'
        + BAND
    )
    monkeypatch.setattr("tests.leaderboard.fake.LABELS", {"banded": np.arange(40) % 10})

    def run(wrong, **snapshot):
        foreign = {
            "arm": None,
            "stage": None,
            "pretraining_seed": None,
            "architecture": "resnet50",
            "reference": "timm:r.tag",
        }
        suite = load_suite("tiny.toml").model_copy(update={"name": "foreign"})
        partial = snapshot.pop("partial", False)
        path = put(
            place.workspace, suite, target="banded", wrong=wrong, snapshot={**foreign, **snapshot}, partial=partial
        )
        status = CellStatus(path=path, is_done=True, stored=StoredResult(result=read_result(path), path=path))
        monkeypatch.setattr("lrbench.store.cells.status_before_loading", lambda *_: status)
        return lrbench("transfer", "--snapshot", "timm:resnet50", "--task", "banded.toml")

    return run


@pytest.mark.parametrize("architecture", ["resnet50", "resnet50.tv_in1k", "hf-hub:timm/resnet50.a1_in1k"])
def test_accuracy_outside_expected_range_is_a_warning(transferred, architecture):
    for wrong in (4, 36):
        outcome = transferred(wrong, architecture=architecture)
        assert outcome.status == 0 and "is outside the range of 62 to 71 %" in outcome.err
        assert "lrbench data verify banded.toml" in outcome.err


@pytest.mark.parametrize(
    ("wrong", "change"),
    [
        (14, {}),
        (4, {"architecture": "resnet18"}),
        (4, {"architecture": "resnet50d.a1_in1k"}),
        (36, {"random": True}),
        (36, {"partial": True}),
        (36, {"arm": "step", "stage": 1, "pretraining_seed": 0}),
    ],
)
def test_expected_range_applies_to_full_resnet50_results_only(transferred, wrong, change):
    outcome = transferred(wrong, **change)
    assert outcome.status == 0 and "is outside the" not in outcome.err
