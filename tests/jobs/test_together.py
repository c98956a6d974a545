"""Jobs in processes that torchrun started; tests/pretraining/test_together.py starts some."""

from dataclasses import dataclass

import pytest
import torch.distributed

from lrbench.core.control import Control
from lrbench.core.distributed import ProcessGroup
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.jobs.job import Job, PretrainJob
from lrbench.jobs.together import run_jobs_together
from tests.jobs.helpers import Watcher
from tests.pretraining.helpers import key


@dataclass(frozen=True, kw_only=True)
class Trains(PretrainJob):
    def run_together(self, suite, place, control, ranks):
        if self.name == "bad":
            raise ranks.mark_shared(InputError("bad input."))
        if self.name == "stops":
            control.progress(1, 2, "updates")
        return f"{self.name} trained"


@dataclass(frozen=True, kw_only=True)
class Reads(Job):
    def run(self, suite, place, control):
        if self.name == "broken":
            raise ZeroDivisionError
        return f"{self.name} transferred"

    def task_of(self, suite):
        return ""


def test_failed_jobs_stop_only_those_that_need_them(tiny, place):
    store = torch.distributed.HashStore()
    # Another process has taken it.
    store.add("claim theirs", 1)
    jobs = [
        Trains(name="bad", key=key("step", 1)),
        Trains(name="child", needs=("bad",), key=key("step", 2)),
        Trains(name="good", key=key("hold", 2)),
        *[Reads(name=name, needs=("good",)) for name in ("theirs", "broken", "mine")],
        Reads(name="of-bad", needs=("bad",)),
    ]
    watcher = Watcher()
    expected = r"bad input\. Other jobs failed with 1 other error\. 2 jobs that depend on it were not started"
    with pytest.raises(InputError, match=expected) as caught:
        run_jobs_together(jobs, tiny, place, Control(), watcher, ProcessGroup(store=store))
    assert watcher.lines == ["good trained", "mine transferred"]
    assert caught.value.shared and not caught.value.silent


def test_no_job_starts_after_a_stop(tiny, place):
    control = Control()

    class Stopping(Watcher):
        def progressed(self, job, done, total, unit):
            control.stop()

    jobs = [Trains(name="stops", key=key("step", 1)), Trains(name="after", key=key("hold", 1)), Reads(name="reads")]
    watcher = Stopping()
    with pytest.raises(InterruptedWork, match="Run the same command again"):
        run_jobs_together(jobs, tiny, place, control, watcher, ProcessGroup())
    assert watcher.lines == ["stops trained"]
