"""Atomic unpacking of archives: location of the folder, counts, damage, stops and killed processes."""

import bz2
import io
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.data.fetch import fetch
from tests.data.archive_server import ARCHIVE, RecordingControl, archive_task, make_tar, make_zip, with_archives

LISTS = {"Training_01.txt": b"one", "Testing_01.txt": b"two"}
UNPACKED = "data/mine"


def offered(home, server, content, name="mine.tar.gz"):
    """Return a task with one archive of that content, without pins."""
    server.files[f"/{name}"] = content
    return with_archives(archive_task(home, server, name=name), {"md5": None})


@pytest.mark.parametrize(("pack", "name"), [(make_tar, "mine.tar.gz"), (make_zip, "mine.zip")])
def test_top_level_files_are_put_into_the_folder(home, server, pack, name):
    content = pack({**LISTS, "__MACOSX/._Training_01.txt": b"", ".DS_Store": b""})
    fetch(offered(home, server, content, name), home / "data", Control())
    assert {path.name for path in (home / UNPACKED).iterdir() if path.name[0] != "."} == set(LISTS)
    assert (home / UNPACKED / "Training_01.txt").read_bytes() == b"one"


def test_top_level_images_are_counted(home, server):
    task = offered(home, server, make_tar({"1.png": b"", "2.png": b""}))
    with pytest.raises(FailureError, match=r"contains 2 images, expected 3\. Delete it"):
        fetch(with_archives(task, {"images": 3}), home / "data", Control())
    assert not (home / UNPACKED).exists()
    fetch(with_archives(task, {"images": 2}), home / "data", Control())
    assert (home / UNPACKED / "2.png").is_file()


def test_top_level_file_with_the_folders_name_is_kept(home, server):
    fetch(offered(home, server, make_tar({"mine": b"a file", "list.txt": b""})), home / "data", Control())
    assert (home / UNPACKED / "mine").read_bytes() == b"a file"


@pytest.mark.parametrize("held", [{"other/1.txt": b""}, {"other/1.txt": b"", "README": b""}, {}])
def test_archive_without_the_folder_is_refused(home, server, held):
    with pytest.raises(FailureError, match=r"contains no folder mine .it contains"):
        fetch(offered(home, server, make_tar(held)), home / "data", Control())
    assert not (home / UNPACKED).exists()


def test_folder_is_found_one_level_down(home, server):
    content = make_tar({"release-1/mine/train/a/1.txt": b"one", "release-1/README": b""})
    fetch(offered(home, server, content), home / "data", Control())
    assert (home / UNPACKED / "train" / "a" / "1.txt").read_bytes() == b"one"
    assert not (home / "data" / "release-1").exists()


@pytest.mark.parametrize("key", ["into", "unpacks_to"])
@pytest.mark.parametrize("value", ["../elsewhere", "/elsewhere", "a/../../b", "~/a"])
def test_task_that_writes_outside_the_data_root_is_refused(home, server, key, value):
    archive_task(home, server)
    path = home / "t.toml"
    path.write_text(path.read_text().replace('unpacks_to = "mine"', f'{key} = "{value}"'))
    with pytest.raises(InputError, match=rf"archives\.0\.{key}.*leads out of the data root"):
        load_task("t.toml")


def test_archive_without_unpacks_to_is_reported(home, server):
    task = offered(home, server, ARCHIVE)
    control = RecordingControl()
    fetch(with_archives(task, {"unpacks_to": None}), home / "data", control)
    assert control.messages[-1].startswith("mine.tar.gz is an archive, but was not unpacked: ")


def test_folder_is_found_in_an_inner_archive(home, server):
    held = {"release/inner.tar.gz": make_tar({"mine/a/1.png": b"one"}), "__MACOSX/release/._inner.tar.gz": b"litter"}
    task = offered(home, server, make_zip(held), "mine.zip")
    fetch(with_archives(task, {"inner": "inner.tar.gz", "images": 1}), home / "data", Control())
    assert (home / UNPACKED / "a" / "1.png").read_bytes() == b"one"
    assert {path.name for path in (home / "data").iterdir() if path.is_dir()} == {"mine"}
    for inner, problem in (
        ("other.tar.gz", r"mine\.zip contains no other\.tar\.gz\. Delete"),
        ("damaged.tar", "not be unpacked"),
    ):
        server.files["/mine.zip"] = make_zip({**held, "damaged.tar": b"no tar"})
        with pytest.raises(FailureError, match=problem):
            fetch(with_archives(task, {"inner": inner}), home / inner, Control())
        assert not (home / inner / "mine").exists()


def packed_in(kind):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        entry = tarfile.TarInfo("mine/a/1.txt")
        entry.size = 100_000
        archive.addfile(entry, io.BytesIO(np.random.default_rng(0).bytes(entry.size)))
    return {"bz2": bz2.compress, "xz": lzma.compress}[kind](plain.getvalue())


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_bz2_and_xz_are_unpacked_and_damage_is_reported(home, server, kind):
    good = packed_in(kind)
    fetch(offered(home, server, good), home / "data", Control())
    assert (home / UNPACKED / "a" / "1.txt").stat().st_size == 100_000
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0xFF
    # The bzip2 file has a single block, so nothing of it can be read.
    with pytest.raises(
        FailureError, match=r"could not be unpacked: .*Delete it and fetch it again|is not a tar or zip file"
    ):
        fetch(offered(home, server, bytes(bad)), home / "other", Control())
    assert not (home / "other" / "mine").exists()


def test_gzip_checksum_at_the_end_is_verified(home, server):
    wrong_sum = ARCHIVE[:-8] + bytes(4) + ARCHIVE[-4:]
    with pytest.raises(FailureError, match=r"could not be unpacked: CRC check failed.*Delete it and fetch it again"):
        fetch(offered(home, server, wrong_sum), home / "data", Control())
    cut = ARCHIVE[:-6]
    with pytest.raises(FailureError, match="could not be unpacked"):
        fetch(offered(home, server, cut), home / "cut", Control())
    assert not (home / UNPACKED).exists() and not (home / "cut" / "mine").exists()


def test_damaged_or_encrypted_zip_is_refused(home, server):
    members = {"mine/a/1.txt": b"x" * 100, "mine/b.txt": b"y"}
    damaged = make_zip(members).replace(b"x" * 100, b"x" * 99 + b"z")
    # The encryption flag of the first member, in its header and in the central directory.
    encrypted = bytearray(make_zip(members))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    for content, problem in ((damaged, "Bad CRC-32"), (bytes(encrypted), "encrypted")):
        (home / "data" / "mine.zip").unlink(missing_ok=True)
        with pytest.raises(FailureError, match=rf"could not be unpacked: .*{problem}"):
            fetch(offered(home, server, content, "mine.zip"), home / "data", Control())
        assert not (home / UNPACKED).exists()


@pytest.mark.parametrize(("pack", "name"), [(make_tar, "mine.tar.gz"), (make_zip, "mine.zip")])
@pytest.mark.parametrize("members", [("mine/a", "mine/a/1.txt"), ("mine/a/1.txt", "mine/a")])
def test_file_and_folder_of_the_same_name_are_damage(home, server, pack, name, members):
    content = pack({"mine/b.txt": b"x", **dict.fromkeys(members, b"y")})
    with pytest.raises(
        FailureError, match=r"could not be unpacked: it is damaged: a file and a folder have the same name"
    ):
        fetch(offered(home, server, content, name), home / "data", Control())
    assert not (home / UNPACKED).exists()


@pytest.mark.parametrize(("pack", "name"), [(make_tar, "mine.tar.gz"), (make_zip, "mine.zip")])
def test_unpacking_reports_progress_and_can_be_stopped(home, server, pack, name):
    content = pack({f"mine/{number}.txt": np.random.default_rng(number).bytes(90_000) for number in range(20)})
    task, control = offered(home, server, content, name), RecordingControl()
    (home / "data").mkdir()
    (home / "data" / name).write_bytes(content)
    tell = control.progress

    def stops(done, total, unit):
        tell(done, total, unit)
        if len(control.reports) == 5:
            control.stop()

    control.progress = stops
    with pytest.raises(InterruptedWork, match=rf"stopped while unpacking .*{name}\. Run the same command again"):
        fetch(task, home / "data", control)
    assert len(control.reports) == 5 and not (home / UNPACKED).exists()
    assert sorted(path.name for path in (home / "data").iterdir()) == [".mine.lock", name]
    control = RecordingControl()
    fetch(task, home / "data", control)
    done, totals, units = zip(*control.reports, strict=True)
    assert len(done) == 20 and list(done) == sorted(done) and done[-1] <= totals[-1] and set(units) == {"bytes"}
    assert done[0] < totals[0] / 2 < done[-1] and len(list((home / UNPACKED).glob("*.txt"))) == 20


KILLED = """
import sys, time
from pathlib import Path
from lrbench.core.control import Control
from lrbench.data.fetch import fetch
from lrbench.config import load_task
control = Control()
control.progress = lambda done, total, unit: (Path("begun").touch(), time.sleep(60))
fetch(load_task("t.toml"), Path("data"), control)
"""


def test_leftovers_of_a_killed_process_are_removed(home, server):
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz").write_bytes(ARCHIVE)
    task = archive_task(home, server)
    process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=home)
    waited = time.monotonic()
    while not (home / "begun").exists() and time.monotonic() - waited < 60:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list((home / "data").glob(".mine.unpacking*"))) == 1
    fetch(task, home / "data", Control())
    assert sorted(path.name for path in (home / "data").iterdir()) == [".mine.lock", "mine", "mine.tar.gz"]


def test_leftovers_are_not_part_of_the_result(home, server):
    left = home / "data" / ".mine.unpacking" / "mine"
    left.mkdir(parents=True)
    (left / "stale.txt").write_bytes(b"of another archive")
    fetch(offered(home, server, ARCHIVE), home / "data", Control())
    names = {path.name for path in (home / UNPACKED).rglob("*") if path.is_file()}
    assert names == {"1.txt", "2.txt", ".lrbench-fetched.json"} and not left.parent.exists()


def test_without_locks_other_temporary_folders_are_kept(home, server, monkeypatch):
    def no_locks(handle, operation):
        raise OSError("locks are not supported")

    monkeypatch.setattr("lrbench.core.locks.fcntl.flock", no_locks)
    (home / "data" / ".mine.unpacking" / "mine").mkdir(parents=True)
    fetch(offered(home, server, ARCHIVE), home / "data", Control())
    assert (home / UNPACKED / "train").is_dir() and (home / "data" / ".mine.unpacking" / "mine").is_dir()
    assert len(list((home / "data").glob(".mine.unpacking*"))) == 1
