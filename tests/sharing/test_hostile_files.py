"""Received files that are built to write elsewhere, to exhaust memory or to break later commands."""

import os

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from lrbench.core.files import sha256_file
from tests.leaderboard.fake import rewrite, rewrite_predictions
from tests.sharing.collections import CELL


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture
def record(sent):
    """The record of the collection's first result."""
    return sent / "results" / "tiny" / f"{CELL}.json"


def merge(lrbench, sent):
    """Merge the collection, whose second result is whole."""
    done = lrbench("results", "merge", sent, "--name", "mallory")
    assert done.status == 1 and "added 1 result to foreign" in done.out and "Unexpected" not in done.err
    return done.err


def test_hash_of_weights_is_no_path(lrbench, place, sent, record):
    rewrite(record, lambda content: content["snapshot"].update(sha256="/../../x".ljust(64, "0")))
    assert "`snapshot.sha256` is not a hash" in merge(lrbench, sent)
    assert [path.name for path in place.workspace.results.iterdir()] == ["foreign"]


def test_name_of_a_foreign_result_has_no_folder():
    from lrbench.store.results import foreign_slug

    assert "/" not in foreign_slug("a/b", "/../../x") and foreign_slug("timm:x", "0" * 64) == "timm-x-00000000"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"settings": {"a": nested(300)}}, "nested too deeply"),
        ({"diagnostics": {"features": {"nc1": 10**400}}}, "number that is too large"),
        ({"diagnostics": {"shots": {"1" * 5000: {"top1": 0.5}}}}, "text of 5,000 characters"),
    ],
)
def test_excessive_values_are_refused(lrbench, sent, record, change, reason):
    rewrite(record, lambda content: content.update(change))
    assert reason in merge(lrbench, sent)
    assert lrbench("leaderboard", "--format", "csv").status == 0


@pytest.mark.parametrize("name", ["label", "label.x"])
def test_columns_of_other_types_are_refused(lrbench, sent, record, name):
    numbers = arrow.array(range(40), arrow.int32())
    columns = {"index": numbers, "label": numbers, "prediction": numbers, name: arrow.array(["x" * 1000] * 40)}
    rewrite_predictions(record, arrow.table(columns))
    assert "column" in merge(lrbench, sent)


def test_shared_prefixes_are_not_expanded_together(lrbench, sent, record):
    numbers = arrow.array(range(40), arrow.int32())
    columns = {"index": numbers, "label": numbers, "prediction": numbers, "image": arrow.array(["x" * 100_000] * 40)}
    path = record.with_suffix(".parquet")
    encodings = {"image": "DELTA_BYTE_ARRAY"}
    parquet.write_table(arrow.table(columns), path, use_dictionary=False, column_encoding=encodings, compression="zstd")
    rewrite(record, lambda content: content.update(predictions_sha256=sha256_file(path)))
    before = arrow.default_memory_pool()
    pool = arrow.proxy_memory_pool(before)
    arrow.set_memory_pool(pool)
    try:
        assert "unpacks to more than" in merge(lrbench, sent)
    finally:
        arrow.set_memory_pool(before)
    assert pool.max_memory() < 2_000_000


def test_links_in_place_of_folders_are_refused(lrbench, place, sent):
    os.symlink("/", sent / "splits")
    done = lrbench("results", "merge", sent)
    assert done.status == 2 and "splits is a link" in done.err and not place.workspace.results.exists()


def test_names_on_the_hub_stay_in_the_folder(lrbench, fake, tmp_path):
    fake.files["datasets/user/bad"] = {"results/../../../outside.json": b"{}"}
    done = lrbench("results", "merge", "hf://datasets/user/bad")
    assert done.status == 2 and "leads out of it" in done.err and not list(tmp_path.rglob("outside.json"))


def test_folder_of_a_killed_command_is_removed(lrbench, place, sent, monkeypatch):
    from lrbench.core import leftovers
    from lrbench.core.files import temporary_folder

    with temporary_folder(place.workspace.cache, "received") as folder:
        monkeypatch.setattr(leftovers, "_is_running", lambda *_: False)
        assert lrbench("results", "merge", sent).status == 0 and not folder.exists()
