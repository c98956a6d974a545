"""`lrbench snapshots verify`, and weights that are not finite."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lrbench.models.networks import create_model
from lrbench.store.snapshots import encode, read_metadata
from tests.store.helpers import write_tensors


def test_negative_variance_is_refused(lrbench, home, snapshot):
    weights = create_model("test_resnet", {}, classes=7).state_dict()
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = -1.0
    torch.save(weights, home / "negative.pth")
    refused = lrbench("snapshots", "add", "negative.pth", "--architecture", "test_resnet")
    assert refused.status == 2 and f"a negative variance in {name}" in refused.err
    tensors = load_file(snapshot)
    name = next(name for name in tensors if name.endswith("running_var"))
    tensors[name][0] = -1.0
    write_tensors(snapshot, tensors)
    outcome = lrbench("snapshots", "verify")
    assert outcome.status == 1 and f"a negative variance in {name}" in outcome.out


def test_verifying_no_snapshot_is_reported(lrbench, home):
    outcome = lrbench("snapshots", "verify")
    assert outcome.status == 0 and "nothing was checked" in outcome.err


def test_verify_source_evaluates_again(lrbench, pretrain_tiny, home):
    pretrain_tiny()
    sound = lrbench("snapshots", "verify", "--source")
    assert sound.status == 0 and "9 snapshots are sound" in sound.err and "accuracy on the source" in sound.err
    path = home / "checkpoints" / "tiny" / "hold" / "seed0" / "stage2.safetensors"
    record = json.loads(read_metadata(path).model_dump_json())
    path.write_bytes(encode(load_file(path), {**record, "source_accuracy": 0.95}))
    assert lrbench("snapshots", "verify", "hold/stage2").status == 0
    changed = lrbench("snapshots", "verify", "hold/stage2", "--source")
    assert changed.status == 1 and "BatchNorm statistics have changed" in changed.out


def test_verify_distinguishes_unevaluated_from_bad(lrbench, snapshot, home):
    (home.parent / "tasks" / "tiny-source.toml").unlink()
    outcome = lrbench("snapshots", "verify", "--source", "--json")
    assert outcome.status == 2 and json.loads(outcome.out)["bad"] == {} and json.loads(outcome.out)["checked"] == 0
    assert "no task called 'tiny-source'" in outcome.err and "1 of 1 snapshots could not be evaluated" in outcome.err
    snapshot.write_bytes(snapshot.read_bytes()[:-1])
    assert lrbench("snapshots", "verify", "--source").status == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_layer": "nosuch"}, "could not create 'resnet18'"),
        ({"pretrained": True}, "`pretrained` of 'resnet18' would have timm fetch or load weights"),
        ({"checkpoint_path": "x.pth"}, "`checkpoint_path` of"),
        ({"pretrained_cfg": {"url": "x"}}, "`pretrained_cfg` of"),
    ],
)
def test_invalid_arguments_are_one_bad_snapshot(lrbench, snapshot, arguments, message):
    record = read_metadata(snapshot).model_dump(mode="json")
    other = snapshot.with_name("other.safetensors")
    other.write_bytes(encode(load_file(snapshot), {**record, "arguments": arguments, "batchnorm_sha256": None}))
    outcome = lrbench("snapshots", "verify")
    assert outcome.status == 1 and message in outcome.out and "1 of 2 snapshots are bad" in outcome.err
    for key, value in arguments.items():
        text = json.dumps(value).replace(":", " =")
        refused = lrbench("pretrain", "tiny.toml", "--set", "name=other", "--set", f"model.arguments.{key}={text}")
        assert refused.status == 2 and message in refused.err


def test_verify_detects_a_changed_source(lrbench, snapshot, home):
    tasks = home.parent / "tasks" / "tiny-source.toml"
    tasks.write_text(tasks.read_text().replace("wrong = 0.1", "wrong = 0.2"))
    assert lrbench("snapshots", "verify").status == 0
    changed = lrbench("snapshots", "verify", "--source")
    assert (
        changed.status == 1
        and "pretrained on images or labels of tiny-source that differ from the current ones" in changed.out
    )


def test_verify_finds_values_that_are_not_finite(lrbench, snapshot):
    tensors = load_file(snapshot)
    tensors["fc.bias"][0] = float("nan")
    write_tensors(snapshot, tensors)
    bad = lrbench("snapshots", "verify")
    assert bad.status == 1 and "fc.bias that are not finite" in bad.out


def test_weights_that_are_not_finite_are_refused(lrbench, home, snapshot):
    weights = create_model("test_resnet", {}, classes=7).state_dict()
    weights["fc.bias"][0] = float("nan")
    torch.save(weights, home / "nan.pth")
    refused = lrbench("snapshots", "add", "nan.pth", "--architecture", "test_resnet")
    assert refused.status == 2 and "fc.bias that are not finite" in refused.err
    tensors = load_file(snapshot)
    tensors["conv1.0.weight"][:] = float("inf")
    write_tensors(snapshot, tensors)
    for protocol in ("probe", "logme"):
        refused = lrbench("transfer", "--snapshot", str(snapshot), "--task", "tiny-objects", "--protocol", protocol)
        assert refused.status == 2 and "are not finite, so nothing can be learned" in refused.err
