"""A kill of a command at a random moment changes nothing of what the next one comes to."""

import subprocess
import sys

from tests.fuzz.harness import ROOT


def test_killed_commands_end_with_an_undisturbed_runs_files():
    script = ROOT / "tests" / "fuzz" / "kills.py"
    command = [sys.executable, script, "--count", "8", "--verb", "pretrain", "prepare", "probe", "finetune"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "disturbed while running" in done.stdout
