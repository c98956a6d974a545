"""A kill of a command at a random moment changes nothing of what the next one comes to."""

from tests.fuzz import kills
from tests.helpers import Forked


def test_killed_commands_end_with_an_undisturbed_runs_files():
    # tests/cli/test_run.py kills the parent alone, whose workers would have to import everything here.
    signals = ["kill", "term", "int-int", "worker", "stop"]
    verbs = ["pretrain", "prepare", "probe", "finetune"]
    done = Forked(kills.main, ["--count", "8", "--verb", *verbs, "--signal", *signals]).finished(600)
    assert done.status == 0, done.out[-4000:] + done.err[-2000:]
    assert "disturbed while running" in done.out
