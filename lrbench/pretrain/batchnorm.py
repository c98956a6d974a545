"""BatchNorm's running statistics, estimated once at a boundary.

The running statistics of the instant are an exponential average over the last few dozen batches of moving weights; at a
large learning rate they are noise. Every transfer of a suite's snapshot starts from the statistics made here instead.
"""

from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import nn

from lrbench.core.files import sha256_bytes
from lrbench.core.seeds import generator
from lrbench.data.pixels import Pixels
from lrbench.data.prefetch import prefetch, prefetch_threads
from lrbench.models.networks import InputNormalisation, batchnorm_layers

# Images that share statistics in one forward pass; fixed, because the estimate depends on it a little.
_BATCH = 256


def reestimate(
    model: nn.Module, pixels: Pixels, normalise: InputNormalisation, *, images: int, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Estimate running means and variances on a sample of training images with the evaluation transform.

    The estimate is the plain mean over batches of each batch's mean and unbiased variance (cumulative averaging, as
    `torch.optim.swa_utils.update_bn` does it). Only BatchNorm layers are in training mode. The model's own statistics are
    left as they were.

    Args:
        model: Its weights stay as they are.
        pixels: The source's training images.
        normalise: Turns images into inputs.
        images: Size of the sample; all images where there are fewer.
        seed: Keys the sample.

    Returns:
        The statistics by name in the state dict (empty without BatchNorm layers), and a record of the sample.
    """
    layers = batchnorm_layers(model)
    if not layers:
        return {}, {}
    chosen = np.sort(generator(seed, "batchnorm").permutation(len(pixels))[:images])
    # Shuffled once more, so that a batch does not hold the images of a few classes; halves of nearly equal size.
    order = chosen[generator(seed, "batchnorm order").permutation(len(chosen))]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    momenta = {name: layer.momentum for name, layer in layers.items()}
    model.eval()
    for layer in layers.values():
        layer.reset_running_stats()
        layer.train()
    parts = np.array_split(order, max(1, round(len(order) / _BATCH)))

    def images_of(number: int) -> tuple[torch.Tensor]:
        return (torch.from_numpy(np.array(pixels.evaluation(parts[number]))),)

    device = normalise.device
    batches = prefetch(images_of, 0, len(parts), threads=prefetch_threads(device), pin=device.type == "cuda")
    with torch.inference_mode(), closing(batches) as fed:
        for number, (shown,) in enumerate(fed, start=1):
            # The plain mean so far. Layers without a momentum count for themselves, on a GPU with a look at their count each.
            for layer in layers.values():
                layer.momentum = 1.0 / number
            model(normalise(shown))
    statistics = {
        name: tensor.detach().cpu().clone()
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[0] in layers and name.rpartition(".")[2] in {"running_mean", "running_var"}
    }
    for name, layer in layers.items():
        layer.momentum = momenta[name]
    model.eval()
    model.load_state_dict(before)
    record = {
        "split": "train",
        "images": len(chosen),
        "batch": _BATCH,
        "indices_sha256": sha256_bytes(chosen.astype("<i8").tobytes()),
    }
    return statistics, record
