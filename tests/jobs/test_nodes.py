"""Checks of nodes before they work."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lrbench.core.machine import library_versions
from lrbench.jobs.nodes import NodeReport, inspect_node, node_problem, probing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"sees_workspace": False}, "node7 does not see /shared. Mount LRBENCH_HOME"),
        ({"missing": ("/data",)}, "node7 has no folder /data"),
        ({"versions": library_versions() | {"torch": "1.0"}}, "node7 has torch 1.0 instead of"),
    ],
)
def test_unfit_nodes_are_named(change, message):
    report = NodeReport(sees_workspace=True, missing=(), versions=library_versions(), shares_locks=True)
    problem = node_problem("node7", replace(report, **change), Path("/shared"), library_versions())
    assert problem is None if message is None else message in problem


def test_node_is_inspected_while_its_lock_is_held(place):
    (place.workspace.root / "data").mkdir()
    with probing(place) as probe:
        report = inspect_node(probe)
        assert report.sees_workspace and report.missing == () and report.shares_locks
        # Of a node that mounts other folders, or whose locks are its own.
        elsewhere = replace(probe, nonce=f"{probe.nonce}x", roots=("/none",), lock=f"{probe.lock}x")
        Path(elsewhere.lock).touch()
        report = inspect_node(elsewhere)
        assert not report.sees_workspace and report.missing == ("/none",) and not report.shares_locks
        os.unlink(elsewhere.lock)
    assert [path.name for path in place.workspace.root.glob(".nodes-*")] == []
