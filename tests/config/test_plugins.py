"""Plug-ins of other installed packages."""

import sys
from dataclasses import replace

import pytest

from lrbench.config import find_tasks, load_suite, load_task
from lrbench.config.arms import ARMS, plugin_problem
from lrbench.config.protocols import PROTOCOLS
from lrbench.config.schedule import SnapshotKey, find_segment, learning_rate
from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.jobs.plan import make_plan
from lrbench.store.references import resolve_reference
from lrbench.store.results import read_result

ENTRY_POINTS = """
[lrbench.tasks]
mine = their_tasks
gone = no_such_package.tasks

[lrbench.models]
tiny-net = their_tasks.networks:build
wrong = their_tasks

[lrbench.protocols]
nearest-class = their_records:NEAREST
probe = their_records:NEAREST
needs-torch-9 = their_records.absent:PROTOCOL
misnamed = their_records:NEAREST
trained = their_records:TRAINED
empty-module = their_records:EMPTY
faulty = their_records:FAULTY

[lrbench.arms]
half = their_records:HALF
orphan = their_records:ORPHAN
rising = their_records:RISING
"""

MODULE = "tests.transfer.nearest_mean"
RECORDS = f"""
from dataclasses import replace
from lrbench.config.arms import ARMS, Arm
from lrbench.config.protocols import PROTOCOLS, Protocol

MODULE = "{MODULE}"
NEAREST = Protocol(name="nearest-class", version=3, help="nearest mean", module=MODULE, selects=False, logits=False)
TRAINED = replace(PROTOCOLS["finetune"], name="trained")
EMPTY = replace(NEAREST, name="empty-module", module="json")
FAULTY = replace(NEAREST, name="faulty", module="their_faults")
HALF = Arm(name="half", rate=lambda schedule, stage: schedule.rates[0] / 2, marker="x", description="half the first rate")
ORPHAN = replace(HALF, name="orphan", shares="no-such-arm")
RISING = replace(HALF, name="rising", rate=lambda schedule, stage: -0.1)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package with plug-ins of every group, some of them broken."""
    site = tmp_path / "site"
    package, record = site / "their_tasks", site / "their_tasks-1.2.dist-info"
    package.mkdir(parents=True)
    record.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('tasks need no import')\n")
    (package / "mine.toml").write_text('name = "theirs"\nlike = "toy-objects"\n[files]\ntrain = 30\ntest = 20\n')
    (site / "their_records.py").write_text(RECORDS)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: their-tasks\nVersion: 1.2\n")
    (record / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    for registry in (PROTOCOLS, ARMS):
        registry.reload()
    yield package
    sys.modules.pop("their_records", None)
    for registry in (PROTOCOLS, ARMS):
        registry.reload()


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
        line.split("  ")[1].strip(): line for line in shown.out.splitlines() if "their_" in line or "no_such" in line
    }
    assert lines["lrbench.tasks mine"].endswith("their_tasks of their-tasks 1.2")
    assert "left out: no_such_package.tasks cannot be found" in lines["lrbench.tasks gone"]
    assert "left out: their_tasks is not written as package.module:name" in lines["lrbench.models wrong"]
    assert lines["lrbench.protocols nearest-class"].endswith("their_records:NEAREST of their-tasks 1.2")
    assert lines["lrbench.arms half"].endswith("their_records:HALF of their-tasks 1.2")
    for name, problem in {
        "protocols probe": "'probe' is a name of lrbench, which cannot be replaced",
        "protocols needs-torch-9": "their_records.absent:PROTOCOL cannot be imported: ModuleNotFoundError",
        "protocols misnamed": "their_records:NEAREST has the name 'nearest-class', not 'misnamed'",
        "protocols trained": "it trains the network (trains=True), which only `finetune` does",
        "arms orphan": "it starts from the arm 'no-such-arm', which does not exist",
    }.items():
        assert f"left out: {problem}" in lines[f"lrbench.{name}"]
    assert PROTOCOLS["probe"].version == 2 and "misnamed" not in PROTOCOLS and "orphan" not in ARMS


def test_a_broken_protocol_is_named_where_it_is_asked_for(lrbench, home, installed):
    command = ("transfer", "--snapshot", "timm:resnet18", "--task", "tiny-objects", "--protocol")
    assert "the plug-in 'misnamed' of their-tasks 1.2 was left out" in lrbench(*command, "misnamed").err
    planned = lrbench("plan", "tiny.toml", "--set", 'protocols=["trained"]')
    assert planned.status == 2 and "the plug-in 'trained' of their-tasks 1.2 was left out" in planned.err
    failed = lrbench(*command, "empty-module")
    assert (
        "the protocol 'empty-module' of their-tasks 1.2 cannot be used: json has no function `configure`" in failed.err
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("def select(*_, **__): raise KeyError('x')", "KeyError: 'x'."),
        ("def select(*_, **__): raise SystemExit(0)", "it called sys.exit(0)."),
        ("def fit(*_, **__): return None", "'NoneType' object has no attribute 'scores'."),
        ("FittedMeans.scores = lambda self, x: torch.zeros(len(x), 9)", "a tensor of scores of shape (40, 4)."),
    ],
)
def test_a_faulty_protocol_is_named_and_stores_nothing(lrbench, home, installed, snapshot, monkeypatch, fault, reason):
    # The class is copied, because one of the faults changes it.
    copied = "class FittedMeans(FittedMeans): pass\nfits = fit\ndef fit(*given, **named):\n"
    copied += "    fitted = fits(*given, **named)\n    fitted.__class__ = FittedMeans\n    return fitted\n"
    (installed.parent / "their_faults.py").write_text(f"from {MODULE} import *\n{copied}{fault}\n")
    monkeypatch.delitem(sys.modules, "their_faults", raising=False)
    failed = lrbench("transfer", "--snapshot", "stage0", "--task", "tiny-objects", "--protocol", "faulty")
    assert failed.status == 1 and reason in failed.err, failed.err
    assert "Unexpected error in the protocol 'faulty' of their-tasks 1.2: " in failed.err
    assert not list(home.glob("leaderboard/results/*/*.faulty.*"))


def test_results_name_the_package_of_their_protocol(lrbench, home, installed, pretrain_tiny, place):
    pretrain_tiny("step")
    done = lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-objects", "--protocol", "nearest-class")
    assert done.status == 0, done.err
    [path] = (home / "leaderboard" / "results" / "tiny").glob("*.nearest-class.*.json")
    result = read_result(path)
    assert (result.protocol, result.protocol_version) == ("nearest-class", 3)
    assert result.settings["protocol_origin"] == "their-tasks" and result.versions["their-tasks"] == "1.2"
    suite = load_suite("tiny.toml", changes=['protocols=["nearest-class"]', 'targets=["tiny-objects"]'])
    assert [str(cell.snapshot) for cell in make_plan(suite, place).cells if cell.done] == ["step/seed0/stage1"]


def test_an_arm_of_a_package_is_planned_like_the_others(lrbench, home, installed, place):
    suite = load_suite("tiny.toml", changes=['arms=["step", "half"]'])
    segment = find_segment(suite.schedule, SnapshotKey(arm="half", seed=0, stage=1))
    assert learning_rate(suite.schedule, segment, 0, 1) == suite.schedule.rates[0] / 2
    assert any(str(cell.snapshot) == "half/seed0/stage1" for cell in make_plan(suite, place).cells)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"rate": lambda schedule, stage: {}["x"]}, "KeyError: 'x'"),
        ({"rate": lambda schedule, stage: float("nan")}, "its learning rates are [nan, nan, nan]"),
        ({"rate": lambda schedule, stage: None}, "its learning rates are [None, None, None]"),
        ({"growth": lambda schedule, stage: 0}, "its batches grow by [0, 0, 0]"),
        ({"extra_epochs": lambda schedule: -3}, "its stages end at the epochs (0, 3, 5, 6, 3)"),
        ({"description": "{nothing}"}, "KeyError: 'nothing'"),
    ],
)
def test_an_arm_that_cannot_follow_a_schedule_has_a_reason(tiny, changes, problem):
    odd = replace(ARMS["step"], name="odd", **{"rate": lambda schedule, stage: 0.1} | changes)
    reason = plugin_problem(odd, tiny.schedule)
    assert reason is None if problem is None else reason.startswith(problem)


def test_every_arm_of_lrbench_follows_the_schedule(tiny):
    # The tiny schedule has no room for boundaries that move.
    assert not any(plugin_problem(arm, tiny.schedule) for arm in ARMS.values() if not arm.shift)


def test_a_faulty_arm_is_named_before_it_is_trained(lrbench, home, installed):
    refused = lrbench("plan", "tiny.toml", "--set", 'arms=["step", "rising"]')
    assert (
        refused.status == 2 and "arm 'rising' of their-tasks 1.2 cannot be used: its learning rates are" in refused.err
    )
