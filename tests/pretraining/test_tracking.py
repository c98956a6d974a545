import json
import sys
from types import SimpleNamespace

import pytest

from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.workspace import Place
from lrbench.pretraining.segments import make_snapshot
from lrbench.pretraining.tracking import check_trackers
from tests.pretraining.helpers import key, make


def tracked(place, *names):
    return Place(workspace=place.workspace, roots=place.roots, trackers=names)


def test_tensorboard_has_one_point_per_epoch(tiny, place, home):
    make(tiny, key("step", 2), tracked(place, "tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(home / "checkpoints" / "tiny" / "step" / "seed0" / "tensorboard"))
    curves.Reload()
    assert sorted(curves.Tags()["scalars"]) == ["learning_rate", "loss", "training_accuracy"]
    points = [(point.step, round(point.value, 6)) for point in curves.Scalars("learning_rate")]
    assert points == [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.01), (5, 0.01)]


def test_wandb_gets_each_epoch_of_a_resumable_run(tiny, place, monkeypatch):
    began, points, ended = [], [], []

    def init(**arguments):
        began.append(arguments)
        return SimpleNamespace(log=points.append, finish=lambda: ended.append(1))

    make(tiny, key("step", 0), place)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    make_snapshot(tiny, key("step", 1), tracked(place, "wandb"), Control())
    assert began[0]["id"] == "tiny-step-seed0-stage1" and began[0]["resume"] == "allow"
    assert began[0]["config"]["schedule"]["batch"] == 32
    assert [point["epoch"] for point in points] == [1, 2, 3] and set(points[0]) == {
        "epoch", "loss", "training_accuracy", "learning_rate",
    }  # fmt: skip
    assert ended == [1]


@pytest.mark.parametrize("fault", ["init", "log", "finish"])
def test_tracker_that_fails_does_not_end_training(tiny, place, monkeypatch, fault):
    class Listening(Control):
        texts: tuple[str, ...] = ()

        def say(self, text):
            self.texts += (text,)

    def fail(*_, **__):
        raise ConnectionError("no answer")

    run = SimpleNamespace(**{"log": lambda point: None, "finish": lambda: None, fault: fail})
    init = fail if fault == "init" else lambda **_: run
    make(tiny, key("step", 0), place)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    control = Listening()
    assert make_snapshot(tiny, key("step", 1), tracked(place, "wandb"), control).source_accuracy is not None
    [text] = control.texts
    assert text == "--track wandb failed and receives nothing more of this stage: ConnectionError: no answer"


def test_without_trackers_only_the_log_is_written(tiny, place, home):
    folder = make(tiny, key("step", 1), place).parent
    assert (folder / "log.jsonl").is_file() and not (folder / "tensorboard").exists()


def test_unknown_or_missing_trackers_are_refused(lrbench, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"--track wandb needs a library.*pip install '\.\[wandb\]'.*source folder"):
        check_trackers(["wandb"])
    refused = lrbench("pretrain", "tiny.toml", "--track", "tensorbord")
    assert refused.status == 2 and "--track tensorbord is unknown. Use tensorboard, wandb or trackio" in refused.err


def test_trackio_gets_each_epoch_of_a_resumable_run(tiny, place, monkeypatch):
    began, points, ended = [], [], []

    def init(project, name=None, group=None, config=None, resume="never", **options):
        began.append((project, name, group, config, resume, options))
        return SimpleNamespace(log=points.append, finish=lambda: ended.append(1))

    make(tiny, key("step", 0), place)
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    make_snapshot(tiny, key("step", 1), tracked(place, "trackio"), Control())
    [(project, name, group, config, resume, options)] = began
    assert (project, name, group, resume) == ("lrbench", "tiny-step-seed0-stage1", "tiny", "allow")
    assert config["schedule"]["batch"] == 32 and options["embed"] is False
    assert [point["epoch"] for point in points] == [1, 2, 3] and ended == [1]


def test_results_of_transfers_are_sent_to_trackers(lrbench, home, pretrain_tiny, monkeypatch):
    began, points = [], []

    def init(**arguments):
        began.append(arguments)
        return SimpleNamespace(log=points.append, finish=lambda: None)

    pretrain_tiny("step")
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))
    words = ("transfer", "--snapshot", "stage1", "--task", "tiny-objects", "--protocol", "knn")
    done = lrbench(*words, "--track", "wandb", "--track", "trackio", "--track", "tensorboard", "--json")
    assert done.status == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert [run["config"]["task"] for run in began] == ["tiny-objects"] * 2 and began[0]["job_type"] == "transfer"
    assert points == [{**metrics, "epoch": 3, "stage": 1}] * 2
    assert list((home / "checkpoints" / "tiny" / "tensorboard" / "transfers").glob("*/step-seed0/events*"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: 1 / 0))
    failed = lrbench(*words, "--again", "--track", "wandb")
    assert failed.status == 0 and "is stored, but was not sent to --track: ZeroDivisionError" in failed.err
