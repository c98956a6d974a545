"""Results as folders, zip files and data sets of the Hub, and received files that are refused."""

import errno
import json
import os
import tarfile
import zipfile

import pytest

from lrbench.core.workspace import Workspace
from lrbench.store.results import load_result
from tests.leaderboard.fake import fill, put, put_source, rewrite
from tests.sharing.collections import CELL, TASKS


def received(workspace):
    return [load_result(path, "foreign").result for path in sorted((workspace.results / "foreign").glob("*.json"))]


def test_folder_is_merged_apart_and_marked(lrbench, place, sent):
    done = lrbench("results", "merge", sent, "--name", "alice")
    assert done.status == 0 and "added 2 results to foreign" in done.out
    first, second = received(place.workspace)
    assert {first.snapshot.reference, second.snapshot.reference} == {
        "tiny/step/seed0/stage1 (from alice)",
        "tiny/step/seed0/stage2 (from alice)",
    }
    assert first.snapshot.arm is None and first.origin.name == "alice" and first.origin.suite == "tiny"
    assert "already in this workspace: 2 results" in lrbench("results", "merge", sent, "--name", "alice").out
    assert lrbench("leaderboard").status == 0
    page = (place.workspace.leaderboard / "foreign.md").read_text()
    assert "## Results received from others" in page and "(from alice)" in page
    assert "alice" in lrbench("results", "list").out


def test_received_results_are_neither_ranked_nor_sent(lrbench, place, tiny, sent, tmp_path):
    from lrbench.leaderboard.foreign_page import foreign_tables
    from lrbench.store.index import load_index

    lrbench("results", "merge", sent)
    own = {"arm": None, "stage": None, "pretraining_seed": None, "reference": "timm:resnet18"}
    put(place.workspace, tiny.model_copy(update={"name": "foreign"}), snapshot=own)
    tables = foreign_tables(load_index(place.workspace.results, "foreign", None))
    assert [(table.received, len(table.rows)) for table in tables] == [(False, 1), (True, 2)]
    done = lrbench("results", "push", tmp_path / "again", "--suite", "foreign", *TASKS)
    assert "left out 2 results received from others" in done.err
    assert len(list((tmp_path / "again" / "results" / "foreign").glob("*.json"))) == 1


def test_trusted_results_join_their_suite(lrbench, place, tiny, sent):
    done = lrbench("results", "merge", sent, "--trusted")
    assert done.status == 0 and "added 2 results to tiny" in done.out
    path = place.workspace.results / "tiny" / f"{CELL}.json"
    assert path.read_bytes() == (sent / "results" / "tiny" / path.name).read_bytes()


def test_own_results_are_never_replaced(lrbench, place, tiny, sent):
    own = put(place.workspace, tiny, wrong=20)
    before = own.read_bytes()
    done = lrbench("results", "merge", sent, "--trusted")
    assert (
        "left out 1 result of tiny whose place another result has in this workspace" in done.out
        and own.read_bytes() == before
    )
    # Another run of the same pretraining seed.
    rewrite(own, lambda record: record["snapshot"].update(sha256="b" * 64))
    (place.workspace.results / "tiny" / "step-seed0-stage2.tiny-objects.probe.seed0.json").unlink()
    done = lrbench("results", "merge", sent, "--trusted")
    assert "left out 2 results of tiny, seed 0, of which this workspace has a different run" in done.out


def test_suite_with_other_settings_is_left_out(lrbench, place, tiny, sent):
    put(place.workspace, tiny, seed=1)
    path = place.workspace.results / "tiny" / "suite.json"
    suite = json.loads(path.read_text())
    suite["schedule"]["batch"] = 16
    path.write_text(json.dumps(suite))
    assert "whose pretraining settings differ" in lrbench("results", "merge", sent, "--trusted").out


def test_zip_is_fetched_to_its_own_workspace(lrbench, place, tiny, tmp_path, monkeypatch):
    put(place.workspace, tiny)
    put_source(place.workspace, tiny)
    done = lrbench("results", "push", tmp_path / "sent.zip", *TASKS)
    assert "left out 1 result on your own task tiny-source" in done.err
    done = lrbench("results", "fetch", tmp_path / "sent.zip", tmp_path / "theirs")
    assert done.status == 0 and "wrote 1 result to" in done.out
    monkeypatch.setenv("LRBENCH_HOME", str(tmp_path / "theirs"))
    assert CELL in lrbench("results", "list").out


@pytest.mark.parametrize("damage", ["record", "predictions", "link", "schema", "suite"])
def test_damaged_collections_are_refused(lrbench, place, sent, damage):
    record = sent / "results" / "tiny" / f"{CELL}.json"
    if damage == "record":
        record.write_text(record.read_text().replace('"cpu"', '"gpu"'))
    elif damage == "predictions":
        content = record.with_suffix(".parquet").read_bytes()
        record.with_suffix(".parquet").write_bytes(content[:-1] + b"?")
    elif damage == "link":
        os.symlink("/etc/passwd", record.with_name("x.json"))
    elif damage == "schema":
        content = json.loads(record.read_text()) | {"schema": 1}
        del content["record_sha256"]
        record.write_text(json.dumps(content))
    else:
        (record.parent / "suite.json").write_text("{")
    done = lrbench("results", "merge", sent)
    assert done.status == (2 if damage == "link" else 1) and "Traceback" not in done.err
    assert len(received(place.workspace)) == {"link": 0, "suite": 0}.get(damage, 1)


@pytest.mark.parametrize("trick", ["escape", "repeated", "link", "bomb", "damaged", "encrypted", "tar", "folder"])
def test_unsafe_zip_files_are_refused(lrbench, place, tmp_path, monkeypatch, trick):
    path = tmp_path / "sent.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("results/tiny/suite.json", "{}")
        if trick == "escape":
            archive.writestr("../results/outside.json", "{}")
        elif trick == "repeated":
            archive.writestr("results/tiny/Suite.json", "{}")
        elif trick == "link":
            link = zipfile.ZipInfo("results/tiny/a.json")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        elif trick == "bomb":
            archive.writestr("results/tiny/a.json", b" " * (2 << 20))
        elif trick == "folder":
            archive.writestr("results/tiny/suite.json/a.json", "{}")
    monkeypatch.setattr("lrbench.sharing.collection.MOST_BYTES", 1 << 20)
    content = bytearray(path.read_bytes())
    if trick == "damaged":
        content[40:60] = bytes(20)
    elif trick == "tar":
        header = tarfile.TarInfo("results/tiny/suite.json").tobuf()
        content[:0] = header + bytes(1024)
    elif trick == "encrypted":
        # The flag in the local and in the central header.
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    done = lrbench("results", "merge", path)
    assert done.status == 2 and "sent.zip" in done.err and "Traceback" not in done.err
    assert not place.workspace.results.exists() and not (tmp_path / "results").exists()


def test_oversized_predictions_are_refused(lrbench, place, sent):
    import pyarrow as arrow

    from tests.leaderboard.fake import rewrite_predictions

    record = sent / "results" / "tiny" / f"{CELL}.json"
    names = arrow.array(["x" * 5000] * 40)
    columns = {name: arrow.array(range(40), arrow.int32()) for name in ("index", "label", "prediction")}
    rewrite_predictions(record, arrow.table({**columns, "image": names}))
    done = lrbench("results", "merge", sent)
    assert done.status == 1 and "unpacks to more than" in done.err


def test_hub_round_trip_keeps_the_token_secret(lrbench, place, tiny, fake, tmp_path):
    put(place.workspace, tiny)
    done = lrbench("results", "push", "hf://datasets/user/mine", *TASKS)
    assert done.status == 0 and fake.private == {"datasets/user/mine": True} and "commit" in done.out
    stale = put(place.workspace, tiny, stage=2)
    lrbench("results", "push", "hf://datasets/user/mine", *TASKS)
    stale.unlink()
    assert lrbench("results", "push", "hf://datasets/user/mine", *TASKS).status == 0
    assert [os.path.basename(path) for path in fake.matching("datasets/user/mine", "results/*.json")] == [
        f"{CELL}.json",
        "suite.json",
    ]
    done = lrbench("results", "merge", "hf://datasets/user/mine@main", "--trusted")
    assert done.status == 0 and "already in this workspace: 1 result" in done.out
    assert "Bearer hf_sesame" in fake.tokens
    fake.refuses = True
    done = lrbench("results", "push", "hf://datasets/user/mine", *TASKS)
    assert done.status == 2 and "hf auth login" in done.err and "sesame" not in done.err + done.out
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and b"sesame" in path.read_bytes()]
    assert not stored


def test_push_without_network_names_the_address(lrbench, place, tiny, fake, monkeypatch):
    put(place.workspace, tiny)
    monkeypatch.setattr("lrbench.models.published._resolves", lambda host: False)
    done = lrbench("results", "push", "hf://datasets/user/mine", *TASKS)
    assert done.status == 1 and "does not resolve" in done.err and "HF_HUB_OFFLINE" not in done.err


def test_push_removes_a_registration_that_is_gone(lrbench, place, tiny, fake):
    from lrbench.leaderboard.registration import register

    put(place.workspace, tiny)
    register(place.workspace, tiny)
    lrbench("results", "push", "hf://datasets/user/mine", *TASKS)
    assert "registrations/tiny.json" in fake.files["datasets/user/mine"]
    (place.workspace.registrations / "tiny.json").unlink()
    lrbench("results", "push", "hf://datasets/user/mine", *TASKS)
    assert "registrations/tiny.json" not in fake.files["datasets/user/mine"]


def test_full_disk_is_no_fault_of_the_network(lrbench, place, tiny, fake, monkeypatch):
    from huggingface_hub import HfApi

    put(place.workspace, tiny)
    lrbench("results", "push", "hf://datasets/user/mine", *TASKS)

    def fill_disk(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HfApi, "snapshot_download", fill_disk)
    done = lrbench("results", "merge", "hf://datasets/user/mine")
    assert done.status == 1 and "no space left" in done.err and "network" not in done.err


def test_results_with_a_code_book_are_shipped():
    from lrbench.config.loading import is_shipped_task

    assert is_shipped_task("ps10-k4-book7") and is_shipped_task("digits")
    assert not is_shipped_task("digits-book7") and not is_shipped_task("mine")


def test_push_needs_the_suite_and_names_local_files(lrbench, place, tiny, tmp_path):
    path = put(place.workspace, tiny)
    own = {"arm": None, "stage": None, "pretraining_seed": None, "reference": "/home/me/client/weights.safetensors"}
    put(place.workspace, tiny.model_copy(update={"name": "foreign"}), snapshot=own)
    assert "/home/me/client" in lrbench("results", "push", tmp_path / "sent", *TASKS).err
    path.with_name("suite.json").unlink()
    done = lrbench("results", "push", tmp_path / "again", *TASKS)
    assert done.status == 2 and "suite.json is missing" in done.err and not (tmp_path / "again").exists()


def test_data_set_card_is_valid():
    from huggingface_hub import DatasetCard

    from lrbench.sharing.outgoing import CARD

    assert DatasetCard(CARD).data.to_dict()["configs"][0]["data_files"] == "tables/*.csv"


def test_submission_needs_whole_suites(lrbench, place, tiny, fake, monkeypatch):
    put(place.workspace, tiny)
    own = lrbench("results", "submit", "hf://datasets/team/results", "--suite", "tiny")
    assert own.status == 2 and "left out: 1 on your own task tiny-objects" in own.err
    monkeypatch.setattr("lrbench.sharing.outgoing.is_shipped_task", lambda name: name != "photos")
    refused = lrbench("results", "submit", "hf://datasets/team/results", "--suite", "tiny")
    assert refused.status == 2 and "tiny has 1 of" in refused.err
    fill(place.workspace, tiny)
    put(place.workspace, tiny, task={"name": "photos"})
    fake.files["datasets/team/results"] = {}
    done = lrbench("results", "submit", "hf://datasets/team/results", "--suite", "tiny")
    assert done.status == 0 and "discussions/1" in done.out and "not registered" in done.err
    assert "left out 1 result on your own task photos" in done.err
    assert not fake.files["datasets/team/results"] and len(fake.proposed["datasets/team/results"]) > 20


def test_results_are_listed_and_removed_by_name(lrbench, place, tiny):
    put(place.workspace, tiny)
    last = put(place.workspace, tiny, stage=2)
    refused = lrbench("results", "remove", "*stage1*")
    assert refused.status == 2 and CELL in refused.err and "Pass --yes" in refused.err
    done = lrbench("results", "remove", f"tiny/{CELL}", "--yes")
    assert done.status == 0 and sorted(path.stem for path in last.parent.glob("*.parquet")) == [last.stem]
    assert "is named" in lrbench("results", "remove", CELL, "--yes").err
    assert lrbench("results", "remove", last, "--yes").status == 0 and not last.parent.exists()
    assert Workspace(root=place.workspace.root).results.is_dir()
