"""Suites that name their tasks by the paths of TOML files."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from lrbench.config import load_suite, load_task, own_tasks
from lrbench.core.errors import InputError
from tests.helpers import TINY_SUITE, TINY_TASKS


@pytest.fixture
def study(home, monkeypatch):
    """A suite in a folder of its own, beside the task files that it names; none of them is registered."""
    monkeypatch.delenv("LRBENCH_TASKS")
    for name, files in TINY_TASKS.items():
        path = home / "study" / "tasks" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'name = "{name}"\n\n[files]\nlayout = "synthetic"\n{files}\n')
    text = TINY_SUITE.replace('"tiny-source"', '"tasks/tiny-source.toml"').replace(
        '"tiny-objects"', '"tasks/tiny-objects.toml"'
    )
    text = (
        text.replace(', "tiny-indoor"]', "]")
        .replace("[0, 1]", "[0]")
        .replace('["step", "hold", "constant", "average"]', '["step"]')
    )
    text = text.replace('["probe", "knn"]', '["knn"]').replace("[3, 5]", "[1, 2]").replace("epochs = 6", "epochs = 3")
    (home / "study" / "suite.toml").write_text(text)
    return home / "study"


def test_task_files_are_relative_to_the_suite_file(study):
    suite = load_suite("study/suite.toml")
    assert suite.source == "tiny-source" and suite.targets == ("tiny-objects",)
    assert load_task("tiny-objects").path == study / "tasks" / "tiny-objects.toml"
    assert load_task("tiny-objects").argument == str(study / "tasks" / "tiny-objects.toml")


def test_set_resolves_task_files_in_the_current_folder(study):
    suite = load_suite("study/suite.toml", ['targets=["study/tasks/tiny-indoor.toml"]'])
    assert suite.targets == ("tiny-indoor",) and load_task("tiny-indoor").files.train == 50


def test_task_files_are_known_in_another_process(study):
    content = pickle.dumps(load_suite("study/suite.toml"))
    program = (
        "import pickle, sys; pickle.load(sys.stdin.buffer)\n"
        "from lrbench.config import load_task; print(load_task('tiny-objects').files.train)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, env=dict(os.environ))
    assert done.stdout.decode().strip() == "48", done.stderr


def test_suite_with_task_files_runs_by_name(study, home, lrbench, monkeypatch):
    def run_as_new_process(*arguments):
        monkeypatch.setattr(own_tasks, "_paths", {})
        return lrbench("run", *arguments)

    done = run_as_new_process("study/suite.toml", "--workers", "2")
    assert done.status == 0, done.err
    results = sorted(path.name for path in (home / "leaderboard" / "results" / "tiny").rglob("*.knn.*.json"))
    assert len(results) == 4 and all(".tiny-objects.knn." in name for name in results)
    committed = json.loads((home / "leaderboard" / "results" / "tiny" / "suite.json").read_text())
    assert committed["targets"] == ["tiny-objects"] and "task_files" not in committed
    again = run_as_new_process("tiny")
    assert again.status == 0 and "4 of 4 snapshots and 4 of 4 cells" in again.err, again.err
    (study / "tasks" / "tiny-objects.toml").rename(study / "moved.toml")
    gone = run_as_new_process("tiny")
    assert gone.status == 2 and "there is no task file" in gone.err and "tiny-objects.toml" in gone.err


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ('["tasks/none.toml"]', r"study/suite\.toml, targets: there is no task file .*tasks/none\.toml"),
        ('["tasks"]', "there is no task called 'tasks'"),
        ('["suite.toml"]', r"suite\.toml is a suite, not a task"),
        ('["tasks/tiny-objects.toml", "tasks/../tasks/tiny-objects.toml"]', "are both called 'tiny-objects'"),
        ('["tasks/tiny-objects.toml", "tasks/tiny-objects.toml"]', "'tiny-objects' is named twice"),
    ],
)
def test_invalid_target_file_is_refused(study, targets, expected):
    text = (study / "suite.toml").read_text().replace('["tasks/tiny-objects.toml"]', targets)
    (study / "suite.toml").write_text(text)
    with pytest.raises(InputError, match=expected):
        suite = load_suite("study/suite.toml")
        for target in suite.targets:
            load_task(target)


def test_task_file_with_a_registered_name_is_refused(study, home, monkeypatch):
    (home / "registered").mkdir()
    (home / "registered" / "mine.toml").write_text('name = "tiny-objects"\n\n[files]\nlayout = "folders"\n')
    monkeypatch.setenv("LRBENCH_TASKS", str(home / "registered"))
    with pytest.raises(InputError, match=r"has the name 'tiny-objects' of .*mine\.toml"):
        load_suite("study/suite.toml")
