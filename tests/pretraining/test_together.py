"""Pretraining with several processes over Gloo, started by torchrun, or as torchrun starts them."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from lrbench.config import load_suite
from lrbench.core.control import Control
from lrbench.core.distributed import ProcessGroup
from lrbench.models.inference import InputNormalisation
from lrbench.models.loading import load_raw
from lrbench.pretraining.source import Evaluator, open_source
from lrbench.store.snapshots import read_metadata
from tests.helpers import TINY_SUITE
from tests.pretraining.helpers import CPU, Ranks, finished, key, make, torchrun

# GroupNorm instead of BatchNorm: results do not depend on which images share a process.
ALONE_IMAGES = TINY_SUITE.replace('stem_type = "deep"', 'norm_layer = "groupnorm1", stem_type = "deep"')


def log(home: Path, suite: str, arm: str = "step"):
    lines = (home / "checkpoints" / suite / arm / "seed0" / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def groups(home):
    """A suite without BatchNorm, and the same under another name."""
    (home / "one.toml").write_text(ALONE_IMAGES.replace('"tiny"', '"one"'))
    (home / "two.toml").write_text(ALONE_IMAGES.replace('"tiny"', '"two"'))
    return load_suite("one.toml")


# In the second process, one death. At the end of both, the number of the group's threads: leftover ones sometimes abort a
# process, and torchrun then reports failure.
_DIES_ONCE = """
import atexit, os, runpy, signal
from pathlib import Path
from lrbench.pretraining import loop, recovery

loop.SAVE_SECONDS = -1.0
rank, killed, count = os.environ["RANK"], Path("killed"), 0
run, train = recovery.Recovery.run, loop.Trainer.train

def dies(self, *arguments):
    global count
    count += 1
    if count == 7 and rank == "1" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, *arguments)

def notes(self, *arguments):
    with open(f"starts{rank}", "a") as file:
        print(self.progress.update, file=file)
    return train(self, *arguments)

def left():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    Path(f"threads{rank}").write_text(str(sum("gloo" in name for name in names)))

recovery.Recovery.run, loop.Trainer.train = dies, notes
atexit.register(left)
runpy.run_module("lrbench", run_name="__main__")
"""


def test_two_processes_match_one_also_after_a_death(groups, place, home):
    """torchrun restarts all processes, which resume from the last save."""
    from safetensors.torch import load_file

    make(groups, key("hold", 2), place)
    make(groups, key("step", 3), place)
    (home / "entry.py").write_text(_DIES_ONCE)
    arms = ("--set", 'arms=["step", "hold"]')
    done = finished(torchrun("pretrain", "two.toml", "--seed", "0", *arms, restarts=2, entry=("entry.py",)))
    assert done.status == 0 and (home / "killed").exists(), done.err
    starts = [[int(line) for line in (home / f"starts{rank}").read_text().split()] for rank in (0, 1)]
    # The second start resumed within the nine updates of the first stage.
    assert starts[0][0] == 0 and 0 < starts[0][1] < 9 and starts[1] == starts[0]
    assert [(home / f"threads{rank}").read_text() for rank in (0, 1)] == ["0", "0"], done.err
    for arm in ("step", "hold"):
        mine, theirs = log(home, "one", arm), log(home, "two", arm)
        theirs = theirs[: len(mine)]
        assert [line["update"] for line in theirs] == [line["update"] for line in mine]
        assert [line["loss"] for line in theirs] == pytest.approx([line["loss"] for line in mine], rel=1e-4)
        assert [line["training_accuracy"] for line in theirs] == [line["training_accuracy"] for line in mine]
    root = place.workspace.checkpoints
    for stage in range(4):
        one, two = (root / suite / "step" / "seed0" / f"stage{stage}.safetensors" for suite in ("one", "two"))
        weights = load_file(one)
        for name, tensor in load_file(two).items():
            np.testing.assert_allclose(tensor.numpy(), weights[name].numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
        # 40 test images over 2 processes, each counted once.
        assert read_metadata(two).source_accuracy == read_metadata(one).source_accuracy
    assert read_metadata(two).batchnorm_shared is None
    # Only the main process reports: every snapshot appears once.
    assert done.err.count("step/seed0/stage1: source accuracy") == 1


def test_micro_batches_of_two_processes_add_up(groups, place, home):
    """Processes exchange gradients with the last micro-batch, which must include the earlier ones."""
    make(groups, key("step", 3), place)
    done = Ranks("pretrain", "two.toml", "--seed", "0", "--arm", "step", "--set", "training.micro_batch=4").finished()
    assert done.status == 0, done.err
    mine, theirs = log(home, "one"), log(home, "two")
    assert [line["loss"] for line in theirs] == pytest.approx([line["loss"] for line in mine], rel=1e-4)


@pytest.mark.parametrize("world", [2, 3, 7])
def test_every_image_is_evaluated_once(tiny, place, monkeypatch, world):
    """The slices of all ranks, evaluated one after another in this process."""
    import torch

    from lrbench.pretraining import source as module

    source = open_source(tiny.source, tiny.input, place.roots, False, place.workspace.cache, Control())
    seen = []

    class Gathers(ProcessGroup):
        def all_gather(self, value):
            seen.append(value)
            return [value]

    def forward_all(forward, pixels, normalise, *, indices, progress):
        return torch.from_numpy(np.array(indices))

    monkeypatch.setattr(module, "forward_all", forward_all)
    normalise = InputNormalisation(tiny.input.mean, tiny.input.std, torch.device("cpu"))
    for rank in range(world):
        try:
            Evaluator(torch.nn.Identity(), source, normalise, Control(), Gathers(rank=rank, world_size=world)).scores()
        except ValueError:
            # A slice is not the whole split, so computing the accuracy fails.
            continue
    assert sorted(np.concatenate(seen).tolist()) == list(range(len(source.test)))


def test_number_of_processes_may_change(groups, place, home):
    """Two processes, then one, then four give the losses of one."""
    make(groups, key("step", 3), place)
    ranks = Ranks("pretrain", "two.toml", "--seed", "0", "--arm", "step", "--set", "schedule.batch=32")
    deadline = time.monotonic() + 120
    while not (home / "checkpoints" / "two" / "step" / "seed0" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks.terminate()
    stopped = ranks.finished()
    two = load_suite("two.toml")
    assert stopped.status != 0 and not (home / "checkpoints/two/step/seed0/stage3.safetensors").exists(), stopped.err
    make(two, key("step", 2), place)
    done = Ranks("pretrain", "two.toml", "--seed", "0", "--arm", "step", processes=4).finished()
    assert done.status == 0, done.err
    mine, theirs = log(home, "one"), log(home, "two")
    assert [line["loss"] for line in theirs] == pytest.approx([line["loss"] for line in mine], rel=1e-4)


# Each process has BatchNorm statistics of its own images; here they are made very different.
_OTHER_STATISTICS = """
import os, runpy
from lrbench.pretraining.loop import Trainer

train = Trainer.train
def apart(self, *arguments):
    end = train(self, *arguments)
    if os.environ["RANK"] == "1":
        for name, tensor in end.weights.items():
            if name.endswith("running_mean"):
                tensor += 100.0
    return end

Trainer.train = apart
runpy.run_module("lrbench", run_name="__main__")
"""


def test_processes_that_change_batchnorm_are_refused(tiny, place, home):
    make(tiny, key("step", 1), place)
    refused = Ranks("pretrain", "tiny.toml", "--seed", "0", "--arm", "step").finished()
    assert refused.status != 0
    errors = [line for line in refused.err.splitlines() if line.startswith("lrbench: ")]
    assert len(errors) == 1 and "needs micro-batches of 32 images, as step/seed0/stage1 was trained" in errors[0]
    assert "--set training.micro_batch=16" in errors[0]
    # With the setting it continues, and the snapshot records the change.
    (home / "apart.py").write_text(_OTHER_STATISTICS)
    asked = ("pretrain", "tiny.toml", "--seed", "0", "--arm", "step", "--set", "training.micro_batch=16")
    done = Ranks(*asked, entry="apart.py").finished()
    assert done.status == 0, done.err
    root = home / "checkpoints" / "tiny" / "step" / "seed0"
    assert [read_metadata(root / f"stage{stage}.safetensors").batchnorm_shared for stage in (1, 2, 3)] == [32, 16, 16]
    # All processes evaluate the weights that are written, not their own statistics.
    source = open_source(tiny.source, tiny.input, place.roots, False, place.workspace.cache, Control())
    for stage in (2, 3):
        model, metadata = load_raw(root / f"stage{stage}.safetensors")
        raw = Evaluator(model.eval(), source, InputNormalisation(tiny.input.mean, tiny.input.std, CPU), Control())
        assert raw.accuracy() == pytest.approx(metadata.source_accuracy_raw)


def test_run_divides_the_transfers(groups, home):
    chosen = ('arms=["step"]', "seeds=[0]", 'protocols=["knn"]')
    done = Ranks("run", "two.toml", *(word for setting in chosen for word in ("--set", setting))).finished()
    assert done.status == 0, done.err
    # For each of four snapshots two transfers, and the predictions of the source.
    assert len(list((home / "leaderboard" / "results" / "two").rglob("*.parquet"))) == 12
    assert (home / "leaderboard" / "two.md").is_file()
    assert done.err.count("1 cell transferred") == 8 and done.err.count("images of tiny-source predicted") == 4
