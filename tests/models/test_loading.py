"""Loading of snapshots: statistics, hashes, and networks that do not fit."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import create_model
from lrbench.store.references import resolve_reference
from lrbench.store.snapshots import batchnorm_path, encode, read_metadata
from tests.store.helpers import toml, write_header


def test_timm_loads_a_snapshot_by_path(snapshot, tiny):
    import timm

    model = timm.create_model(
        tiny.model.architecture, num_classes=4, checkpoint_path=str(snapshot), **tiny.model.arguments
    )
    for name, tensor in load_file(snapshot).items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_reestimated_statistics_are_loaded_and_raw_ones_stored(snapshot):
    loaded = load_snapshot(resolve_reference(str(snapshot), Workspace.current()))
    estimated, raw = load_file(batchnorm_path(snapshot)), load_file(snapshot)
    assert loaded.batchnorm == "re-estimated"
    for name, tensor in estimated.items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
        assert not torch.equal(raw[name], tensor)


def test_missing_or_wrong_statistics_are_refused(snapshot):
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


def test_changed_weights_are_refused_by_all_commands(lrbench, snapshot):
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
        outcome = lrbench(*command)
        assert outcome.status and "does not match the hash in stage0.safetensors" in outcome.out + outcome.err, command


@pytest.mark.parametrize(
    ("changes", "message"),
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
def test_unusable_network_is_refused_before_it_is_built(lrbench, snapshot, changes, message):
    write_header(snapshot, changes)
    with pytest.raises(InputError, match=message):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))
    written = [word for key, value in changes.items() for word in ("--set", f"model.{key}={toml(value)}")]
    for command in (("plan",), ("pretrain", "--workers", "1", "--seed", "0")):
        refused = lrbench(command[0], "tiny.toml", *command[1:], "--set", "name=other", *written)
        assert refused.status == 2 and re.search(message, refused.err), refused.err


def test_other_architecture_is_refused_with_differences(snapshot):
    record = json.loads(read_metadata(snapshot).model_dump_json())
    record["arguments"]["channels"] = [8, 8, 16, 24]
    snapshot.write_bytes(encode(load_file(snapshot), record))
    with pytest.raises(InputError, match=r"does not hold the weights of resnet18: .*has shape \[16.*instead of \[24"):
        load_snapshot(resolve_reference(str(snapshot), Workspace.current()))


def test_arguments_that_load_no_weights_are_accepted():
    create_model("test_resnet", {"pretrained": False, "checkpoint_path": "", "cache_dir": None}, classes=3)
