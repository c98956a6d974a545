"""Names of other libraries, converted by timm."""

import json
import re

import torch

from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import create_model
from lrbench.store.references import resolve_reference


def test_torchvision_names_are_converted(lrbench, home):
    arguments = {"block_config": [1, 1, 1, 1], "growth_rate": 4}
    network = create_model("densenet121", arguments, classes=3, seed=1).state_dict()
    # torchvision's files have `denselayer1.norm.1` instead of `denselayer1.norm1`, and no counts of batches.
    theirs = {
        re.sub(r"(denselayer\d\.(norm|conv))(\d)", r"\1.\3", name): tensor
        for name, tensor in network.items()
        if not name.endswith("num_batches_tracked")
    }
    assert theirs.keys() != network.keys()
    torch.save(theirs, home / "dense.pth")
    added = lrbench("snapshots", "add", "dense.pth", "--architecture", "densenet121", *options(arguments), "--json")
    assert added.status == 0, added.err
    record = json.loads(added.out)
    assert record["converted"] and record["left_out"] == []
    loaded = load_snapshot(resolve_reference("foreign/dense", Workspace(root=home)))
    assert loaded.metadata.classes == 3
    assert all(torch.equal(tensor, network[name]) for name, tensor in loaded.model.state_dict().items())


def options(arguments):
    """Return the options of `snapshots add` for arguments of a network."""
    return [word for key, value in arguments.items() for word in ("--argument", f"{key}={value}")]


def test_facebook_convnext_names_are_converted(lrbench, home):
    arguments = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
    network = create_model("convnext_atto", arguments, classes=3, seed=1).state_dict()
    theirs = {facebooks_name(name): tensor.flatten(1) if "mlp" in name and tensor.ndim > 1 else tensor
              for name, tensor in network.items()}  # fmt: skip
    torch.save({"model": theirs | {"projectors.a": torch.ones(2)}}, home / "facebook.pth")
    added = lrbench("snapshots", "add", "facebook.pth", "--architecture", "convnext_atto", *options(arguments))
    assert added.status == 0, added.err
    assert "converted to timm's" in added.err and "1 tensors of facebook.pth are left out (projectors.a)" in added.err
    loaded = load_snapshot(resolve_reference("foreign/facebook", Workspace(root=home))).model.state_dict()
    assert all(torch.equal(tensor, network[name]) for name, tensor in loaded.items())
    # A tensor that is missing after the conversion is missing.
    del theirs["norm.weight"]
    torch.save(theirs, home / "less.pth")
    refused = lrbench("snapshots", "add", "less.pth", "--architecture", "convnext_atto", *options(arguments))
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
