"""Damaged inputs of every kind are refused in words, or read; nothing else."""

import pytest

from tests.fuzz.harness import discover, fuzz

MUTATIONS = 200


@pytest.mark.parametrize(("name", "module"), discover().items(), ids=lambda value: value.rpartition(".")[2])
def test_mutated_inputs_are_refused_or_read(name, module):
    report = fuzz(name, module, range(MUTATIONS))
    first = report.failures[:1]
    assert not report.failures, f"{report.counts}; {first[0].outcome} with seed {first[0].seed}: {first[0].detail}"
    assert report.counts.total() == MUTATIONS
