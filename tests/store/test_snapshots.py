"""Snapshots on disk: bytes, identity, pipes and links."""

import os

import pytest
import torch

from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.store.references import resolve_reference
from lrbench.store.snapshots import batchnorm_path, encode, identity


def test_equal_content_gives_equal_bytes():
    tensors = {f"layer{i}": torch.full((3,), float(i)) for i in range(20)}
    record = {"b": 1, "a": {"d": 2, "c": 3}}
    backwards = dict(reversed(tensors.items()))
    assert encode(tensors, record) == encode(backwards, dict(reversed(record.items())))


def test_identity_covers_weights_and_statistics(snapshot):
    before = identity(snapshot)
    content = bytearray(batchnorm_path(snapshot).read_bytes())
    content[-1] ^= 1
    batchnorm_path(snapshot).write_bytes(bytes(content))
    assert identity(snapshot) != before


def test_pipe_instead_of_a_snapshot_is_refused(snapshot):
    for path in (batchnorm_path(snapshot), snapshot):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InputError, match=r"is a pipe, not a regular file|is missing"):
            load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


def test_broken_link_is_a_missing_snapshot(lrbench, snapshot):
    batchnorm_path(snapshot).unlink()
    snapshot.unlink()
    snapshot.symlink_to("gone")
    for command in (("snapshots", "list"), ("snapshots", "verify"), ("snapshots", "show", "stage0"), ("plan", "tiny")):
        outcome = lrbench(*command)
        assert "foresee" not in outcome.out + outcome.err and "Unexpected" not in outcome.out + outcome.err, command
