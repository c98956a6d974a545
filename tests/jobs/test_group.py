"""Pretraining by several processes that lrbench starts itself."""

import os
import signal
from dataclasses import dataclass

import pytest

from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InterruptedWork
from lrbench.jobs.group import pretrain_in_group, run_jobs_in_groups
from lrbench.jobs.job import PretrainJob
from lrbench.store.suites import write_effective
from tests.helpers import make_home
from tests.jobs.helpers import Watcher
from tests.jobs.results import weights
from tests.pretrain.helpers import finished, key, torchrun


def jobs_of(stages):
    return [
        PretrainJob(name=f"pretrain {stage}", needs=(f"pretrain {stage - 1}",) if stage else (), key=key("step", stage))
        for stage in range(stages)
    ]


def test_group_trains_as_torchrun_does(tiny, place, home, tmp_path, monkeypatch):
    write_effective(place.workspace, tiny)
    watcher = Watcher()
    run_jobs_in_groups(jobs_of(4), tiny, place, Control(), watcher, 2)
    assert len(watcher.lines) == 4 and "source accuracy" in watcher.lines[-1]
    (tmp_path / "torchrun").mkdir()
    other = make_home(tmp_path / "torchrun", monkeypatch)
    done = finished(torchrun("pretrain", "tiny.toml", "--seed", "0", "--arm", "step"))
    assert done.status == 0, done.err
    assert weights(home) == weights(other)


@dataclass(frozen=True, kw_only=True)
class Waits(PretrainJob):
    """Ends when a stop is requested, or kills one of its processes."""

    dies: bool = False

    def run_together(self, suite, place, control, ranks):
        if self.dies and not ranks.is_main:
            os.kill(os.getpid(), signal.SIGKILL)
        control.say(f"{ranks.rank} of {ranks.world_size}")
        control.progress(1, 2, "updates")
        while not control.stop_requested():
            pass
        raise ranks.mark_shared(InterruptedWork("saved"))


@pytest.mark.parametrize("dies", [False, True])
def test_stop_reaches_the_group_and_death_ends_it(tiny, place, dies):
    class Stopping(Control):
        texts: tuple[str, ...] = ()

        def say(self, text):
            self.texts += (text,)

        def progress(self, done, total, unit):
            if not dies:
                self.stop()

    control = Stopping()
    kind, error = pretrain_in_group(Waits(name="a", key=key("step", 0), dies=dies), tiny, place, control, 2)
    assert kind == "failed"
    if dies:
        assert isinstance(error, FailureError) and "a process of `a` died (exit status -9)" in str(error)
    else:
        assert isinstance(error, InterruptedWork) and sorted(control.texts) == ["0 of 2", "1 of 2"]
