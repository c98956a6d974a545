"""Foreign files: formats, sets of weights, and files that could run code."""

import argparse
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import create_model
from lrbench.store.references import resolve_reference
from tests.helpers import Trap, one_paragraph
from tests.models.helpers import save_and_add


def test_key_selects_one_of_several_sets(lrbench, home):
    raw, average = (create_model("test_resnet", {}, classes=7, seed=seed).state_dict() for seed in (1, 2))
    optimiser = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(
        {"state_dict": raw, "state_dict_ema": average, "optimizer": optimiser, "loss": torch.tensor(1.0)}, "two.pth"
    )
    command = ("snapshots", "add", "two.pth", "--architecture", "test_resnet")
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
        in lrbench("snapshots", "add", "empty.pth", "--architecture", "test_resnet").err
    )


def test_training_checkpoint_with_options_is_imported(lrbench, home):
    weights = create_model("test_resnet", {}, classes=7, seed=3).state_dict()
    content = {"arch": "test_resnet", "epoch": 29, "state_dict": weights, "args": argparse.Namespace(lr=0.1, data="x")}
    torch.save(content, home / "checkpoint-29.pth.tar")
    added = lrbench("snapshots", "add", "checkpoint-29.pth.tar", "--architecture", "test_resnet")
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
    assert lrbench("snapshots", "add", "numbers.pth", "--architecture", "test_resnet").status == 0
    torch.save(content | {"args": argparse.Namespace(trap=Trap(home / "was-run"))}, home / "trap.pth")
    refused = lrbench("snapshots", "add", "trap.pth", "--architecture", "test_resnet")
    assert refused.status == 2 and not (home / "was-run").exists()


@pytest.mark.parametrize("wrappers", ["_orig_mod.module.", "module._orig_mod.", "module.module._orig_mod."])
def test_wrapper_prefixes_are_removed(lrbench, home, wrappers):
    network = create_model("test_resnet", {}, classes=7, seed=3).state_dict()
    added = save_and_add(lrbench, home, {f"{wrappers}{name}": tensor for name, tensor in network.items()})
    assert added.status == 0, added.err


def test_nested_sets_are_named_by_their_keys(lrbench, home):
    network, other = (create_model("test_resnet", {}, classes=7, seed=seed).state_dict() for seed in (1, 2))
    slots = {"momentum_buffer": torch.ones(2), "square": torch.ones(2)}
    optimiser = {"state": {0: slots, 1: slots}}
    assert save_and_add(lrbench, home, {"model": {"state_dict": network}, "optimizer": optimiser}, name="a").status == 0
    named = {"state": {"conv1.weight": slots}}
    assert save_and_add(lrbench, home, {"model": {"state_dict": network}, "optim": named}, name="b").status == 0
    deep = {
        "base_model": {"model": {"trunk": network, "heads": {}}},
        "loss": {"centre": torch.ones(1)},
        "optimizer": optimiser,
    }
    added = save_and_add(lrbench, home, {"classy_state_dict": deep}, name="deep")
    assert added.status == 0, added.err
    two = {"ema": {"model": other}, "model": {"state_dict": network}, "epoch": torch.tensor(3)}
    refused = save_and_add(lrbench, home, two, name="two")
    assert (
        refused.status == 2
        and "several sets of weights: ema.model, model.state_dict. Choose one with --key" in refused.err
    )
    for wrong in ("ema", "model", "state_dict", "model.state_dict.", "epoch"):
        refused = save_and_add(lrbench, home, two, "--key", wrong, name="two")
        assert refused.status == 2 and f"no weights under the key {wrong!r}; it holds ema.model" in refused.err
    assert save_and_add(lrbench, home, two, "--key", "ema.model", name="two").status == 0
    loaded = load_snapshot(resolve_reference("foreign/two", Workspace(root=home)))
    assert torch.equal(loaded.model.state_dict()["conv1.0.weight"], other["conv1.0.weight"])
    # Tensors next to the weights of a whole network are ignored unless --key names them.
    beside = network | {"extra": {"shadow": {"a": torch.ones(1), "b": torch.ones(1)}}}
    assert save_and_add(lrbench, home, beside, name="beside").status == 0
    assert "does not hold the weights" in save_and_add(lrbench, home, beside, "--key", "extra.shadow", name="c").err
    # Two keys with the same spelling are ambiguous.
    alike = save_and_add(lrbench, home, {"a.b": network, "a": {"b": other}}, name="alike")
    assert alike.status == 2 and "two sets of weights under 'a.b'" in alike.err


def test_pickle_that_runs_code_is_refused(lrbench, home):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "trap": Trap(home / "was-run")}, home / "trap.pth")
    refused = lrbench("snapshots", "add", "trap.pth", "--architecture", "test_resnet")
    assert refused.status == 2 and "Nothing in it was run" in refused.err
    assert not (home / "was-run").exists()


def test_other_files_are_described(lrbench, home):
    (home / "weights").mkdir()
    (home / "page.pth").write_text("\n<!DOCTYPE html>")
    (home / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1")
    # One tensor by itself is none of several sets of weights.
    network = create_model("test_resnet", {}, classes=7, seed=3).state_dict()
    assert save_and_add(lrbench, home, {"teacher": network, "loss": {"centre": torch.ones(3)}}).status == 0
    numbered = save_and_add(lrbench, home, {0: {"a": torch.ones(1), "b": torch.ones(1)}, 1: 2}, name="numbered")
    assert numbered.status == 2 and "does not hold the weights of test_resnet" in numbered.err
    with_path = {"model": network, "args": argparse.Namespace(data=Path("x")), "more": argparse.ArgumentParser}
    refused = save_and_add(lrbench, home, with_path, name="y")
    assert "it holds argparse.ArgumentParser, which could run code" in refused.err
    assert save_and_add(lrbench, home, with_path | {"more": 1}, name="y").status == 0
    for name, message in (("weights", "is a folder"), ("page.pth", "a web page"), ("pointer.pth", "git lfs pull")):
        assert message in lrbench("snapshots", "add", name, "--architecture", "test_resnet").err
    twins = lrbench("snapshots", "add", "a/ck.pth", "b/ck.pth", "--architecture", "test_resnet")
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
def test_format_is_detected_by_content(lrbench, home, ending):
    for number, (message, content) in enumerate(CONTENT.items()):
        (home / f"{number}.{ending}").write_bytes(content)
        refused = lrbench("snapshots", "add", f"{number}.{ending}", "--architecture", "test_resnet")
        assert refused.status == 2 and message in refused.err and one_paragraph(refused.err), refused.err
    for number, (message, writes) in enumerate(
        {"a zip archive": "readme.txt", "an archive of NumPy arrays": "a.npy"}.items()
    ):
        with zipfile.ZipFile(home / f"zip{number}.{ending}", "w") as archive:
            archive.writestr(writes, "x")
        assert message in lrbench("snapshots", "add", f"zip{number}.{ending}", "--architecture", "test_resnet").err
    os.mkfifo(home / f"pipe.{ending}")
    assert "is a pipe" in lrbench("snapshots", "add", f"pipe.{ending}", "--architecture", "test_resnet").err
    network = create_model("test_resnet", {}, classes=7, seed=3).state_dict()
    torch.save(network, home / f"pickle.{ending}")
    save_file(network, home / f"plain.{ending}")
    for name in ("pickle", "plain"):
        assert lrbench("snapshots", "add", f"{name}.{ending}", "--architecture", "test_resnet").status == 0


def test_pickle_named_safetensors_is_not_run(lrbench, home):
    torch.save({"a": torch.zeros(1), "trap": Trap(home / "was-run")}, home / "trap.safetensors")
    refused = lrbench("snapshots", "add", "trap.safetensors", "--architecture", "test_resnet")
    assert refused.status == 2 and "which could run code" in refused.err and not (home / "was-run").exists()


def test_shared_dictionaries_are_visited_once(lrbench, home):
    level = {"a": 1}
    for _ in range(8):
        level = {f"key{number}": level for number in range(40)}
    refused = save_and_add(lrbench, home, level)
    assert refused.status == 2 and "holds no tensors" in refused.err
    # The same set of weights in two places has two names.
    weights = create_model("test_resnet", {}, classes=7).state_dict()
    refused = save_and_add(lrbench, home, {"model": weights, "ema": weights})
    assert refused.status == 2 and "several sets of weights: model, ema" in refused.err
    assert save_and_add(lrbench, home, {"model": weights, "ema": weights}, "--key", "ema").status == 0


def test_zip_bomb_is_refused(lrbench, home):
    with zipfile.ZipFile(home / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10_000_000))
    refused = lrbench("snapshots", "add", "bomb.pth", "--architecture", "test_resnet")
    assert refused.status == 2 and "unpacks to 10,000,000 bytes" in refused.err


def test_changed_byte_is_found_by_checksum(lrbench, home):
    weights = create_model("test_resnet", {}, classes=7, seed=3).state_dict()
    assert save_and_add(lrbench, home, weights).status == 0
    content = (home / "x.pth").read_bytes()
    place = content.index(weights["conv1.0.weight"].numpy().tobytes()) + 2
    (home / "changed.pth").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    refused = lrbench("snapshots", "add", "changed.pth", "--architecture", "test_resnet")
    assert refused.status == 2 and "differs from its checksum" in refused.err
    torch.serialization.set_crc32_options(False)
    try:
        assert save_and_add(lrbench, home, weights, name="unchecked").status == 0
    finally:
        torch.serialization.set_crc32_options(True)


def test_numpy_arrays_and_other_values_are_named(lrbench, home):
    arrays = {"conv1.weight": np.zeros((2, 2), np.float32)}
    for content in (arrays, {"model": arrays}):
        refused = save_and_add(lrbench, home, content)
        assert refused.status == 2 and "holds NumPy arrays, not tensors" in refused.err
    refused = save_and_add(lrbench, home, {"epoch": 3, "name": "x"})
    assert "holds no tensors, so it is not a file of weights. It holds 'epoch' (int), 'name' (str)." in refused.err


def test_two_sets_in_a_flat_file_are_named(lrbench, home):
    network = create_model("test_resnet", {}, classes=7).state_dict()
    flat = {f"{part}.{name}": tensor for part in ("model", "model_ema") for name, tensor in network.items()}
    refused = save_and_add(lrbench, home, flat)
    assert (
        refused.status == 2
        and "--prefix model. selects" in refused.err
        and "--prefix model_ema. selects" in refused.err
    )
    assert save_and_add(lrbench, home, flat, "--prefix", "model_ema.").status == 0
