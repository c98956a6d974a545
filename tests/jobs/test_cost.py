"""Timings that are damaged."""

import os

import pytest

from lrbench.jobs.cost import update_seconds


def test_damaged_lines_of_timings_are_skipped(tmp_path):
    path = tmp_path / "step" / "seed0" / "timings.jsonl"
    path.parent.mkdir(parents=True)
    lines = [b'{"updates": 10, "seconds": 5.0}', b'{"updates": 30, "seconds": 15.0, "processes": 2}']
    damaged = [
        b"\xff", b"{", b"[]", b'{"updates": 10}', b'{"updates": 10, "seconds": NaN}', b'{"updates": 1e999, "seconds": 1}',
        b'{"updates": 10, "seconds": -5}', b'{"updates": 0, "seconds": 5}', b"[" * 100_000, b"1" * 5000,
        b'{"updates": 10, "seconds": 1e999}', b'{"updates": "a", "seconds": 5}',
        b'{"updates": 10, "seconds": 5, "processes": 0}',
    ]  # fmt: skip
    path.write_bytes(b"\n".join([lines[0], *damaged, lines[1]]))
    assert update_seconds(tmp_path) == pytest.approx((5 + 30) / 40)


def test_pipe_instead_of_timings_is_skipped(tmp_path):
    (tmp_path / "step" / "seed0").mkdir(parents=True)
    os.mkfifo(tmp_path / "step" / "seed0" / "timings.jsonl")
    assert update_seconds(tmp_path) is None
