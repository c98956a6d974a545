import os

import pytest
import torch

from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.core.files import sha256_json, write_json
from lrbench.pretraining.state import load
from lrbench.store.cells import Cell, TransferSettings
from lrbench.store.results import read_result
from lrbench.transfer.cell import Transfer
from lrbench.transfer.protocols import finetune_run
from lrbench.transfer.protocols.points import Points

CELL = Cell(task="tiny-objects", protocol="finetune", seed=0)


class StopsAt(Control):
    """Requests a stop after a number of updates."""

    def __init__(self, update):
        super().__init__()
        self.update = update

    def progress(self, done, total, unit):
        if unit == "updates" and done == self.update:
            self.stop()


@pytest.fixture
def trained(monkeypatch):
    """Rate and last update of each training run, in order."""
    runs = []
    train = finetune_run.TrainingRun.train

    def spy(self, end, control):
        train(self, end, control)
        runs.append((self._rate, end))

    monkeypatch.setattr(finetune_run.TrainingRun, "train", spy)
    return runs


def of(suite, **changes):
    return TransferSettings.of(suite).model_copy(update={"finetune": suite.finetune.model_copy(update=changes)})


def content(path):
    return read_result(path).model_dump(exclude={"timings", "computed", "record_sha256"})


def kept(place):
    return list((place.workspace.cache / "finetune").glob("*.json"))


def test_interrupted_grid_resumes_after_finished_points(reference, place, tiny, trained):
    settings = of(tiny, rates=(0.001, 0.01, 0.05))
    whole = content(Transfer(reference, settings, place, Control()).run(CELL))
    assert trained == [(0.001, 6), (0.01, 6), (0.05, 6), (trained[-1][0], 6)] and kept(place) == []
    trained.clear()
    with pytest.raises(InterruptedWork, match="2 scores of this cell's grid"):
        # In the third run of six updates.
        Transfer(reference, settings, place, StopsAt(15)).run(CELL)
    assert len(kept(place)) == 1
    # A different grid or seed does not use the saved points.
    assert trained == [(0.001, 6), (0.01, 6)]
    assert all(path.with_suffix(".pt").is_file() for path in kept(place))
    trained.clear()
    Transfer(reference, of(tiny, rates=(0.001, 0.01)), place, Control()).run(CELL)
    Transfer(reference, settings, place, Control()).run(Cell(task="tiny-objects", protocol="finetune", seed=1))
    assert [rate for rate, _ in trained].count(0.001) >= 2
    trained.clear()
    path = Transfer(reference, settings, place, Control()).run(CELL)
    assert trained[0] == (0.05, 6) and len(trained) == 2
    assert content(path) == whole and kept(place) == []
    assert read_result(path).timings["selection"] > 0


@pytest.mark.parametrize("update", [15, 20])
def test_interrupted_run_resumes_at_its_update(reference, place, tiny, monkeypatch, update):
    """The third run of the grid after its third update, and the final fit after its second."""
    settings = of(tiny, rates=(0.001, 0.01, 0.05))
    whole = content(Transfer(reference, settings, place, Control()).run(CELL))
    with pytest.raises(InterruptedWork, match=f"the network after {(update - 1) % 6 + 1} of 6 updates"):
        Transfer(reference, settings, place, StopsAt(update)).run(CELL)
    begun = []
    start = finetune_run.TrainingRun._start

    def spy(self, end):
        state = start(self, end)
        begun.append(self._update)
        return state

    monkeypatch.setattr(finetune_run.TrainingRun, "_start", spy)
    path = Transfer(reference, settings, place, Control()).run(CELL)
    assert begun == ([3, 0] if update == 15 else [2])
    assert content(path) == whole
    assert list((place.workspace.cache / "finetune").iterdir()) == []


def test_long_runs_are_saved_and_damaged_saves_ignored(reference, place, tiny, monkeypatch):
    settings = of(tiny, rates=(0.01,))
    whole = content(Transfer(reference, settings, place, Control()).run(CELL))
    monkeypatch.setattr(finetune_run, "SAVE_SECONDS", -1.0)
    add = Points.add

    def killed(self, point, found, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(Points, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        Transfer(reference, settings, place, Control()).run(CELL)
    (state,) = (place.workspace.cache / "finetune").glob("*.pt")
    assert load(state)["update"] == 5
    monkeypatch.setattr(Points, "add", add)
    state.write_bytes(state.read_bytes()[:-100])
    assert content(Transfer(reference, settings, place, Control()).run(CELL)) == whole


def test_resume_skips_points_given_up_by_halving(reference, place, tiny, trained):
    settings = of(tiny, rates=(1e-6, 1e-5, 0.01, 0.05), updates=16, halving=True)
    whole = content(Transfer(reference, settings, place, Control()).run(CELL))
    rate = whole["chosen"]["learning_rate"]
    trained.clear()
    # Four runs until update 2, two until 4: the second of these is interrupted.
    with pytest.raises(InterruptedWork):
        Transfer(reference, settings, place, StopsAt(4 * 2 + 3)).run(CELL)
    assert trained == [(1e-6, 2), (1e-5, 2), (0.01, 2), (0.05, 2), (trained[-1][0], 4)]
    trained.clear()
    assert content(Transfer(reference, settings, place, Control()).run(CELL)) == whole
    assert all(end > 2 for _, end in trained) and trained[-1] == (rate, 16)


def test_damaged_file_of_points_is_ignored(tmp_path):
    path = tmp_path / "points.json"
    points = Points(path)
    points.add((0.1, 0.0, 5), {"score": 0.5}, 2.0)
    again = Points(path)
    assert (
        again.get((0.1, 0.0, 5)) == {"score": 0.5}
        and again.get((0.1, 0.0, 6)) is None
        and again.earlier_seconds["selection"] == 2.0
    )
    path.write_text(path.read_text()[:-10])
    assert len(Points(path)) == 0


def write_points(path, points):
    write_json(path, {"points": points, "sha256": sha256_json(points)})


def test_changed_score_is_ignored(tmp_path):
    path = tmp_path / "points.json"
    Points(path).add((0.1, 0.0, 5), {"score": 0.5}, 2.0)
    path.write_text(path.read_text().replace("0.5", "0.9"))
    assert len(Points(path)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "NaN",
        "[" * 100_000,
        '{"not": "a list"}',
        '{"points": [], "sha256": NaN}',
        '[[0.1, 0.0, 5, {"score": 0.5}, 2.0]]',
    ],
)
def test_file_without_points_is_ignored(tmp_path, text):
    (tmp_path / "points.json").write_text(text)
    assert len(Points(tmp_path / "points.json")) == 0


@pytest.mark.parametrize(
    "point",
    [
        [0.1, 0.0, 5, {}, 2.0],
        [0.1, 0.0, 5, {"score": 7.0}, 2.0],
        [0.1, 0.0, 5, {"score": 0.5, "diverged": True}, 2.0],
        [0.1, 0.0, 5, {"score": 0.5, "learning_rate": 3}, 2.0],
        [0.1, 0.0, 5, [], 2.0],
        [0.1, 0.0, "5", {"score": 0.5}, 2.0],
        [10**400, 0.0, 5, {"score": 0.5}, 2.0],
        [0.1, 0.0, 5, {"score": 0.5}],
        3,
    ],
)
def test_malformed_points_are_ignored(tmp_path, point):
    path = tmp_path / "points.json"
    write_points(path, [point])
    assert len(Points(path)) == 0
    write_points(
        path, [[0.1, 0.0, 5, {"score": 0.5}, 2.0], [0.2, 0, 5, {"score": 0.0, "diverged": True, "updates": 3}, 1]]
    )
    assert len(Points(path)) == 2


def test_pipe_instead_of_points_is_ignored(tmp_path):
    os.mkfifo(tmp_path / "points.json")
    os.mkfifo(tmp_path / "points.pt")
    assert len(points := Points(tmp_path / "points.json")) == 0 and points.load_run("fit") is None


@pytest.mark.parametrize(
    "change", [{"update": "5"}, {"seconds": float("nan")}, {"weights": {"a": 1}}, {"optimiser": 3}]
)
def test_malformed_run_starts_from_scratch(tmp_path, change):
    points = Points(tmp_path / "points.json")
    whole = {"update": 5, "weights": {"a": torch.ones(1)}, "optimiser": {}, "seconds": 1.0}
    points.save_run("fit", whole)
    assert points.load_run("fit")["update"] == 5
    points.save_run("fit", whole | change)
    assert points.load_run("fit") is None
