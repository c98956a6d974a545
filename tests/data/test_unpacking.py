"""Archives are unpacked whole or not at all: what they hold, where it lies in them, damage, a stop, a killed process."""

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
from tests.data.serving import FILES, GOOD, Watching, tar, task, with_archives, zipped

LISTS = {"Training_01.txt": b"one", "Testing_01.txt": b"two"}
UNPACKED = "data/mine"


def offered(home, server, content, name="mine.tar.gz"):
    """A task with one archive of that content, of which nothing is known."""
    FILES[f"/{name}"] = content
    return with_archives(task(home, server, name=name), {"md5": None})


@pytest.mark.parametrize(("pack", "name"), [(tar, "mine.tar.gz"), (zipped, "mine.zip")])
def test_files_at_the_top_of_an_archive_get_the_folder_that_is_wanted(home, server, pack, name):
    content = pack({**LISTS, "__MACOSX/._Training_01.txt": b"", ".DS_Store": b""})
    fetch(offered(home, server, content, name), home / "data", Control())
    assert {each.name for each in (home / UNPACKED).iterdir() if each.name[0] != "."} == set(LISTS)
    assert (home / UNPACKED / "Training_01.txt").read_bytes() == b"one"


def test_files_at_the_top_are_counted_too(home, server):
    described = offered(home, server, tar({"1.png": b"", "2.png": b""}))
    with pytest.raises(FailureError, match=r"contains 2 images, expected 3\. Delete it"):
        fetch(with_archives(described, {"images": 3}), home / "data", Control())
    assert not (home / UNPACKED).exists()
    fetch(with_archives(described, {"images": 2}), home / "data", Control())
    assert (home / UNPACKED / "2.png").is_file()


def test_a_file_of_the_wanted_name_at_the_top_comes_into_the_folder(home, server):
    fetch(offered(home, server, tar({"mine": b"a file", "list.txt": b""})), home / "data", Control())
    assert (home / UNPACKED / "mine").read_bytes() == b"a file"


@pytest.mark.parametrize("held", [{"other/1.txt": b""}, {"other/1.txt": b"", "README": b""}, {}])
def test_an_archive_of_something_else_is_refused(home, server, held):
    with pytest.raises(FailureError, match=r"contains no folder mine .it contains"):
        fetch(offered(home, server, tar(held)), home / "data", Control())
    assert not (home / UNPACKED).exists()


def test_the_wanted_folder_may_lie_one_folder_down(home, server):
    content = tar({"release-1/mine/train/a/1.txt": b"one", "release-1/README": b""})
    fetch(offered(home, server, content), home / "data", Control())
    assert (home / UNPACKED / "train" / "a" / "1.txt").read_bytes() == b"one"
    assert not (home / "data" / "release-1").exists()


@pytest.mark.parametrize("key", ["into", "unpacks_to"])
@pytest.mark.parametrize("value", ["../elsewhere", "/elsewhere", "a/../../b", "~/a"])
def test_a_task_file_that_would_write_outside_the_data_root_is_refused(home, server, key, value):
    task(home, server)
    path = home / "t.toml"
    path.write_text(path.read_text().replace('unpacks_to = "mine"', f'{key} = "{value}"'))
    with pytest.raises(InputError, match=rf"archives\.0\.{key}.*leads out of the data root"):
        load_task("t.toml")


def test_an_archive_that_is_not_to_be_unpacked_is_said_to_be_one(home, server):
    described = offered(home, server, GOOD)
    control = Watching()
    fetch(with_archives(described, {"unpacks_to": None}), home / "data", control)
    assert control.said[-1].startswith("mine.tar.gz is an archive, but was not unpacked: ")


def test_the_wanted_folder_may_lie_in_an_archive_inside_the_archive(home, server):
    held = {"release/inner.tar.gz": tar({"mine/a/1.png": b"one"}), "__MACOSX/release/._inner.tar.gz": b"litter"}
    described = offered(home, server, zipped(held), "mine.zip")
    fetch(with_archives(described, {"inner": "inner.tar.gz", "images": 1}), home / "data", Control())
    assert (home / UNPACKED / "a" / "1.png").read_bytes() == b"one"
    assert {each.name for each in (home / "data").iterdir() if each.is_dir()} == {"mine"}
    for inner, said in (
        ("other.tar.gz", r"mine\.zip contains no other\.tar\.gz\. Delete"),
        ("damaged.tar", "not be unpacked"),
    ):
        FILES["/mine.zip"] = zipped({**held, "damaged.tar": b"no tar"})
        with pytest.raises(FailureError, match=said):
            fetch(with_archives(described, {"inner": inner}), home / inner, Control())
        assert not (home / inner / "mine").exists()


def packed_in(kind):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        entry = tarfile.TarInfo("mine/a/1.txt")
        entry.size = 100_000
        archive.addfile(entry, io.BytesIO(np.random.default_rng(0).bytes(entry.size)))
    return {"bz2": bz2.compress, "xz": lzma.compress}[kind](plain.getvalue())


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_other_compressions_are_unpacked_and_their_damage_is_named(home, server, kind):
    good = packed_in(kind)
    fetch(offered(home, server, good), home / "data", Control())
    assert (home / UNPACKED / "a" / "1.txt").stat().st_size == 100_000
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 0xFF
    # Of bzip2, whose only block this is, nothing at all can be read.
    with pytest.raises(
        FailureError, match=r"could not be unpacked: .*Delete it and fetch it again|is not a tar or zip file"
    ):
        fetch(offered(home, server, bytes(bad)), home / "other", Control())
    assert not (home / "other" / "mine").exists()


def test_the_checksum_at_the_end_of_a_compressed_tar_is_held_against_what_was_unpacked(home, server):
    wrong_sum = GOOD[:-8] + bytes(4) + GOOD[-4:]
    with pytest.raises(FailureError, match=r"could not be unpacked: CRC check failed.*Delete it and fetch it again"):
        fetch(offered(home, server, wrong_sum), home / "data", Control())
    cut = GOOD[:-6]
    with pytest.raises(FailureError, match="could not be unpacked"):
        fetch(offered(home, server, cut), home / "cut", Control())
    assert not (home / UNPACKED).exists() and not (home / "cut" / "mine").exists()


def test_a_damaged_or_encrypted_zip_is_refused(home, server):
    members = {"mine/a/1.txt": b"x" * 100, "mine/b.txt": b"y"}
    damaged = zipped(members).replace(b"x" * 100, b"x" * 99 + b"z")
    # The flag of the first member that says that it is encrypted, in its own head and in the list of members.
    encrypted = bytearray(zipped(members))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    for content, said in ((damaged, "Bad CRC-32"), (bytes(encrypted), "encrypted")):
        (home / "data" / "mine.zip").unlink(missing_ok=True)
        with pytest.raises(FailureError, match=rf"could not be unpacked: .*{said}"):
            fetch(offered(home, server, content, "mine.zip"), home / "data", Control())
        assert not (home / UNPACKED).exists()


@pytest.mark.parametrize(("pack", "name"), [(tar, "mine.tar.gz"), (zipped, "mine.zip")])
@pytest.mark.parametrize("members", [("mine/a", "mine/a/1.txt"), ("mine/a/1.txt", "mine/a")])
def test_a_member_that_is_both_a_file_and_a_folder_is_damage(home, server, pack, name, members):
    content = pack({"mine/b.txt": b"x", **dict.fromkeys(members, b"y")})
    with pytest.raises(
        FailureError, match=r"could not be unpacked: it is damaged: a file and a folder have the same name"
    ):
        fetch(offered(home, server, content, name), home / "data", Control())
    assert not (home / UNPACKED).exists()


@pytest.mark.parametrize(("pack", "name"), [(tar, "mine.tar.gz"), (zipped, "mine.zip")])
def test_unpacking_tells_how_far_it_is_and_stops_when_asked_to(home, server, pack, name):
    content = pack({f"mine/{number}.txt": np.random.default_rng(number).bytes(90_000) for number in range(20)})
    described, control = offered(home, server, content, name), Watching()
    (home / "data").mkdir()
    (home / "data" / name).write_bytes(content)
    tell = control.progress

    def stops(done, total, unit):
        tell(done, total, unit)
        if len(control.seen) == 5:
            control.stop()

    control.progress = stops
    with pytest.raises(InterruptedWork, match=rf"stopped while unpacking .*{name}\. Run the same command again"):
        fetch(described, home / "data", control)
    assert len(control.seen) == 5 and not (home / UNPACKED).exists()
    assert sorted(each.name for each in (home / "data").iterdir()) == [".mine.lock", name]
    control = Watching()
    fetch(described, home / "data", control)
    done, totals, units = zip(*control.seen, strict=True)
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


def test_what_a_killed_process_unpacked_is_gone_after_the_next_time(home, server):
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz").write_bytes(GOOD)
    described = task(home, server)
    process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=home)
    waited = time.monotonic()
    while not (home / "begun").exists() and time.monotonic() - waited < 60:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list((home / "data").glob(".mine.unpacking*"))) == 1
    fetch(described, home / "data", Control())
    assert sorted(each.name for each in (home / "data").iterdir()) == [".mine.lock", "mine", "mine.tar.gz"]


def test_what_a_killed_process_left_is_no_part_of_what_is_unpacked(home, server):
    left = home / "data" / ".mine.unpacking" / "mine"
    left.mkdir(parents=True)
    (left / "stale.txt").write_bytes(b"of another archive")
    fetch(offered(home, server, GOOD), home / "data", Control())
    found = {path.name for path in (home / UNPACKED).rglob("*") if path.is_file()}
    assert found == {"1.txt", "2.txt", ".lrbench-fetched.json"} and not left.parent.exists()


def test_without_locks_what_another_process_unpacks_is_left_alone(home, server, monkeypatch):
    def no_locks(handle, operation):
        raise OSError("no locks here")

    monkeypatch.setattr("lrbench.core.locks.fcntl.flock", no_locks)
    (home / "data" / ".mine.unpacking" / "mine").mkdir(parents=True)
    fetch(offered(home, server, GOOD), home / "data", Control())
    assert (home / UNPACKED / "train").is_dir() and (home / "data" / ".mine.unpacking" / "mine").is_dir()
    assert len(list((home / "data").glob(".mine.unpacking*"))) == 1
