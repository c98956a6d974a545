"""The index of results mirrors the files, which take precedence."""

import json
import os
import threading

import numpy as np
import pytest

from lrbench.leaderboard.evidence import Column
from lrbench.leaderboard.gathering import gather
from lrbench.store import index as module
from lrbench.store.index import load_index
from lrbench.store.predictions import read_predictions
from tests.leaderboard.fake import fill, put


@pytest.fixture
def filled(place, tiny):
    fill(place.workspace, tiny)
    return place.workspace


@pytest.fixture
def read(monkeypatch):
    """Names of the result files that are read."""
    names = []
    load = module.load_result
    monkeypatch.setattr(module, "load_result", lambda path, suite: names.append(path.name) or load(path, suite))
    return names


def test_entries_match_the_files(filled):
    for cache in (filled.cache, filled.cache, None):
        index = load_index(filled.results, "tiny", cache)
        assert len(index.entries) == 72 and index.problems == ()
        for entry in index.entries[::7]:
            path = filled.results / "tiny" / f"{entry.cell}.json"
            record = json.loads(path.read_text())
            predictions = read_predictions(path.with_suffix(".parquet"), record["predictions_sha256"])
            assert np.array_equal(entry.hits, predictions.prediction == predictions.label)
            assert np.array_equal(index.labels[entry.labels], predictions.label)
            assert entry.headline == record["metrics"][record["task"]["metric"]]
            assert (entry.arm, entry.stage, entry.task) == (
                record["snapshot"]["arm"], record["snapshot"]["stage"], record["task"]["name"],
            )  # fmt: skip
            assert json.loads(entry.metrics) == record["metrics"]


def test_only_changed_files_are_read_again(filled, tiny, read):
    first = load_index(filled.results, "tiny", filled.cache)
    assert len(read) == 72
    read.clear()
    assert load_index(filled.results, "tiny", filled.cache).entries == first.entries and read == []
    path = put(filled, tiny, arm="hold", stage=2, seed=1, wrong=3)
    assert {entry.cell: entry.headline for entry in load_index(filled.results, "tiny", filled.cache).entries}[
        path.stem
    ] == pytest.approx(37 / 40)
    assert read == [path.name]


def test_changed_predictions_are_detected(filled, tiny):
    load_index(filled.results, "tiny", filled.cache)
    path = filled.results / "tiny" / "step-seed0-stage1.tiny-objects.probe.seed0.parquet"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    index = load_index(filled.results, "tiny", filled.cache)
    assert len(index.entries) == 71 and "another hash" in index.problems[0]


@pytest.mark.parametrize("damage", ["cut", "other", "version"])
def test_damaged_index_is_rebuilt(filled, damage, monkeypatch):
    expected = load_index(filled.results, "tiny", filled.cache)
    path = filled.cache / "results" / "tiny.arrow"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "other":
        path.write_bytes(b"something else")
    else:
        monkeypatch.setattr(module, "_VERSION", 999)
    assert load_index(filled.results, "tiny", filled.cache).entries == expected.entries


def test_flipped_byte_of_the_index_changes_no_result(filled):
    expected = load_index(filled.results, "tiny", filled.cache)
    path = filled.cache / "results" / "tiny.arrow"
    whole = path.read_bytes()
    for position in range(0, len(whole), len(whole) // 60):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        index = load_index(filled.results, "tiny", filled.cache)
        assert index.entries == expected.entries and index.problems == ()
        assert path.read_bytes() == whole


def test_pipe_at_the_path_of_the_index_is_replaced(filled):
    expected = load_index(filled.results, "tiny", filled.cache)
    path = filled.cache / "results" / "tiny.arrow"
    path.unlink()
    os.mkfifo(path)
    assert load_index(filled.results, "tiny", filled.cache).entries == expected.entries
    assert path.is_file()


def test_check_reads_files_instead_of_the_index(filled, lrbench):
    assert lrbench("leaderboard").status == 0
    path = filled.results / "tiny" / "step-seed0-stage1.tiny-objects.probe.seed0.json"
    status, text = path.stat(), path.read_text()
    # Damage that keeps size, time and inode.
    with path.open("r+") as file:
        file.write(text.replace('"top1": 0.75', '"top1": 0.95'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_index(filled.results, "tiny", filled.cache).problems == ()
    checked = lrbench("leaderboard", "--check")
    assert checked.status == 1 and path.name in checked.err and "out of date" in checked.err


def test_vanished_results_leave_the_index(filled):
    load_index(filled.results, "tiny", filled.cache)
    for path in (filled.results / "tiny").glob("hold-*"):
        path.unlink()
    assert len(load_index(filled.results, "tiny", filled.cache).entries) == 72 - 16


def test_cache_that_cannot_be_written_is_harmless(filled):
    filled.cache.write_bytes(b"a file where the cache should be")
    assert len(load_index(filled.results, "tiny", filled.cache).entries) == 72


def test_results_can_be_written_during_reading(filled, tiny):
    stop = threading.Event()

    def write():
        wrong = 0
        while not stop.is_set():
            wrong = (wrong + 1) % 30
            put(filled, tiny, arm="step", stage=2, seed=1, wrong=wrong)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(15):
            index = load_index(filled.results, "tiny", filled.cache)
            # Between the writes of a result's two files its record may not match; then it is named, and all others are read.
            assert len(index.entries) + len(index.problems) == 72 and len(index.problems) <= 1
            for entry in index.entries:
                assert entry.headline == pytest.approx(np.mean(entry.hits))
    finally:
        stop.set()
        writer.join()
    assert len(load_index(filled.results, "tiny", filled.cache).entries) == 72


def test_touched_file_is_read_again(filled, read):
    load_index(filled.results, "tiny", filled.cache)
    read.clear()
    path = filled.results / "tiny" / "step-seed0-stage1.tiny-objects.probe.seed0.json"
    os.utime(path, ns=(1, 1))
    load_index(filled.results, "tiny", filled.cache)
    assert read == [path.name]


@pytest.mark.parametrize(("name", "seeds"), [("step/stage1", 2), ("timm:resnet18", 1)])
def test_partners_of_every_seed_are_comparable(place, tiny, name, seeds):
    """A partner in the same suite has other weights under each seed; one outside must be the same file."""
    suite = tiny.model_copy(update={"protocols": ("concat",)})
    for seed in (0, 1):
        reference = f"tiny/step/seed{seed}/stage1" if name == "step/stage1" else name
        settings = {"concat": {"partner": name}, "partner": {"reference": reference, "sha256": f"{seed}"}}
        put(place.workspace, suite, stage=2, seed=seed, protocol="concat", settings=settings)
    (evidence,) = gather(place.workspace.results, suite)
    assert evidence.accuracy(("step", 2), Column(protocol="concat", task="tiny-objects")).seeds == seeds
