"""Damaged inputs of every kind are refused in words, or read; nothing else."""

from tests.fuzz.harness import discover, fuzz

# tests/fuzz/run.py tries more.
MUTATIONS = 15


def test_mutated_inputs_are_refused_or_read():
    # All targets share a child, which imports the product once.
    targets = discover()
    reports = fuzz(targets, range(MUTATIONS))
    failures = [failure for report in reports for failure in report.failures]
    told = [f"{failure.target} --seed {failure.seed}: {failure.outcome}: {failure.detail}" for failure in failures[:3]]
    assert not failures, "\n".join(told)
    assert {report.target: report.counts.total() for report in reports} == dict.fromkeys(targets, MUTATIONS)
