"""Locks and leases between processes, and which of them a file system needs."""

import multiprocessing
import os
import re
import signal
import time

import pytest

from lrbench.core import locks
from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.core.locks import VARIABLE, has_only_local_locks, locked


@pytest.mark.parametrize(
    ("kind", "options", "is_local"),
    [
        ("ext4", "rw,relatime", False),
        ("nfs4", "rw,vers=4.2,local_lock=none", False),
        ("nfs", "rw,vers=3,local_lock=all", True),
        ("nfs", "rw,vers=3,nolock", True),
        ("lustre", "rw,flock,lazystatfs", False),
        ("lustre", "rw,localflock", True),
        ("lustre", "rw", True),
        ("beegfs", "rw,cfgFile=/etc/beegfs/beegfs-client.conf", True),
    ],
)
def test_mount_options_say_where_locks_hold(kind, options, is_local):
    assert locks._is_local(kind, set(options.split(","))) == is_local


def test_local_file_system_needs_no_leases(tmp_path):
    assert not has_only_local_locks(tmp_path)
    assert not has_only_local_locks(tmp_path / "missing")


@pytest.fixture(params=["flock", "lease"])
def kind(request, monkeypatch):
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param


def hold(path, ready):
    with locked(path, Control()):
        ready.set()
        time.sleep(60)


def test_lock_excludes_until_its_holder_dies(kind, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "a", ready))
    holder.start()
    assert ready.wait(60)
    stopped = Control()
    stopped.stop()
    with pytest.raises(InterruptedWork), locked(tmp_path / "a", stopped):
        pass
    with locked(tmp_path / "b", Control()):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    # The lease of a dead process of this machine is taken over at once.
    with locked(tmp_path / "a", stopped) as may_clear_up:
        assert may_clear_up == (kind == "flock")


def test_lease_of_another_machine_expires(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "lease")
    monkeypatch.setattr(locks, "_LEASE_SECONDS", 2.0)
    with locked(tmp_path / "a", Control()):
        lease = tmp_path / ".a.lease"
        content = lease.read_bytes()
    # As its holder left it when its machine was lost.
    lease.write_bytes(re.sub(rb"host=.*", b"host=another-machine", content))
    with locked(tmp_path / "a", Control()):
        assert b"another-machine" not in lease.read_bytes()
    assert not lease.exists()


def test_leases_keep_partial_files_of_other_nodes(snapshot, tiny, place, monkeypatch):
    from lrbench.config.schedule import SnapshotKey
    from lrbench.pretraining.segments import make_snapshot

    partial = snapshot.with_name(".stage1.safetensors.0123abcd-1-1-0123abcd.part")
    partial.touch()
    monkeypatch.setenv(VARIABLE, "lease")
    make_snapshot(tiny, SnapshotKey(arm="step", seed=0, stage=1), place, Control())
    assert partial.exists()
