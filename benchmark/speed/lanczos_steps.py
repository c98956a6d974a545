"""Accuracy of the largest eigenvalue of the Hessian after each product: lanczos_steps.py {initial,trained} [IMAGES] [STEPS].

Lanczos iterations with full orthogonalisation need the fewest products of all methods that know the Hessian by products only.
A ResNet-18 with 11 million parameters sees images of 64 px: noise with its initial weights, or `ps10-k4` after 60 updates.
"""

import sys

import numpy as np
import torch
from torch import nn

from lrbench.config import load_task
from lrbench.config.files import SyntheticFiles
from lrbench.data.synthetic.generator import Request
from lrbench.data.synthetic.ps10 import PS10
from lrbench.models.devices import pick_device, to_device
from lrbench.models.networks import create_model
from lrbench.pretraining.curvature import _hessian_product

_SIZE, _CLASSES, _BATCH, _UPDATES, _TRAINING_IMAGES = 64, 10, 32, 60, 256
_PIECE = 64


def _train(model, inputs, labels, draw):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    model.train()
    for _ in range(_UPDATES):
        chosen = torch.randperm(len(labels), generator=draw)[:_BATCH].to(labels.device)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        optimiser.step()


def main(kind="initial", images=64, steps=20):
    """Print the largest Ritz value after each product, its residual, and the second one."""
    torch.set_num_threads(1)
    device, draw = pick_device(), torch.Generator().manual_seed(0)
    model = to_device(create_model("resnet18", {}, classes=_CLASSES, seed=0), device)
    if kind == "trained":
        files = load_task("ps10-k4").files
        assert isinstance(files, SyntheticFiles)
        options = PS10.complete(files.options, "ps10-k4")
        request = Request(seed=files.seed, split="train", count=_TRAINING_IMAGES, size=_SIZE, options=options)
        rendered = PS10.render(request)
        inputs = ((torch.from_numpy(rendered.pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).to(device)
        labels = torch.from_numpy(rendered.labels).to(device)
        _train(model, inputs.contiguous(memory_format=torch.channels_last), labels, draw)
    else:
        inputs = torch.randn(images, 3, _SIZE, _SIZE, generator=draw).to(device)
        labels = torch.randint(0, _CLASSES, (images,), generator=draw).to(device)
    model.eval()
    sample = inputs[:images].contiguous(memory_format=torch.channels_last), labels[:images]
    pieces = list(zip(*(part.split(_PIECE) for part in sample), strict=True))
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    start = torch.from_numpy(np.random.default_rng(0).normal(size=count)).float().to(device)
    basis, diagonal, beside = [start / start.norm()], [], []
    for step in range(1, steps + 1):
        product = _hessian_product(model, parameters, pieces, basis[-1])
        diagonal.append(float(basis[-1] @ product))
        # Twice, because once leaves rounding errors.
        for vector in (*basis, *basis):
            product -= (vector @ product) * vector
        beside.append(float(product.norm()))
        basis.append(product / product.norm())
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
        residual = beside[-1] * abs(vectors[-1, -1]) / abs(values[-1])
        second = f"{values[-2]:.5g}" if step > 1 else "-"
        print(f"{step:3} {values[-1]:.6g}, relative residual {residual:.2g}, second {second}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
