"""Output of `lrbench transfer` for a result."""

import pytest

from lrbench.cli.outcome import describe_result
from lrbench.config.protocols import Probe
from lrbench.store.results import StoredResult, read_result
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
