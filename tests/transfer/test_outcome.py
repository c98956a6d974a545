"""Output of `lrbench transfer` for a result."""

import pytest

from lrbench.cli.outcome import describe_result
from lrbench.config.protocols import Probe
from lrbench.store.results import StoredResult, read_result
from lrbench.transfer.recommend import images_per_second
from tests.leaderboard.fake import put


@pytest.mark.parametrize(
    ("strength", "edge", "said"),
    [
        (1e5, False, "note: chose strength 100000, the strongest of the grid; points inside the grid score the same"),
        (1e-6, False, "note: chose strength 1e-06, the weakest of the grid"),
        (1e5, True, "warning: the best grid point is on the edge of the grid (strength 100000)"),
        (1.0, False, ""),
    ],
)
def test_strength_at_the_end_of_the_grid_is_reported(place, tiny, capfd, strength, edge, said):
    path = put(
        place.workspace,
        tiny,
        chosen={"strength": strength},
        settings={"probe": Probe().model_dump(mode="json")},
        selection={"metric": "top1", "edge": edge, "candidates": [{"strength": strength, "score": 0.5}]},
    )
    describe_result(StoredResult(result=read_result(path), path=path), "tiny-objects", None)
    printed = capfd.readouterr().err
    assert said.removeprefix("note: ") in printed and ("of the grid" in printed) == bool(said)


@pytest.mark.parametrize(
    ("changes", "speed"),
    [
        ({}, 44.0),
        # The features of all images are extracted, and 20 are drawn.
        ({"protocol": "fewshot", "train_count": 20, "diagnostics": {"images_sha256": "0" * 64}}, None),
        # The time is that of two networks.
        ({"protocol": "concat"}, None),
        ({"timings": {"selection": 3.0}}, None),
    ],
)
def test_speed_is_of_one_network_and_all_images(place, tiny, changes, speed):
    result = read_result(put(place.workspace, tiny, **{"timings": {"features": 2.0}} | changes))
    assert images_per_second(result) == speed
