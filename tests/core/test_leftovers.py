"""Temporary files of dead processes are removed by the next command that writes, and nothing else is."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrbench.core import leftovers
from lrbench.core.errors import FailureError
from lrbench.core.files import atomic_folder, atomic_path, write_text
from lrbench.core.leftovers import remove_leftovers, temporary_name

DAY = 24 * 3600

WRITER = """
import sys, time
from pathlib import Path
from lrbench.core.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(600)
"""


def start_writer(path):
    """A process that is in the middle of writing `path`."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    return writer, path.with_name(writer.stdout.readline().strip())


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_only_files_of_dead_writers_are_removed(tmp_path):
    dead, left = start_writer(tmp_path / "deep" / "a.json")
    living, in_work = start_writer(tmp_path / "deep" / "b.json")
    try:
        remove_leftovers([tmp_path])
        assert left.exists() and in_work.exists()
        dead.kill()
        dead.wait()
        remove_leftovers([tmp_path])
        assert not left.exists() and in_work.exists()
    finally:
        living.kill()
        living.wait()


def test_stopped_writer_counts_as_running(tmp_path):
    writer, in_work = start_writer(tmp_path / "a.json")
    writer.send_signal(signal.SIGSTOP)
    try:
        remove_leftovers([tmp_path])
        assert in_work.exists()
    finally:
        writer.kill()
        writer.wait()


def test_reused_process_number_is_detected(tmp_path):
    own = temporary_name(tmp_path / "a.json").name
    started = own.split("-")[2]
    earlier = tmp_path / own.replace(f"-{started}-", f"-{int(started) - 1}-")
    earlier.write_text("half")
    mine = temporary_name(tmp_path / "a.json")
    mine.write_text("half")
    remove_leftovers([tmp_path])
    assert names(tmp_path) == [mine.name]


@pytest.mark.parametrize("name", [".a.json.01234567-1-1-89abcdef.part", ".a.json.abcd_123.part"])
def test_other_machines_file_stays_for_a_day(tmp_path, name):
    path = tmp_path / name
    path.write_text("half")
    for age, stays in ((DAY - 60, True), (DAY + 60, False)):
        os.utime(path, (time.time() - age,) * 2)
        remove_leftovers([tmp_path])
        assert path.exists() == stays


def test_other_machines_folder_has_age_of_newest_file(tmp_path):
    folder = tmp_path / ".cats.01234567-1-1-89abcdef.part"
    folder.mkdir()
    (folder / "shard").write_text("x")
    os.utime(folder, (time.time() - 2 * DAY,) * 2)
    remove_leftovers([tmp_path])
    assert folder.exists()
    os.utime(folder / "shard", (time.time() - 2 * DAY,) * 2)
    os.utime(folder, (time.time() - 2 * DAY,) * 2)
    remove_leftovers([tmp_path])
    assert not folder.exists()


def test_wrong_clock_of_this_machine_removes_nothing(tmp_path, monkeypatch):
    path = tmp_path / ".a.json.01234567-1-1-89abcdef.part"
    path.write_text("half")
    monkeypatch.setattr(time, "time", lambda: path.stat().st_mtime + 2 * DAY)
    remove_leftovers([tmp_path])
    assert names(tmp_path) == [path.name]


def test_stopped_writer_of_a_folder_cannot_finish_half_of_it(tmp_path, monkeypatch):
    remove = shutil.rmtree

    def interrupted(folder, **_):
        (folder / "first").unlink()
        raise OSError("the machine is lost")

    with pytest.raises(FailureError), atomic_folder(tmp_path / "images") as temporary:
        for name in ("first", "second"):
            (temporary / name).write_text("x")
        monkeypatch.setattr(leftovers, "_is_leftover", lambda path: path == temporary)
        monkeypatch.setattr(shutil, "rmtree", interrupted)
        remove_leftovers([tmp_path])
        monkeypatch.setattr(shutil, "rmtree", remove)
    assert not (tmp_path / "images").exists()


def test_machines_and_containers_have_different_ids(monkeypatch):
    machine = leftovers._machine_id()
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert leftovers._machine_id.__wrapped__() != machine


@pytest.mark.parametrize("name", ["a.part", ".a.part", "a.tar.gz.part", ".notes.partial", ".a.json.toolong_name.part"])
def test_unrelated_files_stay(tmp_path, name):
    path = tmp_path / name
    path.write_text("x")
    os.utime(path, (0, 0))
    remove_leftovers([tmp_path])
    assert path.exists()


def test_longest_file_names_are_written(tmp_path):
    for name in ("a" * 255, "é" * 127):
        write_text(tmp_path / name, "whole")
        assert (tmp_path / name).read_text() == "whole"
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_written_files_have_the_users_permissions(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_failed_write_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


LEFT = [
    ".README.md",
    "leaderboard/.quick.md",
    "leaderboard/rows/quick/.step-stage1.md",
    "leaderboard/figures/.quick-stages.svg",
    "leaderboard/results/tiny/.cell.json",
    "checkpoints/tiny/step/seed0/.stage1.safetensors",
    "cache/finetune/.cell.pt",
    "cache/results/.tiny.arrow",
]


@pytest.mark.parametrize("verb", ["leaderboard", "run", "pretrain", "transfer", "recommend", "prepare", "add"])
def test_writing_commands_remove_leftovers(lrbench, home, verb):
    machine = leftovers._machine_id()
    left = [home / f"{path}.{machine}-{4_000_000}-1-01234567.part" for path in LEFT]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    arguments = {
        "leaderboard": ["leaderboard"],
        "run": ["run", "missing.toml"],
        "pretrain": ["pretrain", "missing.toml"],
        "transfer": ["transfer", "--snapshot", "stage1", "--task", "missing"],
        "recommend": ["recommend", "--task", "missing"],
        "prepare": ["data", "prepare", "missing"],
        "add": ["snapshots", "add", "missing.pth", "--architecture", "test_resnet"],
    }[verb]
    assert lrbench(*arguments).status == 2
    assert [path for path in left if path.exists()] == []


def test_reading_removes_nothing(lrbench, home):
    left = home / f"leaderboard/.quick.md.{leftovers._machine_id()}-4000000-1-01234567.part"
    left.parent.mkdir()
    left.write_text("half")
    lrbench("leaderboard", "--check")
    lrbench("snapshots", "list")
    assert left.exists()


def test_git_ignores_temporary_and_lock_files():
    root = Path(__file__).parents[2]
    ignored = (root / ".gitignore").read_text().splitlines()
    assert {".*.part", ".*.lock"} <= set(ignored)
