"""Headers of snapshots: format, hash, and damaged files."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.tensors import load_tensors
from lrbench.store.references import resolve_reference
from lrbench.store.snapshots import batchnorm_path, encode, read_metadata
from tests.helpers import Trap, one_paragraph
from tests.store.helpers import change_header, header_of, write_unsealed, write_version_1


def test_header_is_sorted_json_without_a_timestamp(snapshot):
    with safe_open(snapshot, "pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["lrbench"]
    record = json.loads(metadata["lrbench"])
    assert json.dumps(record, sort_keys=True, separators=(",", ":")) == metadata["lrbench"]
    assert {"architecture", "recipe", "source_fingerprint", "versions", "source_accuracy"} <= record.keys()
    assert not {"time", "date", "created", "seconds"} & set(record)


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"size": 32, "crop_fraction": 1.0, "mean": [0.985, 0.456, 0.406]}},
        {"source_accuracy": 0.9},
        {"stage": 1},
        {"arguments": {}},
        {"batchnorm_sha256": None},
        {"format": 1},
        {"unknown": 1},
        {"header_sha256": "0" * 64},
    ],
)
def test_changed_header_is_refused(lrbench, snapshot, change):
    change_header(snapshot, **change)
    with pytest.raises(
        InputError, match=r"stage0\.safetensors is damaged: its header was changed after it was written"
    ):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))
    assert lrbench("snapshots", "verify").status == 1


def test_changed_header_of_statistics_is_refused(snapshot):
    statistics = batchnorm_path(snapshot)
    record = header_of(statistics)
    change_header(statistics, sample=record["sample"] | {"images": 3})
    with pytest.raises(InputError, match=r"bn\.safetensors is damaged: its header was changed"):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


def test_header_without_a_hash_is_read(lrbench, snapshot):
    write_version_1(snapshot)
    assert load_snapshot(resolve_reference(str(snapshot), Workspace.current())).metadata.stage == 0
    verified = lrbench("snapshots", "verify")
    assert verified.status == 0 and "unchecked header in 1 of 1 snapshots (tiny/step/seed0/stage0)" in verified.err
    assert json.loads(lrbench("snapshots", "show", "stage0").out)["header"] == "unchecked"
    assert lrbench("snapshots", "export", "stage0", "--out", "new").status == 0
    assert json.loads(lrbench("snapshots", "show", "new/model.safetensors").out)["header"] == "checked"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"size": 32, "mean": [9.485, 0.456, 0.406]}}, "9.485 as `input.mean.0`"),
        ({"input": {"size": 32, "std": [0.2, 0.2, 1e300]}}, "`input.std.2`"),
        ({"source_accuracy": 5.0}, "`source_accuracy`"),
        ({"source_report": {"simple": -0.5}}, "`source_report.simple`"),
        ({"classes": -1}, "`classes`"),
        ({"rate": -0.1}, "`rate`"),
        ({"architecture": "\x1b[2J"}, "`architecture`"),
        ({"parent": "../../x"}, "`parent`"),
        ({"tensors_sha256": "abc"}, "`tensors_sha256`"),
    ],
)
def test_impossible_value_in_an_unchecked_header_is_refused(snapshot, changes, message):
    write_version_1(snapshot, **changes)
    with pytest.raises(InputError, match=message.replace(".", r"\.")) as caught:
        read_metadata(snapshot)
    assert one_paragraph(str(caught.value)) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{" * 100_000, "[]", "null", '{"format": "1"}', '{"format": true}', '{"format": NaN}', "\u00ff{",
     '{"format": 1e999}', '{"format": 1}', '{"format": 1, "arguments": ' + "[" * 40 + "]" * 40 + "}"],
)  # fmt: skip
def test_invalid_record_is_damaged(snapshot, text):
    write_unsealed(snapshot, load_file(snapshot), text)
    with pytest.raises(InputError, match=r"stage0\.safetensors is damaged: its header"):
        read_metadata(snapshot)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "a"]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": []}},
        {"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": []},
        {"__metadata__": []},
        {"__metadata__": {"lrbench": 3}},
    ],
)
def test_invalid_header_is_damaged(snapshot, header):
    content = json.dumps(header).encode()
    snapshot.write_bytes(len(content).to_bytes(8, "little") + content + b"\0" * 4)
    for read in (read_metadata, load_tensors):
        with pytest.raises(InputError, match=r"stage0\.safetensors is damaged: its header cannot be read"):
            read(snapshot)


def test_too_large_header_is_not_read(snapshot):
    content = b"{" + b" " * (20 << 20)
    snapshot.write_bytes(len(content).to_bytes(8, "little") + content)
    with pytest.raises(InputError, match="is not a safetensors file"):
        read_metadata(snapshot)


@pytest.mark.parametrize("cut", [3, 8, 100, 5000])
def test_truncated_snapshot_is_refused(snapshot, cut):
    snapshot.write_bytes(snapshot.read_bytes()[:-cut] if cut != 3 else snapshot.read_bytes()[:3])
    with pytest.raises(InputError, match=r"stage0\.safetensors .*(truncated|not a safetensors)"):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_pickle_is_refused_and_not_run(snapshot, writer, monkeypatch, tmp_path):
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    trap = Trap(tmp_path / "was-run")
    if writer == "pickle":
        snapshot.write_bytes(pickle.dumps(trap))
    else:
        torch.save({"weight": torch.zeros(3), "trap": trap}, snapshot)
    with pytest.raises(InputError, match=r"is a pickle .*`lrbench snapshots add"):
        read_metadata(snapshot)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("extra", range(0, 320, 8))
def test_header_of_any_length_is_read(snapshot, extra):
    """One length in thirty-two begins with the byte that a pickle begins with."""
    record = json.loads(read_metadata(snapshot).model_dump_json())
    snapshot.write_bytes(encode(load_file(snapshot), record | {"origin": "x" * extra}))
    assert read_metadata(snapshot).origin == "x" * extra


def test_file_without_a_record_is_refused_with_advice(home):
    save_file({"weight": torch.zeros(3)}, home / "bare.safetensors")
    with pytest.raises(InputError, match=r"lrbench snapshots add .*bare\.safetensors --architecture NAME"):
        load_snapshot(resolve_reference("bare.safetensors", Workspace.current()))
