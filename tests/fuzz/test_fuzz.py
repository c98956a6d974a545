"""Damaged inputs of every kind are refused in words, or read; nothing else."""

import pytest

from tests.fuzz.harness import discover, fuzz

# tests/fuzz/run.py tries more.
MUTATIONS = 15
TARGETS = discover()


# A module's targets share a child, which imports the product once.
@pytest.mark.parametrize("module", sorted(set(TARGETS.values())), ids=lambda module: module.rpartition(".")[2])
def test_mutated_inputs_are_refused_or_read(module):
    names = [name for name in TARGETS if TARGETS[name] == module]
    reports = fuzz(module, names, range(MUTATIONS))
    failures = [failure for report in reports for failure in report.failures]
    told = [f"{failure.target} --seed {failure.seed}: {failure.outcome}: {failure.detail}" for failure in failures[:3]]
    assert not failures, "\n".join(told)
    assert {report.target: report.counts.total() for report in reports} == dict.fromkeys(names, MUTATIONS)
