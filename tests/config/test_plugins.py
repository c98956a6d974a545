"""Plug-ins of other installed packages."""

import pytest

from lrbench.config import find_tasks, load_task
from lrbench.config.plugins import plugins
from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.store.references import resolve_reference
from lrbench.store.results import read_result

ENTRY_POINTS = """
[lrbench.tasks]
mine = their_tasks
gone = no_such_package.tasks

[lrbench.models]
tiny-net = their_tasks.networks:build
wrong = their_tasks
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package with a task and a network, two of whose entry points are broken."""
    site = tmp_path / "site"
    package, record = site / "their_tasks", site / "their_tasks-1.2.dist-info"
    package.mkdir(parents=True)
    record.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('tasks need no import')\n")
    (package / "mine.toml").write_text('name = "theirs"\nlike = "toy-objects"\n[files]\ntrain = 30\ntest = 20\n')
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: their-tasks\nVersion: 1.2\n")
    (record / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    plugins.cache_clear()
    yield package
    plugins.cache_clear()


def test_tasks_of_a_package_are_known_without_importing_it(home, installed):
    assert load_task("theirs").files.train == 30 and find_tasks()["theirs"].path == installed / "mine.toml"


def test_a_network_of_a_package_is_transferred_by_name(lrbench, home, installed, small_probe_grid):
    (installed / "__init__.py").write_text("")
    (installed / "networks.py").write_text(
        "from tests.api.test_api import Plain\nimport lrbench\n\n"
        "def build():\n    return lrbench.Model(module=Plain(), size=32)\n"
    )
    done = lrbench("transfer", "--snapshot", "python:tiny-net", "--task", "tiny-objects", "--protocol", "knn")
    assert done.status == 0, done.err
    [path] = (home / "leaderboard" / "results" / "foreign").glob("*.json")
    assert read_result(path).snapshot.reference == "python:tiny-net"
    with pytest.raises(InputError, match=r"names no function.*plug-in \(tiny-net\)"):
        resolve_reference("python:tiny", Workspace(root=home))


def test_broken_plugins_are_named_and_left_out(lrbench, home, installed):
    shown = lrbench("doctor")
    assert shown.status == 0, shown.err
    lines = {
        line.split("  ")[1].strip(): line
        for line in shown.out.splitlines()
        if "their_tasks" in line or "no_such" in line
    }
    assert lines["lrbench.tasks mine"].endswith("their_tasks of their-tasks 1.2")
    assert "left out: no_such_package.tasks cannot be found" in lines["lrbench.tasks gone"]
    assert "left out: their_tasks is not written as package.module:function" in lines["lrbench.models wrong"]
