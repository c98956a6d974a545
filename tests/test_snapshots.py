import json
import os
import pickle
import re
import subprocess
import sys
import tomllib

import pytest
import tomli_w
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lrbench.config.schedule import SnapshotKey
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import create_model
from lrbench.models.tensors import load_tensors
from lrbench.pretrain.segments import make_snapshot
from lrbench.store.references import resolve_reference
from lrbench.store.snapshots import batchnorm_path, encode, hash_tensors, identity, read_metadata, snapshot_path
from tests.helpers import Trap, one_paragraph
from tests.leaderboard.fake import put

STAGE0 = SnapshotKey(arm="step", seed=0, stage=0)


@pytest.fixture
def snapshot(tiny, place):
    from lrbench.store.suites import write_effective

    write_effective(place.workspace, tiny)
    make_snapshot(tiny, STAGE0, place, Control())
    return snapshot_path(place.workspace.checkpoints, "tiny", STAGE0)


def test_equal_content_is_equal_bytes():
    tensors = {f"layer{i}": torch.full((3,), float(i)) for i in range(20)}
    record = {"b": 1, "a": {"d": 2, "c": 3}}
    backwards = dict(reversed(tensors.items()))
    assert encode(tensors, record) == encode(backwards, dict(reversed(record.items())))


def test_timm_loads_a_snapshot_by_its_path(snapshot, tiny):
    import timm

    model = timm.create_model(
        tiny.model.architecture, num_classes=4, checkpoint_path=str(snapshot), **tiny.model.arguments
    )
    for name, tensor in load_file(snapshot).items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_the_header_holds_one_sorted_json_string_without_a_clock(snapshot):
    with safe_open(snapshot, "pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["lrbench"]
    record = json.loads(metadata["lrbench"])
    assert json.dumps(record, sort_keys=True, separators=(",", ":")) == metadata["lrbench"]
    assert {"architecture", "recipe", "source_fingerprint", "versions", "source_accuracy"} <= record.keys()
    assert not {"time", "date", "created", "seconds"} & set(record)


def test_a_transfer_starts_from_the_reestimated_statistics_and_the_file_keeps_the_raw_ones(snapshot):
    loaded = load_snapshot(resolve_reference(str(snapshot), Workspace.current()))
    estimated, raw = load_file(batchnorm_path(snapshot)), load_file(snapshot)
    assert loaded.batchnorm == "re-estimated"
    for name, tensor in estimated.items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
        assert not torch.equal(raw[name], tensor)


def test_the_identity_covers_weights_and_statistics(snapshot):
    before = identity(snapshot)
    content = bytearray(batchnorm_path(snapshot).read_bytes())
    content[-1] ^= 1
    batchnorm_path(snapshot).write_bytes(bytes(content))
    assert identity(snapshot) != before


def test_a_snapshot_without_its_reestimated_statistics_is_not_taken_for_one_of_raw_ones(snapshot):
    statistics = batchnorm_path(snapshot)
    kept = load_file(statistics)
    statistics.unlink()
    with pytest.raises(
        InputError, match=r"stage0\.bn\.safetensors is missing: the BatchNorm statistics that transfers"
    ):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))
    # Another snapshot's.
    statistics.write_bytes(encode({name: tensor + 1 for name, tensor in kept.items()}, {"format": 1, "sample": {}}))
    with pytest.raises(InputError, match=r"stage0\.bn\.safetensors does not match the hash in stage0\.safetensors"):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


def test_weights_in_which_a_byte_is_another_are_neither_transferred_nor_exported_nor_trained_on(lrbench, snapshot):
    content = bytearray(snapshot.read_bytes())
    content[-2] ^= 0x80
    snapshot.write_bytes(content)
    for command in (
        ("transfer", "--snapshot", "stage0", "--task", "tiny-indoor", "--protocol", "knn"),
        ("recommend", "--task", "tiny-indoor", "--snapshots", "stage0"),
        ("snapshots", "export", "stage0"),
        ("snapshots", "verify", "stage0"),
        ("pretrain", "tiny.toml", "--seed", "0", "--arm", "step"),
    ):
        found = lrbench(*command)
        assert found.status and "does not match the hash in stage0.safetensors" in found.out + found.err, command


def write_unsealed(path, tensors, text):
    """A snapshot whose header was not written by this version."""
    save_file(tensors, path, metadata={"lrbench": text if isinstance(text, str) else json.dumps(text)})


def header_of(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["lrbench"])


def change_header(path, **changes):
    """Change fields of a header and leave its hash as it is."""
    write_unsealed(path, load_file(path), header_of(path) | changes)


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
def test_a_changed_header_is_refused(lrbench, snapshot, change):
    change_header(snapshot, **change)
    with pytest.raises(
        InputError, match=r"stage0\.safetensors is damaged: its header was changed after it was written"
    ):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))
    assert lrbench("snapshots", "verify").status == 1


def test_changed_fields_of_the_statistics_are_refused(snapshot):
    statistics = batchnorm_path(snapshot)
    record = header_of(statistics)
    change_header(statistics, sample=record["sample"] | {"images": 3})
    with pytest.raises(InputError, match=r"bn\.safetensors is damaged: its header was changed"):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


def older(path, **changes):
    """The snapshot as it was written before headers had a hash."""
    record = {name: value for name, value in header_of(path).items() if name != "header_sha256"}
    write_unsealed(path, load_file(path), record | {"format": 1} | changes)


def test_a_snapshot_from_before_headers_had_a_hash_is_read(lrbench, snapshot):
    older(snapshot)
    assert load_snapshot(resolve_reference(str(snapshot), Workspace.current())).metadata.stage == 0
    verified = lrbench("snapshots", "verify")
    assert verified.status == 0 and "unchecked header in 1 of 1 snapshots (tiny/step/seed0/stage0)" in verified.err
    assert json.loads(lrbench("snapshots", "show", "stage0").out)["header"] == "unchecked"
    assert lrbench("snapshots", "export", "stage0", "--out", "new").status == 0
    assert json.loads(lrbench("snapshots", "show", "new/model.safetensors").out)["header"] == "checked"


@pytest.mark.parametrize(
    ("changes", "said"),
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
def test_an_unchecked_header_holds_only_values_that_can_be(snapshot, changes, said):
    older(snapshot, **changes)
    with pytest.raises(InputError, match=said.replace(".", r"\.")) as caught:
        read_metadata(snapshot)
    assert one_paragraph(str(caught.value)) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{" * 100_000, "[]", "null", '{"format": "1"}', '{"format": true}', '{"format": NaN}', "\u00ff{",
     '{"format": 1e999}', '{"format": 1}', '{"format": 1, "arguments": ' + "[" * 40 + "]" * 40 + "}"],
)  # fmt: skip
def test_a_record_that_is_none_is_named_as_damaged(snapshot, text):
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
def test_a_header_that_is_none_is_named_as_damaged(snapshot, header):
    content = json.dumps(header).encode()
    snapshot.write_bytes(len(content).to_bytes(8, "little") + content + b"\0" * 4)
    for read in (read_metadata, load_tensors):
        with pytest.raises(InputError, match=r"stage0\.safetensors is damaged: its header cannot be read"):
            read(snapshot)


def test_a_header_larger_than_any_is_not_read(snapshot):
    content = b"{" + b" " * (20 << 20)
    snapshot.write_bytes(len(content).to_bytes(8, "little") + content)
    with pytest.raises(InputError, match="is not a safetensors file"):
        read_metadata(snapshot)


def test_a_pipe_instead_of_a_snapshot_is_refused(snapshot):
    for path in (batchnorm_path(snapshot), snapshot):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InputError, match=r"is a pipe, not a regular file|is missing"):
            load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


def test_a_snapshot_whose_link_leads_nowhere_is_missing(lrbench, snapshot):
    batchnorm_path(snapshot).unlink()
    snapshot.unlink()
    snapshot.symlink_to("gone")
    for command in (("snapshots", "list"), ("snapshots", "verify"), ("snapshots", "show", "stage0"), ("plan", "tiny")):
        outcome = lrbench(*command)
        assert "foresee" not in outcome.out + outcome.err and "Unexpected" not in outcome.out + outcome.err, command


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arguments": {"layers": [100_000_000, 1, 1, 1]}}, "the value '100000000' in its arguments"),
        ({"arguments": {"layers": [60_000, 1, 1, 1]}}, "more than 20,000 layers"),
        ({"arguments": {"channels": [60_000, 60_000, 60_000, 60_000]}}, "more than 20,000,000,000 parameters"),
        ({"arguments": {"in_chans": 1}}, "does not turn images of 32 × 32 pixels .* Correct model.arguments"),
        ({"arguments": {"features_only": True}}, "it gives a list instead of one tensor"),
        (
            {"architecture": "vit_tiny_patch16_224", "arguments": {}},
            "Input height .32. doesn't match model .224.* Correct input.size or model.arguments",
        ),
    ],
)
def test_networks_that_cannot_be_used_are_refused_before_they_are_built(lrbench, snapshot, changes, said):
    write_header(snapshot, changes)
    with pytest.raises(InputError, match=said):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))
    written = [word for key, value in changes.items() for word in ("--set", f"model.{key}={toml(value)}")]
    for command in (("plan",), ("pretrain", "--workers", "1", "--seed", "0")):
        refused = lrbench(command[0], "tiny.toml", *command[1:], "--set", "name=other", *written)
        assert refused.status == 2 and re.search(said, refused.err), refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layers": [10_000_000, 1, 1, 1]}, "is not built, because of its config.json: .* the value '10000000'"),
        ({"layers": [60_000, 1, 1, 1]}, "is not built, because of its config.json: .* more than 20,000 layers"),
        ({"in_chans": 1}, "does not turn images into features and scores"),
    ],
)
def test_a_hub_configuration_is_bounded_before_weights_are_fetched(home, monkeypatch, arguments, said):
    import timm.models

    make = timm.create_model
    monkeypatch.setattr(
        timm.models, "load_model_config_from_hf", lambda name: ({"num_classes": 3}, "resnet18", arguments)
    )

    def create(name, pretrained=False, **others):
        assert not pretrained
        return make("resnet18", num_classes=3, **arguments) if name.startswith("hf-hub:") else make(name, **others)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InputError, match=said):
        load_snapshot(resolve_reference("hf-hub:some/model", Workspace.current()))


def toml(value):
    return (
        tomli_w.dumps({"a": value}).partition("=")[2].strip()
        if not isinstance(value, dict)
        else ("{" + ", ".join(f"{key} = {json.dumps(inner)}" for key, inner in value.items()) + "}")
    )


def write_header(path, changes):
    """A snapshot as it would have been written with these values."""
    path.write_bytes(encode(load_file(path), header_of(path) | changes))


def test_a_negative_variance_is_found_and_not_taken_in(lrbench, home, snapshot):
    weights = create_model("resnet10t", {}, classes=7).state_dict()
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = -1.0
    torch.save(weights, home / "negative.pth")
    refused = lrbench("snapshots", "add", "negative.pth", "--architecture", "resnet10t")
    assert refused.status == 2 and f"a negative variance in {name}" in refused.err
    tensors = load_file(snapshot)
    name = next(name for name in tensors if name.endswith("running_var"))
    tensors[name][0] = -1.0
    write_with(snapshot, tensors)
    found = lrbench("snapshots", "verify")
    assert found.status == 1 and f"a negative variance in {name}" in found.out


@pytest.mark.parametrize("cut", [3, 8, 100, 5000])
def test_a_truncated_snapshot_is_refused(snapshot, cut):
    snapshot.write_bytes(snapshot.read_bytes()[:-cut] if cut != 3 else snapshot.read_bytes()[:3])
    with pytest.raises(InputError, match=r"stage0\.safetensors .*(truncated|not a safetensors)"):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_in_place_of_a_snapshot_is_refused_and_never_run(snapshot, writer, monkeypatch, tmp_path):
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
def test_a_header_of_any_length_is_read(snapshot, extra):
    """One length in thirty-two begins with the byte that a pickle begins with."""
    record = json.loads(read_metadata(snapshot).model_dump_json())
    snapshot.write_bytes(encode(load_file(snapshot), record | {"origin": "x" * extra}))
    assert read_metadata(snapshot).origin == "x" * extra


def test_a_snapshot_of_another_architecture_is_refused_with_the_differences(snapshot):
    record = json.loads(read_metadata(snapshot).model_dump_json())
    record["arguments"]["channels"] = [8, 8, 16, 24]
    snapshot.write_bytes(encode(load_file(snapshot), record))
    with pytest.raises(InputError, match=r"does not hold the weights of resnet18: .*has shape \[16.*instead of \[24"):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


def test_weights_without_lrbenchs_header_say_how_to_take_them_in(home):
    save_file({"weight": torch.zeros(3)}, home / "bare.safetensors")
    with pytest.raises(InputError, match=r"lrbench snapshots add .*bare\.safetensors --architecture NAME"):
        load_snapshot(resolve_reference("bare.safetensors", Workspace.current()))


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("stage2", "tiny/step/seed0/stage2"),
        ("hold/stage2", "tiny/hold/seed0/stage2"),
        ("hold/stage1", "tiny/step/seed0/stage1"),
        ("tiny/stage2", "tiny/step/seed0/stage2"),
        ("tiny/seed1/stage2", "tiny/step/seed1/stage2"),
        ("constant/seed1/stage2", "tiny/hold/seed1/stage2"),
        ("tiny/average/seed1/stage3", "tiny/average/seed1/stage3"),
        ("quick/step/seed2/stage1", "quick/step/seed2/stage1"),
    ],
)
def test_references_mean_what_the_documentation_says(snapshot, place, text, full):
    assert resolve_reference(text, place.workspace).text == full


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage9", "has no stage9"),
        ("hlod/stage2", "Did you mean 'hold'"),
        ("tiny/step/seed7/stage1", "has no seed 7"),
        ("stge2", "Did you mean 'stage2'"),
        ("a/b/c/d/stage2", "is not a snapshot reference"),
        ("timm:", "names no model"),
        ("hf-hub:justname", "names no model"),
    ],
)
def test_a_wrong_reference_says_what_was_expected(snapshot, place, text, said):
    with pytest.raises(InputError, match=said):
        resolve_reference(text, place.workspace)


def test_without_any_suite_a_stage_says_what_to_do(home, place):
    with pytest.raises(InputError, match="no suite was pretrained"):
        resolve_reference("stage2", place.workspace)


def test_timm_models_without_a_tag_are_random_and_always_the_same(home):
    one, two = (load_snapshot(resolve_reference("timm:resnet10t", Workspace.current())) for _ in range(2))
    assert one.random and one.batchnorm == "raw" and one.sha256 == two.sha256


def test_without_a_network_published_weights_are_read_from_the_hubs_cache_or_told_of_at_once(home):
    folder = home / "hub" / "hub" / "models--timm--resnet10t.c3_in1k"
    place = {
        **os.environ,
        "HF_HOME": str(home / "hub"),
        "HF_ENDPOINT": "https://nowhere.invalid",
        "LRBENCH_HOME": str(home),
    }
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        place.pop(name, None)
        place.pop(name.lower(), None)
    command = (
        sys.executable,
        "-m",
        "lrbench",
        "transfer",
        "--snapshot",
        "timm:resnet10t.c3_in1k",
        "--task",
        "tiny-objects",
    )
    call = {"env": place, "cwd": home, "capture_output": True, "text": True}
    missing = subprocess.run([*command, "--protocol", "knn"], **call)
    assert missing.returncode == 2 and "could not be fetched or loaded" in missing.stderr
    assert "Retrying" not in missing.stderr and len(missing.stderr.splitlines()) == 1
    weights = folder / "snapshots" / "0123abc" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    save_file(create_model("resnet10t", {}, classes=1000, seed=1).state_dict(), weights)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    there = subprocess.run([*command, "--protocol", "knn"], **call)
    assert there.returncode == 0 and "Retrying" not in there.stderr, there.stderr


def test_an_unknown_model_or_tag_gets_a_suggestion(home):
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        load_snapshot(resolve_reference("timm:resnet18x", Workspace.current()))
    with pytest.raises(InputError, match=r"no weights 'resnet18\.a1_in9k'"):
        load_snapshot(resolve_reference("timm:resnet18.a1_in9k", Workspace.current()))


def test_a_file_has_one_reference_however_its_path_is_spelt(home, monkeypatch):
    place = Workspace(root=home)
    folder = home / "checkpoints" / "foreign"
    folder.mkdir(parents=True)
    for path in (folder / "ok.safetensors", home / "mine.safetensors"):
        save_file({"weight": torch.zeros(1)}, path)
    spelt = ("foreign/ok", "checkpoints/foreign/ok.safetensors", f"../{home.name}/checkpoints/foreign/ok.safetensors")
    assert {resolve_reference(each, place).text for each in (*spelt, str(folder / "ok.safetensors"))} == {"foreign/ok"}
    own = ("mine.safetensors", "./checkpoints/../mine.safetensors", str(home / "mine.safetensors"))
    assert {resolve_reference(each, place).text for each in own} == {"mine.safetensors"}
    # From wherever, and where LRBENCH_HOME is a link.
    (home.parent / "link").symlink_to(home)
    linked = Workspace(root=home.parent / "link")
    for here in (home, folder, home.parent):
        monkeypatch.chdir(here)
        near = os.path.relpath(home / "mine.safetensors")
        for spelt, there in ((near, place), (near, linked), ("mine.safetensors", place)):
            found = resolve_reference(spelt, there)
            assert found.text == "mine.safetensors" and found.path.is_file()
        assert resolve_reference(os.path.relpath(folder / "ok.safetensors"), linked).text == "foreign/ok"
    # What lies in no workspace is called by its whole path, also from its own folder.
    outside = home.parent / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, outside)
    assert resolve_reference("other.safetensors", place).text == str(outside)


def test_verifying_nothing_is_said(lrbench, home):
    outcome = lrbench("snapshots", "verify")
    assert outcome.status == 0 and "nothing was checked" in outcome.err


def test_list_show_verify_and_export(lrbench, snapshot, home):
    import timm

    assert "tiny/step/seed0/stage0" in lrbench("snapshots", "list").out
    shown = json.loads(lrbench("snapshots", "show", "stage0").out)
    assert shown["sha256"] == identity(snapshot) and shown["batchnorm"] == "re-estimated"
    assert lrbench("snapshots", "verify").status == 0
    assert lrbench("snapshots", "export", "stage0", "--to", "hf", "--out", "exported").status == 0
    model = timm.create_model(f"local-dir:{home / 'exported'}", pretrained=True)
    loaded = load_snapshot(resolve_reference(str(snapshot), Workspace.current())).model
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), loaded(images))
    # It is a snapshot of lrbench's too, whose statistics are built in.
    again = home / "exported" / "model.safetensors"
    assert lrbench("snapshots", "verify", str(again)).status == 0
    assert json.loads(lrbench("snapshots", "show", str(again)).out)["batchnorm"] == "re-estimated"
    # With a deep stem the first layer is not where timm says that it is for the architecture.
    grey = timm.create_model(f"local-dir:{home / 'exported'}", pretrained=True, in_chans=1)
    torch.testing.assert_close(grey.conv1[0].weight, loaded.conv1[0].weight.sum(1, keepdim=True))
    with torch.inference_mode():
        exported = load_snapshot(resolve_reference(str(again), Workspace.current())).model
        torch.testing.assert_close(exported(images), loaded(images))
    card = (home / "exported" / "README.md").read_text()
    assert read_metadata(again).tensors_sha256 in card
    assert "Source: tiny-source" in card and "No results are shown" in card and "rates = [" in card
    assert lrbench("snapshots", "export", "stage0", "--out", "exported").status == 2


def test_the_model_card_holds_the_recipe_and_the_transfers_of_this_very_snapshot(lrbench, snapshot, home):
    for protocol in ("probe", "knn"):
        arguments = ("transfer", "--snapshot", "stage0", "--task", "tiny-indoor", "--protocol", protocol, "--json")
        record = json.loads(lrbench(*arguments).out)
    # A task of the user's own is shown only where it is named.
    export = ("snapshots", "export", "stage0", "--to", "hf", "--out")
    private = lrbench(*export, "private")
    assert private.status == 0 and "leaves out results on tasks of yours: tiny-indoor" in private.err
    card = (home / "private" / "README.md").read_text()
    assert "tiny-indoor" not in card and "No results are shown." in card
    export = (*export[:3], "--task", "tiny-indoor", *export[3:])
    assert lrbench(*export, "card").status == 0
    card = (home / "card" / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("| tiny")]
    assert [row[:2] for row in rows] == [["tiny-indoor", "knn"], ["tiny-indoor", "probe"]]
    # Wilson's interval of 40 images.
    top1, z = record["metrics"]["top1"], 1.95996
    centre, half = top1 + z * z / 80, z * (top1 * (1 - top1) / 40 + z * z / 6400) ** 0.5
    low, high = (100 * (centre + sign * half) / (1 + z * z / 40) for sign in (-1, 1))
    assert rows[0][3] == f"{100 * top1:.2f} [{low:.2f}, {high:.2f}]" and rows[0][4] == "40"
    recipe = card.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(recipe)["schedule"]["boundaries"] == [3, 5]
    # What was measured under its path belongs to no suite, and is this snapshot's too.
    assert lrbench(*arguments[:2], str(snapshot), *arguments[3:]).status == 0
    assert lrbench(*export, "side").status == 0
    rows = [line for line in (home / "side" / "README.md").read_text().splitlines() if line.startswith("| tiny")]
    assert [row.split("|")[-2].strip() for row in rows] == ["of tiny", "of no suite", "of tiny"]
    for path in (home / "leaderboard" / "results" / "tiny").glob("*.json"):
        path.unlink()
    assert lrbench(*export, "alone").status == 0
    assert (home / "alone" / "README.md").read_text().count("| tiny-indoor") == 1
    # Results of other weights under the same name are not this snapshot's.
    for path in (home / "leaderboard" / "results").glob("*/*.json"):
        path.write_text(path.read_text().replace(identity(snapshot), "0" * 64))
    assert lrbench(*export, "other").status == 0
    assert "No results are shown." in (home / "other" / "README.md").read_text()


def test_a_card_shows_results_on_shipped_tasks_unasked(lrbench, snapshot, home, tiny):
    workspace = Workspace(root=home)
    for task in ("digits", "tiny-objects"):
        put(workspace, tiny, stage=0, task={"name": task}, snapshot={"sha256": identity(snapshot)})
    done = lrbench("snapshots", "export", "stage0", "--to", "hf", "--out", "card")
    assert done.status == 0 and "leaves out results on tasks of yours: tiny-objects" in done.err
    card = (home / "card" / "README.md").read_text()
    assert "| digits " in card and "75.00 [59.81, 85.81]" in card and "tiny-objects" not in card


@pytest.mark.parametrize(("architecture", "has_batchnorm"), [("resnet10t", True), ("vit_tiny_patch16_224", False)])
def test_the_card_of_weights_from_elsewhere_says_nothing_that_it_does_not_know(
    lrbench, home, architecture, has_batchnorm
):
    torch.save(create_model(architecture, {}, classes=7).state_dict(), home / "mine.pth")
    assert lrbench("snapshots", "add", "mine.pth", "--architecture", architecture).status == 0
    assert lrbench("snapshots", "export", "foreign/mine", "--to", "hf", "--out", "card").status == 0
    card = (home / "card" / "README.md").read_text().partition("## Metadata of the snapshot")[0]
    assert "Weights from elsewhere" in card and "Classes: 7" in card and ("BatchNorm" in card) == has_batchnorm
    assert not any(word in card for word in ("None,", "boundary", "Source:", "Recipe"))


def test_a_card_shows_a_files_name_as_text(lrbench, home):
    name = "a`<img src=x onerror=alert(1)>.pth"
    torch.save(create_model("resnet10t", {}, classes=7).state_dict(), home / name)
    assert lrbench("snapshots", "add", name, "--architecture", "resnet10t", "--name", "mine").status == 0
    assert lrbench("snapshots", "export", "foreign/mine", "--to", "hf", "--out", "card").status == 0
    title = next(line for line in (home / "card" / "README.md").read_text().splitlines() if line.startswith("# "))
    assert title == r"# resnet10t, snapshot a\`&lt;img src=x onerror=alert(1)&gt;.pth"


def test_verify_evaluates_on_the_source_again_where_asked(lrbench, home):
    assert lrbench("pretrain", "tiny.toml", "--seed", "0", "--workers", "1").status == 0
    sound = lrbench("snapshots", "verify", "--source")
    assert sound.status == 0 and "9 snapshots are sound" in sound.err and "accuracy on the source" in sound.err
    path = home / "checkpoints" / "tiny" / "hold" / "seed0" / "stage2.safetensors"
    record = json.loads(read_metadata(path).model_dump_json())
    path.write_bytes(encode(load_file(path), {**record, "source_accuracy": 0.95}))
    assert lrbench("snapshots", "verify", "hold/stage2").status == 0
    changed = lrbench("snapshots", "verify", "hold/stage2", "--source")
    assert changed.status == 1 and "are not those that were evaluated" in changed.out


def test_verify_tells_what_could_not_be_evaluated_from_what_is_bad(lrbench, snapshot, home):
    (home.parent / "tasks" / "tiny-source.toml").unlink()
    found = lrbench("snapshots", "verify", "--source", "--json")
    assert found.status == 2 and json.loads(found.out)["bad"] == {} and json.loads(found.out)["checked"] == 0
    assert "no task called 'tiny-source'" in found.err and "1 of 1 snapshots could not be evaluated" in found.err
    snapshot.write_bytes(snapshot.read_bytes()[:-1])
    assert lrbench("snapshots", "verify", "--source").status == 1


def test_arguments_that_ask_for_no_weights_are_taken():
    create_model("resnet10t", {"pretrained": False, "checkpoint_path": "", "cache_dir": None}, classes=3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"norm_layer": "nosuch"}, "could not create 'resnet18'"),
        ({"pretrained": True}, "`pretrained` of 'resnet18' would have timm fetch or load weights"),
        ({"checkpoint_path": "x.pth"}, "`checkpoint_path` of"),
        ({"pretrained_cfg": {"url": "x"}}, "`pretrained_cfg` of"),
    ],
)
def test_a_header_with_arguments_that_are_none_is_one_bad_snapshot_among_others(lrbench, snapshot, arguments, said):
    record = read_metadata(snapshot).model_dump(mode="json")
    other = snapshot.with_name("other.safetensors")
    other.write_bytes(encode(load_file(snapshot), {**record, "arguments": arguments, "batchnorm_sha256": None}))
    found = lrbench("snapshots", "verify")
    assert found.status == 1 and said in found.out and "1 of 2 snapshots are bad" in found.err
    for key, value in arguments.items():
        text = json.dumps(value).replace(":", " =")
        refused = lrbench("pretrain", "tiny.toml", "--set", "name=other", "--set", f"model.arguments.{key}={text}")
        assert refused.status == 2 and said in refused.err


def test_verify_notices_a_source_that_is_another_by_now(lrbench, snapshot, home):
    tasks = home.parent / "tasks" / "tiny-source.toml"
    tasks.write_text(tasks.read_text().replace("wrong = 0.1", "wrong = 0.2"))
    assert lrbench("snapshots", "verify").status == 0
    changed = lrbench("snapshots", "verify", "--source")
    assert (
        changed.status == 1 and "pretrained on other images or labels of tiny-source than there are now" in changed.out
    )


def test_a_timm_that_would_unpickle_fetches_nothing(monkeypatch, home):
    import timm.models

    monkeypatch.setattr(timm.models, "load_state_dict", lambda file, weights_only=False: None)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(InputError, match=r"unpickles what it downloads\. Update timm"):
        load_snapshot(resolve_reference("timm:resnet10t.c3_in1k", Workspace.current()))


def write_with(path, tensors):
    """A snapshot as it would have been written with these tensors."""
    record = json.loads(read_metadata(path).model_dump_json())
    path.write_bytes(encode(tensors, {**record, "tensors_sha256": hash_tensors(tensors)}))


def test_verify_finds_values_that_are_not_finite(lrbench, snapshot):
    tensors = load_file(snapshot)
    tensors["fc.bias"][0] = float("nan")
    write_with(snapshot, tensors)
    bad = lrbench("snapshots", "verify")
    assert bad.status == 1 and "fc.bias that are not finite" in bad.out


def test_weights_that_are_not_finite_are_not_taken_in_nor_transferred(lrbench, home, snapshot):
    weights = create_model("resnet10t", {}, classes=7).state_dict()
    weights["fc.bias"][0] = float("nan")
    torch.save(weights, home / "nan.pth")
    refused = lrbench("snapshots", "add", "nan.pth", "--architecture", "resnet10t")
    assert refused.status == 2 and "fc.bias that are not finite" in refused.err
    tensors = load_file(snapshot)
    tensors["conv1.0.weight"][:] = float("inf")
    write_with(snapshot, tensors)
    for protocol in ("probe", "logme"):
        refused = lrbench("transfer", "--snapshot", str(snapshot), "--task", "tiny-objects", "--protocol", protocol)
        assert refused.status == 2 and "are not finite, so nothing can be learned" in refused.err


def test_a_snapshot_that_is_not_made_yet_says_how_it_is(lrbench, snapshot):
    missing = lrbench("transfer", "--snapshot", "hold/stage2", "--task", "tiny-objects")
    assert missing.status == 2
    assert "no snapshot tiny/hold/seed0/stage2 yet" in missing.err
    assert "Create it with `lrbench pretrain tiny --arm hold --seed 0`" in missing.err


def test_a_word_that_is_left_out_of_a_reference_is_told(lrbench, home):
    folder = home / "checkpoints" / "foreign"
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, folder / "dino.safetensors")
    command = ("transfer", "--task", "tiny-objects", "--snapshot")
    assert "Did you mean 'foreign/dino'?" in lrbench(*command, "dino").err
    assert "Did you mean 'timm:resnet18.a1_in1k'?" in lrbench(*command, "resnet18.a1_in1k").err


def test_the_hubs_library_is_left_as_it_was(monkeypatch):
    from huggingface_hub import constants

    from lrbench.models import published

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(published, "_resolves", lambda host: False)
    with published._offline_without_network():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
