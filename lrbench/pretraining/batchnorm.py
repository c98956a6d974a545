"""BatchNorm statistics: re-estimation at a boundary, and the number of images that share them in training.

Running statistics are an exponential average over the last few dozen batches of changing weights; at a large learning rate
they are noise. Every transfer of a suite's snapshot starts from re-estimated statistics instead.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import nn

from lrbench.config import Suite
from lrbench.config.schedule import Segment
from lrbench.core.distributed import ProcessGroup
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_bytes
from lrbench.core.seeds import generator
from lrbench.data.pixels import Pixels
from lrbench.data.prefetch import prefetch, prefetch_threads
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import batchnorm_layers
from lrbench.pretraining.state import Progress

# Images in one forward pass; fixed, because the estimate depends on it a little.
_BATCH = 256


def reestimate(
    model: nn.Module, pixels: Pixels, normalise: InputNormalisation, *, images: int, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Estimate running means and variances on a sample of training images with the evaluation transform.

    The estimate is the plain mean over batches of each batch's mean and unbiased variance (cumulative averaging, as in
    `torch.optim.swa_utils.update_bn`). Only BatchNorm layers are in training mode; the model's state is unchanged.

    Args:
        model: The network.
        pixels: The source's training images.
        normalise: Turns images into inputs.
        images: Size of the sample; all images if there are fewer.
        seed: Seed of the sample.

    Returns:
        The statistics by name in the state dict (empty without BatchNorm layers), and a record of the sample.
    """
    layers = batchnorm_layers(model)
    if not layers:
        return {}, {}
    chosen = np.sort(generator(seed, "batchnorm").permutation(len(pixels))[:images])
    # Shuffled, so that a batch does not consist of a few classes.
    order = chosen[generator(seed, "batchnorm order").permutation(len(chosen))]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    momenta = {name: layer.momentum for name, layer in layers.items()}
    model.eval()
    for layer in layers.values():
        layer.reset_running_stats()
        layer.train()
    parts = np.array_split(order, max(1, round(len(order) / _BATCH)))

    def images_of(number: int) -> tuple[torch.Tensor]:
        return (torch.from_numpy(pixels.evaluation(parts[number])),)

    device = normalise.device
    batches = prefetch(images_of, 0, len(parts), threads=prefetch_threads(device), pin=device.type == "cuda")
    with torch.inference_mode(), closing(batches) as fed:
        for number, (shown,) in enumerate(fed, start=1):
            # The plain mean. `momentum = None` would do the same, but synchronises a GPU for each layer.
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


def images_per_statistics(
    suite: Suite,
    trained: Segment,
    start: Progress,
    model: nn.Module,
    ranks: ProcessGroup,
    say: Callable[[str], None],
    *,
    batch: int,
) -> int | None:
    """Return the number of images that share BatchNorm statistics during a segment.

    The suite's `training.micro_batch` decides, else the training that the segment continues, else each process's share of
    the batch.

    Args:
        suite: The suite.
        trained: The segment.
        start: The state it starts from.
        model: The network.
        ranks: The processes that train together.
        say: Called with a warning where the number changes during training.
        batch: Images per update of the segment.

    Returns:
        The number; None without BatchNorm layers, and for the initialisation.

    Raises:
        InputError: These processes cannot use that number, or it is 1.
    """
    share, micro_batch = batch // ranks.world_size, suite.training.micro_batch
    if trained.derived:
        return start.batchnorm_shared
    if not batchnorm_layers(model):
        return None
    images = micro_batch or start.batchnorm_shared or share
    if images == 1:
        cause = "training.micro_batch is 1" if micro_batch else f"{ranks.world_size} processes share a batch of {batch}"
        raise InputError(
            f"{trained.key} cannot compute BatchNorm statistics of one image, which has no variance: {cause}. Give each "
            "process micro-batches of at least two images."
        )
    if share % images:
        cause = "training.micro_batch says" if micro_batch else f"{trained.parent} was trained"
        raise InputError(
            f"{trained.key} needs micro-batches of {images} images, as {cause}, but each of {ranks.world_size} processes has "
            f"{share} images, which is not a multiple. Start a number of processes that gives each a multiple of {images} "
            f"images, or change the training: --set training.micro_batch={share}."
        )
    if trained.parent is None:
        return None
    if start.batchnorm_shared not in (None, images) and ranks.is_main:
        say(
            f"{trained.key}: training.micro_batch changes the images that share BatchNorm statistics from "
            f"{start.batchnorm_shared} to {images}."
        )
    return images
