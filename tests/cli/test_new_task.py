"""`lrbench tasks new`: task files for folders of images."""

import tomllib

import pytest

from lrbench.config import load_task
from lrbench.data.loading import load_task_data
from tests.trees import image, save


def photos(folder, counts):
    for name, count in counts.items():
        for number in range(count):
            save(folder / name / f"p{number // 2}_{number}.jpg", image(0, number, size=(8, 8)))


def test_class_folders_get_a_task_that_loads(lrbench, home):
    photos(home / "My Photos", {"cat": 10, "dog": 40})
    done = lrbench("tasks", "new", "My Photos")
    assert done.status == 0 and done.out.split() == ["my-photos.toml"]
    assert "2 classes, 40 train, 10 test images; 8 to 32 training images per class" in done.err
    task = load_task("my-photos.toml")
    assert (task.metric, task.orientation, task.files.layout) == ("mean_per_class", "upright", "folders")
    assert len(load_task_data(task, (home,)).splits["test"]) == 10
    assert "exists. Delete it" in lrbench("tasks", "new", "My Photos").err


def test_groups_and_options_are_written(lrbench, home):
    photos(home / "scans", {"ill": 20, "healthy": 20})
    options = ("--name", "scans-by-patient", "--group-pattern", "/(p[0-9]+)_", "--test", "0.3", "--metric", "top1")
    assert lrbench("tasks", "new", "scans", *options).status == 0
    content = tomllib.loads((home / "scans-by-patient.toml").read_text())
    assert content["files"]["split"]["group"] == {"pattern": "/(p[0-9]+)_"} and content["metric"] == "top1"
    data = load_task_data(load_task("scans-by-patient.toml"), (home,))
    assert not set(data.splits["train"].groups) & set(data.splits["test"].groups)


def test_split_folders_and_tables_are_detected(lrbench, home):
    photos(home / "sets" / "train", {"a": 3, "b": 3})
    photos(home / "sets" / "val", {"a": 2, "b": 2})
    assert lrbench("tasks", "new", "sets").status == 0
    assert load_task("sets.toml").files.test == "val"
    assert "have no meaning" in lrbench("tasks", "new", "sets", "--name", "other", "--test", "0.5").err
    photos(home / "table", {"a": 6})
    rows = [f"a/p{number // 2}_{number}.jpg,{'xy'[number % 2]},{number // 2}" for number in range(6)]
    (home / "table" / "labels.csv").write_text("\n".join(["image,label,patient", *rows]) + "\n")
    done = lrbench("tasks", "new", "table", "--group-column", "patient")
    assert done.status == 0 and "layout: table, table labels.csv" in done.err
    assert load_task("table.toml").files.split.group.column == "patient"


def test_table_of_a_spreadsheet_with_semicolons_is_read(lrbench, home):
    photos(home / "table", {"a": 4})
    rows = [f"a/p{number // 2}_{number}.jpg;{'xy'[number % 2]}" for number in range(4)]
    (home / "table" / "labels.csv").write_text("\ufeffimage;label\r\n" + "\r\n".join(rows) + "\r\n")
    done = lrbench("tasks", "new", "table")
    assert done.status == 0, done.err
    assert load_task("table.toml").files.separator == ";"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing",), "is not a folder"),
        (("empty",), "no folder of images for each class"),
        (("one", "--name", "My Task"), "must consist of lowercase letters"),
        (("one", "--group-pattern", "zzz"), "does not occur in the path"),
        (("one", "--test", "1.5"), "no task file is written: `files.split.test` must be less than 1, not 1.5"),
        (("one", "--name", "digits"), "there is already a task called 'digits'"),
    ],
)
def test_wrong_folders_are_explained(lrbench, home, arguments, message):
    (home / "empty").mkdir()
    photos(home / "one", {"a": 4, "b": 4})
    done = lrbench("tasks", "new", *arguments)
    assert done.status == 2 and message in done.err and not list(home.glob("one*.toml"))


def test_questions_are_asked_on_a_terminal(lrbench, home, monkeypatch):
    photos(home / "photos", {"a": 8, "b": 8})
    answers = {"Name": "asked", "Share": "0.5", "Regular": "/(p[0-9]+)_", "Headline": "mean_per_class"}
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, **_: True)
    monkeypatch.setattr("typer.prompt", lambda question, **_: answers[question.split()[0]])
    assert lrbench("tasks", "new", "photos").status == 0
    task = load_task("asked.toml")
    assert task.files.split.test == 0.5 and task.files.split.group.pattern and task.metric == "mean_per_class"


def test_task_is_shown_with_all_defaults(lrbench, home):
    photos(home / "photos", {"a": 5, "b": 5})
    done = lrbench("tasks", "new", "photos", "--yes")
    assert "; 4 training images per class" in done.err
    shown = lrbench("tasks", "photos.toml").out
    assert 'metric = "top1"' in shown and "test = 0.2" in shown and 'title = ""' not in shown
    (home / "shown.toml").write_text(shown)
    assert load_task("shown.toml").files == load_task("photos.toml").files
    assert "test: 1 images per class" in lrbench("data", "verify", "photos.toml").out


def test_tasks_are_shown_without_a_verb(lrbench):
    shown = lrbench("tasks", "digits").out
    assert 'name = "digits"' in shown and shown == lrbench("tasks", "show", "digits").out
    assert "new" in lrbench("tasks", "--help").out
