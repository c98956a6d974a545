"""A kill of a command at a random moment changes nothing of what the next one comes to."""

import subprocess
import sys

from tests.fuzz.harness import ROOT


def test_killed_commands_end_with_an_undisturbed_runs_files():
    script = ROOT / "tests" / "fuzz" / "kills.py"
    # tests/cli/test_run.py kills the parent alone, whose workers would have to import everything here.
    signals = ["kill", "term", "int-int", "worker", "stop"]
    verbs = ["pretrain", "prepare", "probe", "finetune"]
    command = [sys.executable, script, "--count", "8", "--verb", *verbs, "--signal", *signals]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "disturbed while running" in done.stdout
