"""`lrbench transfer` with several snapshots, tasks and protocols."""

import json
import re

import pytest

from lrbench.transfer.cell import Transfer


@pytest.fixture
def pretrained(pretrain_tiny, home):
    """The four snapshots of an arm."""
    pretrain_tiny("step")
    return home


def asked(*words):
    """Return the words of a command: `snapshot stage1 task a` as `--snapshot stage1 --task a`."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return ("transfer", *(word for name, value in pairs for word in (f"--{name}", value)))


def cells(records):
    return [(record["snapshot"]["stage"], record["task"]["name"], record["protocol"]) for record in records]


def test_every_combination_is_computed_in_order(lrbench, pretrained, monkeypatch):
    loaded = []
    load = Transfer.__init__

    def counted(self, reference, *given):
        loaded.append(reference.text)
        load(self, reference, *given)

    monkeypatch.setattr(Transfer, "__init__", counted)
    command = asked(
        "snapshot", "stage1", "snapshot", "stage3", "snapshot", "step/stage1",
        "task", "tiny-objects", "task", "tiny-indoor", "protocol", "knn", "protocol", "logme",
    )  # fmt: skip
    done = lrbench(*command, "--json")
    expected = [
        (stage, task, protocol)
        for stage in (1, 3)
        for task in ("tiny-objects", "tiny-indoor")
        for protocol in ("knn", "logme")
    ]
    assert done.status == 0, done.err
    assert cells(json.loads(done.out)) == expected
    assert loaded == ["tiny/step/seed0/stage1", "tiny/step/seed0/stage3"]
    again = lrbench(*command)
    assert again.status == 0 and again.err.count("nothing was computed") == 8
    rows = again.out.splitlines()[2:]
    assert len(rows) == 8 and all(re.search(r"\d (k|M)  +\d.* (k|M)", row) for row in rows)


def test_one_cell_is_one_record(lrbench, pretrained):
    one = asked("snapshot", "stage1", "task", "tiny-objects", "protocol", "knn")
    assert isinstance(json.loads(lrbench(*one, "--json").out), dict)
    # A cell named twice is one cell.
    assert isinstance(json.loads(lrbench(*one, "--snapshot", "step/stage1", "--json").out), dict)
    two = json.loads(lrbench(*one, "--protocol", "logme", "--json").out)
    assert cells(two) == [(1, "tiny-objects", "knn"), (1, "tiny-objects", "logme")]


def test_failures_are_listed_at_the_end(lrbench, pretrained):
    done = lrbench(
        *asked("snapshot", "stage1", "task", "cub200", "task", "tiny-objects", "protocol", "knn", "protocol", "logme"),
        "--json",
    )
    assert done.status == 2
    assert cells(json.loads(done.out)) == [(1, "tiny-objects", "knn"), (1, "tiny-objects", "logme")]
    last = done.err.splitlines()[-1]
    name = "tiny/step/seed0/stage1 → cub200"
    assert last.startswith(f"lrbench: 2 of 4 transfers failed. {name} (knn), {name} (logme): the data of task cub200")


def test_failed_computation_decides_the_exit_status(lrbench, pretrained, monkeypatch):
    def breaks(self, cell, **_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(Transfer, "run", breaks)
    done = lrbench(*asked("snapshot", "stage1", "task", "tiny-objects", "task", "cub200", "protocol", "knn"))
    assert done.status == 1 and "2 of 2 transfers failed." in done.err and "ZeroDivisionError" in done.err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("snapshot", "stagex"), "'stagex' is not a snapshot reference"),
        (("task", "tiny-object"), "Did you mean 'tiny-objects'?"),
        (("task", "../tasks/tiny-objects.toml"), "are both called tiny-objects, so their results would be mixed."),
        (("protocol", "knnn"), "Did you mean 'knn'?"),
        (("set", "finetune.updates=3"), "knn does not read `finetune`"),
    ],
)
def test_wrong_name_stops_before_computation(lrbench, pretrained, wrong, said):
    refused = lrbench(*asked("snapshot", "stage1", "task", "tiny-objects", "protocol", "knn", *wrong))
    assert refused.status == 2 and said in refused.err
    assert not (pretrained / "leaderboard" / "results").exists()


def test_setting_applies_to_protocols_that_read_it(lrbench, pretrained):
    command = asked("snapshot", "stage1", "task", "tiny-objects", "protocol", "knn", "protocol", "probe")
    done = lrbench(*command, "--set", "probe.strengths=2", "--json")
    knn, probe = json.loads(done.out)
    assert probe["settings"]["probe"]["strengths"] == 2 and "probe" not in knn["settings"]


def test_tasks_of_a_group_are_transferred_and_averaged(lrbench, pretrained, home):
    for name in ("objects", "indoor"):
        path = home.parent / "tasks" / f"tiny-{name}.toml"
        path.write_text(path.read_text().replace("\n\n[files]", '\ngroups = ["small"]\n\n[files]'))
    assert re.search(r"^small +tiny-indoor, tiny-objects$", lrbench("tasks").out, re.MULTILINE)
    command = asked("snapshot", "stage1", "tasks", "small", "protocol", "knn")
    done = lrbench(*command)
    assert done.status == 0, done.err
    records = {record["task"]["name"]: record for record in json.loads(lrbench(*command, "--json").out)}
    shares = [100 * record["metrics"][record["task"]["metric"]] for record in records.values()]
    table, _, caption = done.out.partition("Percent, headline metric")
    last = table.splitlines()[-1].split()
    assert last[:4] == ["mean", "of", "2", f"{sum(shares) / 2:.2f}"]
    low, high = float(last[4][1:-1]), float(last[5][:-1])
    assert low < sum(shares) / 2 < high and "95 % interval covers the test images of these tasks" in caption
    # Names separated by commas; a failure leaves no mean.
    failed = lrbench(*asked("snapshot", "stage1", "tasks", "tiny-objects,cub200", "protocol", "knn"))
    assert failed.status == 2 and failed.out.partition("\nPercent")[0].endswith("incomplete")
    assert "name a task" in lrbench("transfer", "--snapshot", "stage1").err
    assert "there is no task called 'vtap'. Did you mean" in lrbench(*asked("snapshot", "stage1", "tasks", "vtap")).err
