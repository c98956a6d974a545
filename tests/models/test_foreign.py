"""Import of foreign weights."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lrbench.cli.snapshots.add import _stem
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import create_model
from lrbench.store.references import resolve_reference
from lrbench.store.snapshots import read_metadata
from tests.helpers import one_paragraph
from tests.models.helpers import save_and_add


@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped"])
def test_foreign_weights_are_imported(lrbench, home, kind):
    weights = create_model("test_resnet", {}, classes=7, seed=3).state_dict()
    path = home / f"mine.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "pth":
        torch.save(weights, path)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3}, path)
    added = lrbench("snapshots", "add", path, "--architecture", "test_resnet")
    assert added.status == 0, added.err
    loaded = load_snapshot(resolve_reference(added.out.strip(), Workspace.current()))
    assert loaded.metadata.classes == 7 and loaded.batchnorm == "raw"
    assert torch.equal(loaded.model.state_dict()["conv1.0.weight"], weights["conv1.0.weight"])


def test_foreign_snapshot_is_suggested_without_a_suite(lrbench, home):
    torch.save(create_model("test_resnet", {}, classes=7).state_dict(), home / "mine.pth")
    assert lrbench("snapshots", "add", "mine.pth", "--architecture", "test_resnet").status == 0
    refused = lrbench("recommend", "--task", "tiny-objects")
    assert refused.status == 2 and "belong to no suite: foreign/mine, a .safetensors path" in refused.err
    # A name that is taken hides no other fault.
    assert "resnet11t" in lrbench("snapshots", "add", "mine.pth", "--architecture", "resnet11t").err
    added = lrbench("snapshots", "add", "mine.pth", "--architecture", "test_resnet")
    assert added.status == 2 and "or delete that file first" in added.err


def test_prefix_and_without_select_a_part(lrbench, home):
    """As MoCo leaves them: two encoders under their own words, with a head that is no classifier."""
    network = create_model("test_resnet", {}, classes=0, seed=3).state_dict()
    head = {"fc.0.weight": torch.ones(4, 512), "fc.0.bias": torch.ones(4)}
    whole = network | head
    content = {f"module.{part}.{name}": tensor for part in ("encoder_q", "encoder_k") for name, tensor in whole.items()}
    torch.save({"state_dict": content | {"module.queue": torch.zeros(3)}}, home / "moco.pth")
    command = ("snapshots", "add", "moco.pth", "--architecture", "test_resnet")
    refused = lrbench(*command)
    assert refused.status == 2
    assert "Several parts of the file fit; choose one" in refused.err
    for part in ("encoder_q.", "encoder_k."):
        assert f"--prefix {part} --without fc. selects the tensors under '{part}'" in refused.err
    added = lrbench(*command, "--prefix", "encoder_q.", "--without", "fc.")
    assert added.status == 0, added.err
    assert f"{len(whole) + len(head) + 1} tensors of moco.pth are left out (encoder_q.fc.0.weight, " in added.err
    loaded = load_snapshot(resolve_reference(added.out.strip(), Workspace.current()))
    assert all(torch.equal(tensor, network[name]) for name, tensor in loaded.model.state_dict().items())
    mistyped = lrbench(*command, "--prefix", "encoder.", "--name", "x")
    assert mistyped.status == 2 and "no tensor whose name begins with 'encoder.' (--prefix)" in mistyped.err
    mistyped = lrbench(*command, "--prefix", "encoder_q.", "--without", "head.", "--name", "x")
    assert "begins with 'head.' (--without)" in mistyped.err


def test_several_files_are_imported_and_failures_reported(lrbench, home):
    for epoch in (30, 60):
        torch.save(create_model("resnet10t", {}, classes=7, seed=epoch).state_dict(), home / f"epoch{epoch}.pth")
    (home / "notes.pth").write_text("what I did")
    whole = (home / "epoch30.pth").read_bytes()
    (home / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save(create_model("resnet10t", {}, classes=7), home / "object.pth")
    names = ("epoch30.pth", "notes.pth", "cut.pth", "object.pth", "epoch60.pth")
    added = lrbench("snapshots", "add", *names, "--architecture", "resnet10t")
    assert added.status == 2 and "3 of 5 files were not imported" in added.err
    assert [Path(line).stem for line in added.out.split()] == ["epoch30", "epoch60"]
    assert "notes.pth was not loaded: it is not a file that torch.save or safetensors writes" in added.err
    assert "cut.pth was not loaded: it is truncated" in added.err
    assert "object.pth was not loaded: besides tensors, numbers and text it holds " in added.err
    assert "timm.models.resnet.ResNet" in added.err and "Nothing in it was run" in added.err
    named = lrbench("snapshots", "add", *names, "--architecture", "resnet10t", "--name", "mine")
    assert named.status == 2 and "--name names one snapshot, but 5 files are given" in named.err


def test_import_without_classifier_at_another_input_size(lrbench, home):
    weights = create_model("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, classes=0, seed=3).state_dict()
    assert not [name for name in weights if name.startswith("head.")]
    torch.save(weights, home / "backbone.pth")
    command = ("snapshots", "add", "backbone.pth", "--architecture", "vit_tiny_patch16_224")
    assert "does not hold the weights" in lrbench(*command).err
    added = lrbench(*command, "--argument", "img_size=32", "--argument", "depth=2")
    assert added.status == 0, added.err
    metadata = read_metadata(home / "checkpoints" / "foreign" / "backbone.safetensors")
    assert (metadata.classes, metadata.input.size, metadata.arguments) == (0, 32, {"img_size": 32, "depth": 2})
    for protocol in ("probe", "finetune"):
        command = ("transfer", "--snapshot", "foreign/backbone", "--task", "tiny-objects", "--protocol", protocol)
        few = ("--set", "finetune.updates=2", "--set", "finetune.rates=[0.01]", "--set", "finetune.decays=[0.0]")
        done = lrbench(*command, *(few if protocol == "finetune" else ()))
        assert done.status == 0, done.err
    assert (
        "--argument takes key=value" in lrbench("snapshots", "add", "x", "--architecture", "x", "--argument", "8").err
    )


def test_classes_of_a_distilled_network(lrbench, home):
    arguments = {"img_size": 32, "depth": 1}
    weights = create_model("deit_tiny_distilled_patch16_224", arguments, classes=7, seed=3).state_dict()
    torch.save(weights, home / "both.pth")
    command = ("snapshots", "add", "both.pth", "--architecture", "deit_tiny_distilled_patch16_224")
    added = lrbench(*command, "--argument", "img_size=32", "--argument", "depth=1")
    assert added.status == 0, added.err
    assert read_metadata(home / "checkpoints" / "foreign" / "both.safetensors").classes == 7
    torch.save({name: tensor for name, tensor in weights.items() if not name.startswith("head.")}, home / "both.pth")
    lacking = lrbench(*command, "--name", "one", "--argument", "img_size=32", "--argument", "depth=1")
    # Told as what is missing, not as a network of other shapes.
    assert lacking.status == 2 and "head.weight" in lacking.err and "head_dist" not in lacking.err


def test_input_option_sets_the_input(lrbench, home):
    torch.save(create_model("resnet10t", {}, classes=7, seed=3).state_dict(), home / "small.pth")
    command = ("snapshots", "add", "small.pth", "--architecture", "resnet10t")
    wrong = lrbench(*command, "--input", "siez=64")
    assert wrong.status == 2 and "--input: `siez` is not a known key. Did you mean 'size'?" in wrong.err
    wrong = lrbench(*command, "--input", "std=[0, 1, 1]")
    assert wrong.status == 2 and "--input: `std.0` must be greater than 0" in wrong.err
    added = lrbench(*command, "--input", "size=64", "--input", "mean=[0.5, 0.5, 0.5]")
    assert added.status == 0, added.err
    recorded = read_metadata(home / "checkpoints" / "foreign" / "small.safetensors").input
    assert (recorded.size, recorded.mean, recorded.std) == (64, (0.5, 0.5, 0.5), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", ".hidden"])
def test_import_stays_in_its_folder(lrbench, home, name):
    torch.save(create_model("test_resnet", {}, classes=7).state_dict(), home / "good.pth")
    before = sorted(home.rglob("*.safetensors"))
    refused = lrbench("snapshots", "add", "good.pth", "--architecture", "test_resnet", f"--name={name}")
    message = "cannot be a snapshot's name" if name else "--name is empty"
    assert refused.status == 2 and message in refused.err
    assert sorted(home.rglob("*.safetensors")) == before


def test_mismatches_of_another_network_are_listed(lrbench, home):
    torch.save(create_model("resnet14t", {}, classes=7).state_dict(), home / "other.pth")
    refused = lrbench("snapshots", "add", "other.pth", "--architecture", "test_resnet")
    assert refused.status == 2 and "is not a part of it" in refused.err
    # Everything that does not fit, line by line, and not its beginning alone.
    network, theirs = (create_model(name, {}, classes=7).state_dict() for name in ("test_resnet", "resnet14t"))
    assert "--architecture" in refused.err and "pretrain" not in refused.err
    listed = refused.out.splitlines()
    assert {line.split()[0] for line in listed} >= {name for name in theirs if name not in network} and len(listed) > 40
    assert not list((home / "checkpoints").rglob("*.safetensors"))
    # What the message holds is not told twice.
    tensors = create_model("test_resnet", {}, classes=7).state_dict()
    torch.save({name: tensor for name, tensor in tensors.items() if name != "fc.weight"}, home / "other.pth")
    refused = lrbench("snapshots", "add", "other.pth", "--architecture", "test_resnet")
    assert refused.status == 2 and "fc.weight is missing" in refused.err and not refused.out


def test_advice_names_extra_tensors_and_keeps_the_classifier(lrbench, home):
    network = create_model("test_resnet", {}, classes=7, seed=3).state_dict()
    lightning = {f"model.{name}": tensor for name, tensor in network.items()}
    refused = save_and_add(lrbench, home, {"state_dict": lightning | {"loss.centre": torch.ones(3)}})
    assert "fits: --prefix model." in refused.err and "--without" not in refused.err
    # The hint says what to do, so nobody needs the list of all names.
    assert refused.out == ""
    odd = {"mask_token": torch.ones(3), "layer1.extra": torch.ones(3), "projector.0.weight": torch.ones(3, 3)}
    refused = save_and_add(lrbench, home, network | odd)
    hint = "The rest of the file fits: --without mask_token --without layer1.extra --without projector."
    assert hint in refused.err
    added = save_and_add(lrbench, home, network | odd, *hint.partition("fits: ")[2].split())
    assert added.status == 0 and "3 tensors of x.pth are left out" in added.err
    metadata = read_metadata(home / "checkpoints" / "foreign" / "x.safetensors")
    assert metadata.classes == 7
    assert metadata.origin == "x.pth --without mask_token --without layer1.extra --without projector."
    # A deeper network is another network, not one with something to leave out.
    deeper = save_and_add(lrbench, home, network | {"layer1.1.conv1.weight": torch.ones(64, 64, 3, 3)}, name="deeper")
    assert deeper.status == 2 and "--without" not in deeper.err and "--architecture" in deeper.err
    # What begins otherwise is left out too, also where it is called alike.
    both = network | {f"ema.{name}": tensor for name, tensor in network.items()}
    half = save_and_add(lrbench, home, both, "--prefix", "ema.", name="ema")
    assert half.status == 0 and f"{len(network)} tensors of ema.pth are left out (conv1." in half.err


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.bias": torch.tensor(1.0)}, "does not hold the weights"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a tensor of type complex64"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "a tensor of type float8_e4m3fn"),
        ({"a": torch.ones(2, 2).to_sparse()}, "float32 (sparse_coo), which lrbench does not import"),
        ({"\x1b[31mred": torch.ones(2)}, r"'\x1b[31mred', a tensor"),
    ],
)
def test_unsupported_tensors_are_refused(lrbench, home, content, message):
    refused = save_and_add(lrbench, home, content)
    assert refused.status == 2 and message in refused.err and "Unexpected error" not in refused.err


def test_values_outside_the_networks_type_are_refused(lrbench, home):
    weights = create_model("test_resnet", {}, classes=7).state_dict()
    first = next(iter(weights))
    refused = save_and_add(
        lrbench, home, weights | {first: torch.full_like(weights[first], 1e300, dtype=torch.float64)}
    )
    assert refused.status == 2 and f"values in {first} that are too large for float32" in refused.err
    refused = save_and_add(lrbench, home, weights | {first: torch.zeros_like(weights[first], dtype=torch.int8)})
    assert refused.status == 2 and f"holds {first} as whole numbers (int8)" in refused.err
    # Double and half precision are weights as others are, and what counts may be any number.
    counted = {name: tensor.float() if "num_batches" in name else tensor.double() for name, tensor in weights.items()}
    assert save_and_add(lrbench, home, counted, name="double").status == 0


def test_next_command_can_be_typed(lrbench, home, monkeypatch):
    root = home / "a place"
    monkeypatch.setenv("LRBENCH_HOME", str(root))
    for name in ("one", "two"):
        torch.save(create_model("test_resnet", {}, classes=7).state_dict(), home / f"{name}.pth")
    added = lrbench("snapshots", "add", "one.pth", "--architecture", "test_resnet")
    assert "`lrbench transfer --snapshot foreign/one --task TASK`" in added.err
    added = lrbench("snapshots", "add", "two.pth", "one.pth", "--architecture", "test_resnet")
    (root / "checkpoints" / "foreign" / "one.safetensors").unlink()
    (root / "checkpoints" / "foreign" / "two.safetensors").unlink()
    added = lrbench("snapshots", "add", "two.pth", "one.pth", "--architecture", "test_resnet")
    assert f"--snapshots '{root}/checkpoints/foreign' --task TASK`" in added.err


def test_input_is_tried_before_the_import(lrbench, home):
    torch.save(create_model("test_resnet", {"in_chans": 1}, classes=3).state_dict(), home / "grey.pth")
    refused = lrbench("snapshots", "add", "grey.pth", "--architecture", "test_resnet", "--argument", "in_chans=1")
    assert refused.status == 2 and "3 channels" in refused.err and "Correct --argument." in refused.err
    torch.save(create_model("vit_tiny_patch16_224", {"depth": 1}, classes=3).state_dict(), home / "vit.pth")
    command = ("snapshots", "add", "vit.pth", "--architecture", "vit_tiny_patch16_224", "--argument", "depth=1")
    refused = lrbench(*command, "--input", "size=32")
    assert refused.status == 2 and "Correct --input size or --argument." in refused.err
    assert lrbench(*command).status == 0


def test_snapshot_is_named_after_its_file():
    assert [_stem(Path(name)) for name in ("model.v2.pth", "a/checkpoint-29.pth.tar", "x.safetensors", "plain")] == [
        "model.v2", "checkpoint-29", "x", "plain",
    ]  # fmt: skip


def test_name_of_statistics_is_refused(lrbench, home):
    network, other = (create_model("test_resnet", {}, classes=7, seed=seed).state_dict() for seed in (1, 2))
    assert save_and_add(lrbench, home, network, name="r").status == 0
    for name in ("r.bn", "r.BN"):
        refused = save_and_add(lrbench, home, other, name=name)
        assert refused.status == 2 and "BatchNorm statistics of r. Give another with --name" in refused.err
    assert save_and_add(lrbench, home, other, "--name", "r-bn", name="r.bn").status == 0
    # A stray file of that name is not loaded as the snapshot's statistics.
    folder = home / "checkpoints" / "foreign"
    stray = folder / "r.bn.safetensors"
    stray.write_bytes((folder / "r-bn.safetensors").read_bytes())
    command = ("transfer", "--snapshot", "foreign/r", "--task", "tiny-objects", "--protocol", "knn")
    refused = lrbench(*command)
    assert refused.status == 2 and "which is not a running statistic" in refused.err and one_paragraph(refused.err)
    save_file({name: tensor for name, tensor in other.items() if name.endswith("running_mean")}, stray)
    refused = lrbench(*command)
    assert refused.status == 2 and "r.safetensors was written without BatchNorm statistics. Move it" in refused.err
    assert lrbench("snapshots", "verify", "foreign/r").status == 1
    stray.unlink()
    assert lrbench(*command).status == 0


def test_weights_without_batch_counts_are_imported(lrbench, home):
    network = create_model("test_resnet", {}, classes=7, seed=3).state_dict()
    old = {name: tensor for name, tensor in network.items() if "num_batches" not in name}
    added = save_and_add(lrbench, home, old, name="old")
    assert added.status == 0, added.err
    layers = len(network) - len(old)
    assert f"old.pth lacks num_batches_tracked of {layers} BatchNorm layers" in added.err and "set to 0" in added.err
    loaded = load_snapshot(resolve_reference("foreign/old", Workspace(root=home))).model.state_dict()
    assert all(torch.equal(loaded[name], old.get(name, torch.tensor(0))) for name in network)
    # The hint about --prefix does not need the counts.
    assert (
        "--prefix model."
        in save_and_add(lrbench, home, {f"model.{name}": tensor for name, tensor in old.items()}, name="a").err
    )
    # The error lists all missing tensors of a layer that lacks more than its count.
    mean = next(name for name in old if name.endswith("running_mean"))
    refused = save_and_add(lrbench, home, {name: tensor for name, tensor in old.items() if name != mean}, name="b")
    assert refused.status == 2 and f"{mean} is missing" in refused.err
    assert f"{mean.replace('running_mean', 'num_batches_tracked')} is missing" in refused.err
    assert "2 more" not in refused.err


def test_assumed_input_is_reported(lrbench, home):
    network = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    save = partial(save_and_add, lrbench, home, network, architecture="resnet10t")
    message = [line for line in save(name="a").err.splitlines() if line.startswith("input assumed")]
    assert (
        len(message) == 1
        and "from timm's configuration of resnet10t: size=176, crop_fraction=0.875, interpolation=bicubic" in message[0]
    )
    assert (
        "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], crop_mode=center; " in message[0]
        and "--input 'mean=" in message[0]
    )
    some = ("--input", "mean=[0.5, 0.5, 0.5]", "--input", "size=64")
    half = save(*some, name="b").err
    assert "resnet10t: crop_fraction=0.875, interpolation=bicubic, std=[0.229, 0.224, 0.225], crop_mode=center;" in half
    rest = ("crop_fraction=1.0", "interpolation=bilinear", "std=[0.5, 0.5, 0.5]", "crop_mode=center")
    every = (*some, *(word for option in rest for word in ("--input", option)))
    assert "input assumed" not in save(*every, name="c").err
    record = json.loads(save(*some, "--json", name="d").out)
    assert record["snapshot"] == "foreign/d" and record["input"]["mean"] == [0.5] * 3 and record["input"]["size"] == 64
    assert record["input_assumed"] == ["crop_fraction", "interpolation", "std", "crop_mode"]
    torch.save(network, home / "e.pth")
    several = lrbench("snapshots", "add", "e.pth", "nothing.pth", "--architecture", "resnet10t", "--json")
    assert several.status == 2 and [option["snapshot"] for option in json.loads(several.out)] == ["foreign/e"]
