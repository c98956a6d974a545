"""A source tree that is not installed but on PYTHONPATH."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lrbench.config.registry import shipped_folder
from lrbench.core.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def uninstalled(home, tmp_path):
    """Run a command line with all libraries except an installed lrbench."""
    # A copy without lrbench.egg-info, which an editable install leaves in the root.
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("lrbench", "benchmark", "tasks"):
        (tree / name).symlink_to(ROOT / name)
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for folder in [Path(path) for path in sys.path if path.endswith("-packages")]:
        for entry in folder.iterdir():
            if not re.search(r"lrbench|\.pth$|__pycache__", entry.name) and not (libraries / entry.name).exists():
                (libraries / entry.name).symlink_to(entry)

    def run(*arguments):
        # -S ignores .pth files, which editable installs use.
        return subprocess.run(
            [sys.executable, "-S", "-m", "lrbench", *arguments],
            env={**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{libraries}"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_source_tree_works_without_installation(uninstalled):
    version = uninstalled("--version")
    assert version.returncode == 0 and version.stdout.startswith("lrbench 0.")
    done = uninstalled("doctor", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["versions"]["lrbench"] == "unknown (not installed)" and shown["versions"]["torch"][0].isdigit()
    assert {"cub200", "digits"} <= set(shown["tasks"]) and {"quick", "imagenet"} <= set(shown["suites"])


def test_missing_shipped_tasks_are_reported(monkeypatch, tmp_path):
    def missing(package):
        raise ModuleNotFoundError(package)

    monkeypatch.setattr("lrbench.config.registry.importlib.resources.files", missing)
    assert shipped_folder("lrbench.suites") == ROOT / "benchmark" / "suites"
    monkeypatch.setattr("lrbench.config.registry.__file__", str(tmp_path / "lrbench" / "config" / "registry.py"))
    with pytest.raises(
        InputError, match=r"lrbench\.tasks was not found next to .*Install lrbench from its source folder"
    ):
        shipped_folder("lrbench.tasks")
