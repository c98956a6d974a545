"""Helpers of the tests of foreign weights."""

import torch


def save_and_add(lrbench, home, content, *options, name="x", architecture="test_resnet"):
    torch.save(content, home / f"{name}.pth")
    return lrbench("snapshots", "add", f"{name}.pth", "--architecture", architecture, *options)
