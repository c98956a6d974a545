"""The fuzz harness sees every kind of failure, attributes it to one seed, and goes on."""

import random

import pytest

from tests.fuzz.faulty import BAD, TARGETS
from tests.fuzz.harness import FAILURES, Limits, fuzz, mutated
from tests.fuzz.mutations import (
    mutate_bytes,
    mutate_csv,
    mutate_json,
    mutate_json_lines,
    mutate_safetensors,
    mutate_text,
    mutate_toml,
)

FAULTY = "tests.fuzz.faulty"
BY_NAME = {target.name: target for target in TARGETS}
SEEDS = range(6)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("refuses", "refused"),
        ("changes", "changed"),
        ("silent", "silent-change"),
        ("unforeseen", "unforeseen"),
        ("exits", "unforeseen"),
        ("crashes", "crash"),
        ("leaves", "crash"),
        ("spins", "hang"),
        ("waits", "hang"),
        ("grabs", "memory"),
        ("litters", "same"),
    ],
)
def test_each_outcome_is_counted_for_its_seeds(name, outcome):
    bad = [seed for seed in SEEDS if mutated(BY_NAME[name], seed, b"good") == BAD]
    assert 0 < len(bad) < len(SEEDS)
    # Only what spins or waits gets little time: on a busy machine anything may take as long.
    cpu, wall = (0.3 if name == "spins" else 10.0), (1.5 if name == "waits" else 60.0)
    (report,) = fuzz({name: FAULTY}, SEEDS, limits=Limits(cpu_seconds=cpu, wall_seconds=wall, memory=128 << 20))
    expected = {outcome: len(bad), "same": len(SEEDS) - len(bad)} if outcome != "same" else {"same": len(SEEDS)}
    assert report.counts == expected
    assert [failure.seed for failure in report.failures] == (bad if outcome in FAILURES else [])


@pytest.mark.parametrize("name", ["broken", "differs"])
def test_a_target_that_fails_unmutated_is_broken(name):
    report, other = fuzz(dict.fromkeys([name, "refuses"], FAULTY), SEEDS)
    assert report.counts == {"broken": 1}
    assert other.counts.total() == len(SEEDS)


def test_the_input_of_a_failing_mutation_is_saved(tmp_path):
    (report,) = fuzz({"crashes": FAULTY}, SEEDS, save=tmp_path)
    saved = {path.parent.name: path.read_bytes() for path in tmp_path.glob("*/file")}
    assert saved == {f"crashes-{failure.seed}": BAD for failure in report.failures}


def test_targets_after_one_that_crashes_are_tried():
    crashes, changes = fuzz(dict.fromkeys(["crashes", "changes"], FAULTY), SEEDS)
    assert crashes.counts["crash"] == len(crashes.failures) > 0
    assert [report.counts.total() for report in (crashes, changes)] == [len(SEEDS)] * 2
    assert changes.counts["changed"] > 0


TABLE = b"name,label\na.png,1\nb.png,2\n"
JSON = b'{"a": [1, 2, {"b": "text"}], "c": 0.5}'
HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    ("mutate", "content"),
    [
        (mutate_bytes, b"some bytes"),
        (mutate_bytes, b""),
        (mutate_text, TABLE),
        (mutate_text, b""),
        (mutate_csv, TABLE),
        (mutate_json, JSON),
        (mutate_json_lines, JSON + b"\n" + JSON + b"\n"),
        (mutate_toml, b'a = 1\n[b]\nc = "x"\n'),
        (mutate_safetensors, len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)),
    ],
)
def test_mutations_repeat_with_their_seed_and_differ(mutate, content):
    first = [mutate(random.Random(seed), content) for seed in range(300)]
    assert first == [mutate(random.Random(seed), content) for seed in range(300)]
    assert len(set(first)) > (150 if content else 20)
