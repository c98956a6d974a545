"""Weights from elsewhere, taken in as snapshots."""

import argparse
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lrbench.cli.snapshots import _stem
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import create_model
from lrbench.store.references import resolve_reference
from lrbench.store.snapshots import read_metadata
from tests.helpers import Trap, one_paragraph


@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped"])
def test_foreign_weights_are_taken_in(lrbench, home, kind):
    weights = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    path = home / f"mine.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "pth":
        torch.save(weights, path)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 3}, path)
    added = lrbench("snapshots", "add", path, "--architecture", "resnet10t")
    assert added.status == 0, added.err
    loaded = load_snapshot(resolve_reference(added.out.strip(), Workspace.current()))
    assert loaded.metadata.classes == 7 and loaded.batchnorm == "raw"
    assert torch.equal(loaded.model.state_dict()["conv1.0.weight"], weights["conv1.0.weight"])


def test_of_several_sets_of_weights_in_a_file_one_is_named(lrbench, home):
    raw, average = (create_model("resnet10t", {}, classes=7, seed=seed).state_dict() for seed in (1, 2))
    optimiser = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(
        {"state_dict": raw, "state_dict_ema": average, "optimizer": optimiser, "loss": torch.tensor(1.0)}, "two.pth"
    )
    command = ("snapshots", "add", "two.pth", "--architecture", "resnet10t")
    refused = lrbench(*command)
    assert (
        refused.status == 2
        and "several sets of weights: state_dict, state_dict_ema. Choose one with --key" in refused.err
    )
    wrong = lrbench(*command, "--key", "model")
    assert wrong.status == 2 and "under the key 'model'" in wrong.err
    assert lrbench(*command, "--key", "state_dict_ema").status == 0
    loaded = load_snapshot(resolve_reference("foreign/two", Workspace(root=home)))
    assert torch.equal(loaded.model.state_dict()["conv1.0.weight"], average["conv1.0.weight"])
    (home / "empty.pth").touch()
    assert (
        "empty.pth was not loaded: it is empty"
        in lrbench("snapshots", "add", "empty.pth", "--architecture", "resnet10t").err
    )


def test_checkpoints_of_training_scripts_are_taken_in_though_they_hold_their_arguments(lrbench, home):
    weights = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    content = {"arch": "resnet10t", "epoch": 29, "state_dict": weights, "args": argparse.Namespace(lr=0.1, data="x")}
    torch.save(content, home / "checkpoint-29.pth.tar")
    added = lrbench("snapshots", "add", "checkpoint-29.pth.tar", "--architecture", "resnet10t")
    assert added.status == 0, added.err
    assert added.out.strip().endswith("foreign/checkpoint-29.safetensors")
    # A bag of values may hold nothing else that could run.
    numbers = {
        "best": np.float64(0.7),
        "step": np.int64(3),
        "curve": np.arange(3.0),
        "odd": np.array([{}], dtype=object),
    }
    torch.save(content | numbers, home / "numbers.pth")
    assert lrbench("snapshots", "add", "numbers.pth", "--architecture", "resnet10t").status == 0
    torch.save(content | {"args": argparse.Namespace(trap=Trap(home / "was-run"))}, home / "trap.pth")
    refused = lrbench("snapshots", "add", "trap.pth", "--architecture", "resnet10t")
    assert refused.status == 2 and not (home / "was-run").exists()


def test_where_no_suite_is_but_weights_were_taken_in_these_are_named(lrbench, home):
    torch.save(create_model("resnet10t", {}, classes=7).state_dict(), home / "mine.pth")
    assert lrbench("snapshots", "add", "mine.pth", "--architecture", "resnet10t").status == 0
    refused = lrbench("recommend", "--task", "tiny-objects")
    assert refused.status == 2 and "belong to no suite: foreign/mine, a .safetensors path" in refused.err
    # A name that is taken hides no other fault.
    assert "resnet11t" in lrbench("snapshots", "add", "mine.pth", "--architecture", "resnet11t").err
    taken = lrbench("snapshots", "add", "mine.pth", "--architecture", "resnet10t")
    assert taken.status == 2 and "or delete that file first" in taken.err


@pytest.mark.parametrize("wrappers", ["_orig_mod.module.", "module._orig_mod.", "module.module._orig_mod."])
def test_every_wrapper_is_taken_off(lrbench, home, wrappers):
    network = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    taken = saved(lrbench, home, {f"{wrappers}{name}": each for name, each in network.items()})
    assert taken.status == 0, taken.err


def test_sets_of_weights_within_dictionaries_are_found_and_named_by_the_keys_that_lead_there(lrbench, home):
    network, other = (create_model("resnet10t", {}, classes=7, seed=seed).state_dict() for seed in (1, 2))
    slots = {"momentum_buffer": torch.ones(2), "square": torch.ones(2)}
    optimiser = {"state": {0: slots, 1: slots}}
    assert saved(lrbench, home, {"model": {"state_dict": network}, "optimizer": optimiser}, name="a").status == 0
    named = {"state": {"conv1.weight": slots}}
    assert saved(lrbench, home, {"model": {"state_dict": network}, "optim": named}, name="b").status == 0
    deep = {
        "base_model": {"model": {"trunk": network, "heads": {}}},
        "loss": {"centre": torch.ones(1)},
        "optimizer": optimiser,
    }
    taken = saved(lrbench, home, {"classy_state_dict": deep}, name="deep")
    assert taken.status == 0, taken.err
    two = {"ema": {"model": other}, "model": {"state_dict": network}, "epoch": torch.tensor(3)}
    refused = saved(lrbench, home, two, name="two")
    assert (
        refused.status == 2
        and "several sets of weights: ema.model, model.state_dict. Choose one with --key" in refused.err
    )
    for wrong in ("ema", "model", "state_dict", "model.state_dict.", "epoch"):
        refused = saved(lrbench, home, two, "--key", wrong, name="two")
        assert refused.status == 2 and f"no weights under the key {wrong!r}; it holds ema.model" in refused.err
    assert saved(lrbench, home, two, "--key", "ema.model", name="two").status == 0
    loaded = load_snapshot(resolve_reference("foreign/two", Workspace(root=home)))
    assert torch.equal(loaded.model.state_dict()["conv1.0.weight"], other["conv1.0.weight"])
    # What lies beside a whole network's tensors is not taken in its place, unless it is named.
    beside = network | {"extra": {"shadow": {"a": torch.ones(1), "b": torch.ones(1)}}}
    assert saved(lrbench, home, beside, name="beside").status == 0
    assert "does not hold the weights" in saved(lrbench, home, beside, "--key", "extra.shadow", name="c").err
    # Two keys with one spelling cannot be told apart.
    alike = saved(lrbench, home, {"a.b": network, "a": {"b": other}}, name="alike")
    assert alike.status == 2 and "two sets of weights under 'a.b'" in alike.err


def test_a_part_of_a_checkpoint_is_named_by_what_its_names_begin_with(lrbench, home):
    """As MoCo leaves them: two encoders under their own words, with a head that is no classifier."""
    network = create_model("resnet10t", {}, classes=0, seed=3).state_dict()
    head = {"fc.0.weight": torch.ones(4, 512), "fc.0.bias": torch.ones(4)}
    whole = network | head
    content = {f"module.{part}.{name}": each for part in ("encoder_q", "encoder_k") for name, each in whole.items()}
    torch.save({"state_dict": content | {"module.queue": torch.zeros(3)}}, home / "moco.pth")
    command = ("snapshots", "add", "moco.pth", "--architecture", "resnet10t")
    refused = lrbench(*command)
    assert refused.status == 2
    assert "Several parts of the file fit; choose one" in refused.err
    for part in ("encoder_q.", "encoder_k."):
        assert f"--prefix {part} --without fc. selects the tensors under '{part}'" in refused.err
    added = lrbench(*command, "--prefix", "encoder_q.", "--without", "fc.")
    assert added.status == 0, added.err
    assert f"{len(whole) + len(head) + 1} tensors of moco.pth are left out (encoder_q.fc.0.weight, " in added.err
    loaded = load_snapshot(resolve_reference(added.out.strip(), Workspace.current()))
    assert all(torch.equal(each, network[name]) for name, each in loaded.model.state_dict().items())
    mistyped = lrbench(*command, "--prefix", "encoder.", "--name", "x")
    assert mistyped.status == 2 and "no tensor whose name begins with 'encoder.' (--prefix)" in mistyped.err
    mistyped = lrbench(*command, "--prefix", "encoder_q.", "--without", "head.", "--name", "x")
    assert "begins with 'head.' (--without)" in mistyped.err


def test_several_files_are_taken_in_at_once_and_each_that_is_not_is_told(lrbench, home):
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


def test_weights_without_a_classifier_and_of_another_input_size_are_taken_in(lrbench, home):
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


def test_the_classes_of_a_distilled_network_are_those_of_either_classifier(lrbench, home):
    arguments = {"img_size": 32, "depth": 1}
    weights = create_model("deit_tiny_distilled_patch16_224", arguments, classes=7, seed=3).state_dict()
    torch.save(weights, home / "both.pth")
    command = ("snapshots", "add", "both.pth", "--architecture", "deit_tiny_distilled_patch16_224")
    added = lrbench(*command, "--argument", "img_size=32", "--argument", "depth=1")
    assert added.status == 0, added.err
    assert read_metadata(home / "checkpoints" / "foreign" / "both.safetensors").classes == 7
    torch.save({name: each for name, each in weights.items() if not name.startswith("head.")}, home / "both.pth")
    lacking = lrbench(*command, "--name", "one", "--argument", "img_size=32", "--argument", "depth=1")
    # Told as what is missing, not as a network of other shapes.
    assert lacking.status == 2 and "head.weight" in lacking.err and "head_dist" not in lacking.err


def test_the_input_that_a_network_was_trained_on_can_be_said(lrbench, home):
    torch.save(create_model("resnet10t", {}, classes=7, seed=3).state_dict(), home / "small.pth")
    command = ("snapshots", "add", "small.pth", "--architecture", "resnet10t")
    wrong = lrbench(*command, "--input", "siez=64")
    assert wrong.status == 2 and "--input: `siez` is not a known key. Did you mean 'size'?" in wrong.err
    wrong = lrbench(*command, "--input", "std=[0, 1, 1]")
    assert wrong.status == 2 and "--input: `std.0` must be greater than 0" in wrong.err
    added = lrbench(*command, "--input", "size=64", "--input", "mean=[0.5, 0.5, 0.5]")
    assert added.status == 0, added.err
    taken = read_metadata(home / "checkpoints" / "foreign" / "small.safetensors").input
    assert (taken.size, taken.mean, taken.std) == (64, (0.5, 0.5, 0.5), (0.229, 0.224, 0.225))


def test_a_foreign_pickle_that_would_run_code_is_refused(lrbench, home):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "trap": Trap(home / "was-run")}, home / "trap.pth")
    refused = lrbench("snapshots", "add", "trap.pth", "--architecture", "resnet10t")
    assert refused.status == 2 and "Nothing in it was run" in refused.err
    assert not (home / "was-run").exists()


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", ".hidden"])
def test_what_is_taken_in_stays_in_its_folder(lrbench, home, name):
    torch.save(create_model("resnet10t", {}, classes=7).state_dict(), home / "good.pth")
    before = sorted(home.rglob("*.safetensors"))
    refused = lrbench("snapshots", "add", "good.pth", "--architecture", "resnet10t", f"--name={name}")
    said = "cannot be a snapshot's name" if name else "--name is empty"
    assert refused.status == 2 and said in refused.err
    assert sorted(home.rglob("*.safetensors")) == before


def test_foreign_weights_of_another_network_are_refused_with_what_did_not_fit(lrbench, home):
    torch.save(create_model("resnet14t", {}, classes=7).state_dict(), home / "other.pth")
    refused = lrbench("snapshots", "add", "other.pth", "--architecture", "resnet10t")
    assert refused.status == 2 and "is not a part of it" in refused.err
    # Everything that does not fit, line by line, and not its beginning alone.
    network, theirs = (create_model(name, {}, classes=7).state_dict() for name in ("resnet10t", "resnet14t"))
    assert "--architecture" in refused.err and "pretrain" not in refused.err
    listed = refused.out.splitlines()
    assert {line.split()[0] for line in listed} >= {name for name in theirs if name not in network} and len(listed) > 40
    assert not list((home / "checkpoints").rglob("*.safetensors"))
    # What the message holds is not told twice.
    tensors = create_model("resnet10t", {}, classes=7).state_dict()
    torch.save({name: tensor for name, tensor in tensors.items() if name != "fc.weight"}, home / "other.pth")
    refused = lrbench("snapshots", "add", "other.pth", "--architecture", "resnet10t")
    assert refused.status == 2 and "fc.weight is missing" in refused.err and not refused.out


def saved(lrbench, home, content, *options, name="x"):
    torch.save(content, home / f"{name}.pth")
    return lrbench("snapshots", "add", f"{name}.pth", "--architecture", "resnet10t", *options)


def test_hints_name_what_is_not_the_networks_and_keep_its_classifier(lrbench, home):
    network = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    lightning = {f"model.{name}": each for name, each in network.items()}
    refused = saved(lrbench, home, {"state_dict": lightning | {"loss.centre": torch.ones(3)}})
    assert "fits: --prefix model." in refused.err and "--without" not in refused.err
    # The hint says what to do, so nobody needs the list of all names.
    assert refused.out == ""
    odd = {"mask_token": torch.ones(3), "layer1.extra": torch.ones(3), "projector.0.weight": torch.ones(3, 3)}
    refused = saved(lrbench, home, network | odd)
    hint = "The rest of the file fits: --without mask_token --without layer1.extra --without projector."
    assert hint in refused.err
    taken = saved(lrbench, home, network | odd, *hint.partition("fits: ")[2].split())
    assert taken.status == 0 and "3 tensors of x.pth are left out" in taken.err
    found = read_metadata(home / "checkpoints" / "foreign" / "x.safetensors")
    assert found.classes == 7
    assert found.origin == "x.pth --without mask_token --without layer1.extra --without projector."
    # A deeper network is another network, not one with something to leave out.
    deeper = saved(lrbench, home, network | {"layer1.1.conv1.weight": torch.ones(64, 64, 3, 3)}, name="deeper")
    assert deeper.status == 2 and "--without" not in deeper.err and "--architecture" in deeper.err
    # What begins otherwise is left out too, also where it is called alike.
    both = network | {f"ema.{name}": each for name, each in network.items()}
    half = saved(lrbench, home, both, "--prefix", "ema.", name="ema")
    assert half.status == 0 and f"{len(network)} tensors of ema.pth are left out (conv1." in half.err


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"fc.bias": torch.tensor(1.0)}, "does not hold the weights"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "a tensor of kind complex64"),
        ({"a": torch.ones(2).to(torch.float8_e4m3fn)}, "a tensor of kind float8_e4m3fn"),
        ({"a": torch.ones(2, 2).to_sparse()}, "float32 (sparse_coo), which lrbench does not import"),
        ({"\x1b[31mred": torch.ones(2)}, r"'\x1b[31mred', a tensor"),
    ],
)
def test_tensors_of_other_kinds_are_refused_in_words(lrbench, home, content, said):
    refused = saved(lrbench, home, content)
    assert refused.status == 2 and said in refused.err and "Unexpected error" not in refused.err


def test_numbers_that_the_network_cannot_hold_are_refused_in_words(lrbench, home):
    weights = create_model("resnet10t", {}, classes=7).state_dict()
    first = next(iter(weights))
    refused = saved(lrbench, home, weights | {first: torch.full_like(weights[first], 1e300, dtype=torch.float64)})
    assert refused.status == 2 and f"values in {first} that are too large for float32" in refused.err
    refused = saved(lrbench, home, weights | {first: torch.zeros_like(weights[first], dtype=torch.int8)})
    assert refused.status == 2 and f"holds {first} as whole numbers (int8)" in refused.err
    # Double and half precision are weights as others are, and what counts may be any number.
    counted = {name: each.float() if "num_batches" in name else each.double() for name, each in weights.items()}
    assert saved(lrbench, home, counted, name="double").status == 0


def test_what_to_do_next_is_said_as_it_can_be_typed(lrbench, home, monkeypatch):
    root = home / "a place"
    monkeypatch.setenv("LRBENCH_HOME", str(root))
    for name in ("one", "two"):
        torch.save(create_model("resnet10t", {}, classes=7).state_dict(), home / f"{name}.pth")
    added = lrbench("snapshots", "add", "one.pth", "--architecture", "resnet10t")
    assert "`lrbench transfer --snapshot foreign/one --task TASK`" in added.err
    added = lrbench("snapshots", "add", "two.pth", "one.pth", "--architecture", "resnet10t")
    (root / "checkpoints" / "foreign" / "one.safetensors").unlink()
    (root / "checkpoints" / "foreign" / "two.safetensors").unlink()
    added = lrbench("snapshots", "add", "two.pth", "one.pth", "--architecture", "resnet10t")
    assert f"--snapshots '{root}/checkpoints/foreign' --task TASK`" in added.err


def test_what_is_no_file_of_weights_is_told_by_what_it_is(lrbench, home):
    (home / "weights").mkdir()
    (home / "page.pth").write_text("\n<!DOCTYPE html>")
    (home / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1")
    # One tensor by itself is none of several sets of weights.
    network = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    assert saved(lrbench, home, {"teacher": network, "loss": {"centre": torch.ones(3)}}).status == 0
    numbered = saved(lrbench, home, {0: {"a": torch.ones(1), "b": torch.ones(1)}, 1: 2}, name="numbered")
    assert numbered.status == 2 and "does not hold the weights of resnet10t" in numbered.err
    with_path = {"model": network, "args": argparse.Namespace(data=Path("x")), "more": argparse.ArgumentParser}
    refused = saved(lrbench, home, with_path, name="y")
    assert "it holds argparse.ArgumentParser, which could run code" in refused.err
    assert saved(lrbench, home, with_path | {"more": 1}, name="y").status == 0
    for name, said in (("weights", "is a folder"), ("page.pth", "a web page"), ("pointer.pth", "git lfs pull")):
        assert said in lrbench("snapshots", "add", name, "--architecture", "resnet10t").err
    twins = lrbench("snapshots", "add", "a/ck.pth", "b/ck.pth", "--architecture", "resnet10t")
    assert twins.status == 2 and "would be called 'ck'" in twins.err


CONTENT = {
    "a web page": b"\n<!DOCTYPE html>",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(600),
    "a NumPy array": b"\x93NUMPY\x01\x00" + bytes(100),
    "a GGUF file": b"GGUF" + bytes(100),
    "compressed with gzip": b"\x1f\x8b\x08" + bytes(100),
    "a tar archive": b"x" + bytes(256) + b"ustar" + bytes(300),
    "it is empty": b"",
    "not a file that torch.save or safetensors writes": b"what I did",
}


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_file_is_told_by_its_content_and_not_by_its_name(lrbench, home, ending):
    for number, (said, content) in enumerate(CONTENT.items()):
        (home / f"{number}.{ending}").write_bytes(content)
        refused = lrbench("snapshots", "add", f"{number}.{ending}", "--architecture", "resnet10t")
        assert refused.status == 2 and said in refused.err and one_paragraph(refused.err), refused.err
    for number, (said, writes) in enumerate(
        {"a zip archive": "readme.txt", "an archive of NumPy arrays": "a.npy"}.items()
    ):
        with zipfile.ZipFile(home / f"zip{number}.{ending}", "w") as archive:
            archive.writestr(writes, "x")
        assert said in lrbench("snapshots", "add", f"zip{number}.{ending}", "--architecture", "resnet10t").err
    os.mkfifo(home / f"pipe.{ending}")
    assert "is a pipe" in lrbench("snapshots", "add", f"pipe.{ending}", "--architecture", "resnet10t").err
    network = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    torch.save(network, home / f"pickle.{ending}")
    save_file(network, home / f"plain.{ending}")
    for name in ("pickle", "plain"):
        assert lrbench("snapshots", "add", f"{name}.{ending}", "--architecture", "resnet10t").status == 0


def test_a_pickle_that_is_called_safetensors_is_not_run(lrbench, home):
    torch.save({"a": torch.zeros(1), "trap": Trap(home / "was-run")}, home / "trap.safetensors")
    refused = lrbench("snapshots", "add", "trap.safetensors", "--architecture", "resnet10t")
    assert refused.status == 2 and "which could run code" in refused.err and not (home / "was-run").exists()


def test_a_small_file_of_shared_dictionaries_is_looked_through_at_once(lrbench, home):
    level = {"a": 1}
    for _ in range(8):
        level = {f"key{number}": level for number in range(40)}
    refused = saved(lrbench, home, level)
    assert refused.status == 2 and "holds no tensors" in refused.err
    # The same set of weights in two places has two names.
    weights = create_model("resnet10t", {}, classes=7).state_dict()
    refused = saved(lrbench, home, {"model": weights, "ema": weights})
    assert refused.status == 2 and "several sets of weights: model, ema" in refused.err
    assert saved(lrbench, home, {"model": weights, "ema": weights}, "--key", "ema").status == 0


def test_an_archive_that_unpacks_to_far_more_than_it_has_is_refused(lrbench, home):
    with zipfile.ZipFile(home / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10_000_000))
    refused = lrbench("snapshots", "add", "bomb.pth", "--architecture", "resnet10t")
    assert refused.status == 2 and "unpacks to 10,000,000 bytes" in refused.err


def test_a_changed_byte_of_a_file_of_torch_is_found_by_its_checksum(lrbench, home):
    weights = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    assert saved(lrbench, home, weights).status == 0
    content = (home / "x.pth").read_bytes()
    place = content.index(weights["conv1.0.weight"].numpy().tobytes()) + 2
    (home / "changed.pth").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    refused = lrbench("snapshots", "add", "changed.pth", "--architecture", "resnet10t")
    assert refused.status == 2 and "differs from its checksum" in refused.err
    torch.serialization.set_crc32_options(False)
    try:
        assert saved(lrbench, home, weights, name="unchecked").status == 0
    finally:
        torch.serialization.set_crc32_options(True)


def test_numpy_arrays_and_other_values_are_named(lrbench, home):
    arrays = {"conv1.weight": np.zeros((2, 2), np.float32)}
    for content in (arrays, {"model": arrays}):
        refused = saved(lrbench, home, content)
        assert refused.status == 2 and "holds NumPy arrays, not tensors" in refused.err
    refused = saved(lrbench, home, {"epoch": 3, "name": "x"})
    assert "holds no tensors, so it is not a file of weights. It holds 'epoch' (int), 'name' (str)." in refused.err


def test_two_sets_of_weights_in_one_flat_file_are_both_named(lrbench, home):
    network = create_model("resnet10t", {}, classes=7).state_dict()
    flat = {f"{part}.{name}": tensor for part in ("model", "model_ema") for name, tensor in network.items()}
    refused = saved(lrbench, home, flat)
    assert (
        refused.status == 2
        and "--prefix model. selects" in refused.err
        and "--prefix model_ema. selects" in refused.err
    )
    assert saved(lrbench, home, flat, "--prefix", "model_ema.").status == 0


def torchvision_names(network):
    """timm's VGG under the names and in the shapes that torchvision gives it."""
    names = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
    renamed = {}
    for name, tensor in network.items():
        layer = name.rpartition(".")[0]
        renamed[name.replace(layer, names.get(layer, layer))] = (
            tensor.flatten(1) if tensor.ndim > 1 and layer in names else tensor
        )
    return renamed


def test_weights_that_timm_itself_converts_are_taken_in(lrbench, home):
    network = create_model("vgg11", {}, classes=3, seed=1).state_dict()
    torch.save(torchvision_names(network), home / "vgg.pth")
    taken = lrbench("snapshots", "add", "vgg.pth", "--architecture", "vgg11", "--json")
    assert taken.status == 0, taken.err
    record = json.loads(taken.out)
    assert record["converted"] and record["left_out"] == []
    loaded = load_snapshot(resolve_reference("foreign/vgg", Workspace(root=home)))
    assert loaded.metadata.classes == 3
    assert all(torch.equal(tensor, network[name]) for name, tensor in loaded.model.state_dict().items())


def test_facebooks_convnext_is_taken_in_and_what_is_left_out_is_named(lrbench, home):
    arguments = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
    network = create_model("convnext_atto", arguments, classes=3, seed=1).state_dict()
    theirs = {facebooks_name(name): tensor.flatten(1) if "mlp" in name and tensor.ndim > 1 else tensor
              for name, tensor in network.items()}  # fmt: skip
    torch.save({"model": theirs | {"projectors.a": torch.ones(2)}}, home / "facebook.pth")
    options = [word for key, value in arguments.items() for word in ("--argument", f"{key}={value}")]
    taken = lrbench("snapshots", "add", "facebook.pth", "--architecture", "convnext_atto", *options)
    assert taken.status == 0, taken.err
    assert "converted to timm's" in taken.err and "1 tensors of facebook.pth are left out (projectors.a)" in taken.err
    loaded = load_snapshot(resolve_reference("foreign/facebook", Workspace(root=home))).model.state_dict()
    assert all(torch.equal(tensor, network[name]) for name, tensor in loaded.items())
    # A tensor that is missing after the conversion is missing.
    del theirs["norm.weight"]
    torch.save(theirs, home / "less.pth")
    refused = lrbench("snapshots", "add", "less.pth", "--architecture", "convnext_atto", *options)
    assert refused.status == 2 and "Its names look like those of Facebook's ConvNeXt (downsample_layers" in refused.err


def facebooks_name(name):
    for ours, theirs in (
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2"),
        (r"^stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2"),
        ("conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    ):
        name = re.sub(ours, theirs, name)
    return name


def test_position_embeddings_of_another_size_are_not_resized(lrbench, home):
    arguments = {"img_size": 64, "depth": 1}
    torch.save(create_model("vit_tiny_patch16_224", arguments, classes=3).state_dict(), home / "small.pth")
    command = ("snapshots", "add", "small.pth", "--architecture", "vit_tiny_patch16_224", "--argument", "depth=1")
    refused = lrbench(*command)
    assert refused.status == 2 and "pos_embed has shape [1, 17, 192] instead of [1, 197, 192]" in refused.err


def test_what_a_network_takes_is_tried_before_it_is_taken_in(lrbench, home):
    torch.save(create_model("resnet10t", {"in_chans": 1}, classes=3).state_dict(), home / "grey.pth")
    refused = lrbench("snapshots", "add", "grey.pth", "--architecture", "resnet10t", "--argument", "in_chans=1")
    assert refused.status == 2 and "3 channels" in refused.err and "Correct --argument." in refused.err
    torch.save(create_model("vit_tiny_patch16_224", {"depth": 1}, classes=3).state_dict(), home / "vit.pth")
    command = ("snapshots", "add", "vit.pth", "--architecture", "vit_tiny_patch16_224", "--argument", "depth=1")
    refused = lrbench(*command, "--input", "size=32")
    assert refused.status == 2 and "Correct --input size or --argument." in refused.err
    assert lrbench(*command).status == 0


def test_what_a_file_is_called_without_its_ending():
    assert [_stem(Path(name)) for name in ("model.v2.pth", "a/checkpoint-29.pth.tar", "x.safetensors", "plain")] == [
        "model.v2", "checkpoint-29", "x", "plain",
    ]  # fmt: skip


def test_no_snapshot_is_called_as_anothers_statistics_are(lrbench, home):
    network, other = (create_model("resnet10t", {}, classes=7, seed=seed).state_dict() for seed in (1, 2))
    assert saved(lrbench, home, network, name="r").status == 0
    for name in ("r.bn", "r.BN"):
        refused = saved(lrbench, home, other, name=name)
        assert refused.status == 2 and "BatchNorm statistics of r. Give another with --name" in refused.err
    assert saved(lrbench, home, other, "--name", "r-bn", name="r.bn").status == 0
    # One that lies there all the same is not loaded in the place of the snapshot's weights.
    folder = home / "checkpoints" / "foreign"
    stray = folder / "r.bn.safetensors"
    stray.write_bytes((folder / "r-bn.safetensors").read_bytes())
    command = ("transfer", "--snapshot", "foreign/r", "--task", "tiny-objects", "--protocol", "knn")
    refused = lrbench(*command)
    assert refused.status == 2 and "which is not a running statistic" in refused.err and one_paragraph(refused.err)
    save_file({name: each for name, each in other.items() if name.endswith("running_mean")}, stray)
    refused = lrbench(*command)
    assert refused.status == 2 and "r.safetensors was written without BatchNorm statistics. Move it" in refused.err
    assert lrbench("snapshots", "verify", "foreign/r").status == 1
    stray.unlink()
    assert lrbench(*command).status == 0


def test_weights_from_before_torch_counted_batches_are_taken_in(lrbench, home):
    network = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    old = {name: each for name, each in network.items() if "num_batches" not in name}
    taken = saved(lrbench, home, old, name="old")
    assert taken.status == 0, taken.err
    layers = len(network) - len(old)
    assert f"old.pth lacks num_batches_tracked of {layers} BatchNorm layers" in taken.err and "set to 0" in taken.err
    loaded = load_snapshot(resolve_reference("foreign/old", Workspace(root=home))).model.state_dict()
    assert all(torch.equal(loaded[name], old.get(name, torch.tensor(0))) for name in network)
    # Part of a checkpoint is found as otherwise.
    assert (
        "--prefix model." in saved(lrbench, home, {f"model.{name}": each for name, each in old.items()}, name="a").err
    )
    # A layer that lacks more than its count is told whole.
    mean = next(name for name in old if name.endswith("running_mean"))
    refused = saved(lrbench, home, {name: each for name, each in old.items() if name != mean}, name="b")
    assert refused.status == 2 and f"{mean} is missing" in refused.err
    assert f"{mean.replace('running_mean', 'num_batches_tracked')} is missing" in refused.err
    assert "2 more" not in refused.err


def test_the_input_that_was_assumed_is_said(lrbench, home):
    network = create_model("resnet10t", {}, classes=7, seed=3).state_dict()
    said = [
        line for line in saved(lrbench, home, network, name="a").err.splitlines() if line.startswith("input assumed")
    ]
    assert (
        len(said) == 1
        and "from timm's configuration of resnet10t: size=176, crop_fraction=0.875, interpolation=bicubic" in said[0]
    )
    assert (
        "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], crop_mode=center; " in said[0]
        and "--input 'mean=" in said[0]
    )
    some = ("--input", "mean=[0.5, 0.5, 0.5]", "--input", "size=64")
    half = saved(lrbench, home, network, *some, name="b").err
    assert "resnet10t: crop_fraction=0.875, interpolation=bicubic, std=[0.229, 0.224, 0.225], crop_mode=center;" in half
    rest = ("crop_fraction=1.0", "interpolation=bilinear", "std=[0.5, 0.5, 0.5]", "crop_mode=center")
    every = (*some, *(word for each in rest for word in ("--input", each)))
    assert "input assumed" not in saved(lrbench, home, network, *every, name="c").err
    record = json.loads(saved(lrbench, home, network, *some, "--json", name="d").out)
    assert record["snapshot"] == "foreign/d" and record["input"]["mean"] == [0.5] * 3 and record["input"]["size"] == 64
    assert record["input_assumed"] == ["crop_fraction", "interpolation", "std", "crop_mode"]
    torch.save(network, home / "e.pth")
    several = lrbench("snapshots", "add", "e.pth", "nothing.pth", "--architecture", "resnet10t", "--json")
    assert several.status == 2 and [each["snapshot"] for each in json.loads(several.out)] == ["foreign/e"]
