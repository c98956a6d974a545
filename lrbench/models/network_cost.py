"""Cost of a network's features: parameters, and multiply-adds for one image."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from lrbench.core.files import canonical_json
from lrbench.models.networks import create_model, penultimate
from lrbench.models.published import published_classes
from lrbench.models.timm_configuration import input_of
from lrbench.store.references import PretrainedWeights, PythonModel, Reference, snapshot_file
from lrbench.store.snapshots import read_metadata


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """Cost of a network without its classifier, which a transfer replaces.

    Attributes:
        parameters: Number of parameters.
        multiply_adds: Multiply-adds of convolutions and matrix products, for the features of one image; None if they cannot be
            counted.
    """

    parameters: int
    multiply_adds: int | None


def skeleton_cost(reference: Reference) -> NetworkCost | None:
    """Return the cost of a reference's network, which is built without weights; None if only its weights define the network.

    Raises:
        InputError: The snapshot is missing or damaged, or its network cannot be built.
    """
    if isinstance(reference, PretrainedWeights) and reference.source == "timm":
        return _skeleton_cost(reference.name, "{}", published_classes(reference.name), None)
    if isinstance(reference, PretrainedWeights | PythonModel):
        return None
    metadata = read_metadata(snapshot_file(reference))
    arguments = canonical_json(metadata.arguments)
    return _skeleton_cost(metadata.architecture, arguments, metadata.classes, metadata.input.size)


# Snapshots of one suite have the same network.
@lru_cache(maxsize=256)
def _skeleton_cost(architecture: str, arguments: str, classes: int, size: int | None) -> NetworkCost:
    with torch.device("meta"):
        model = create_model(architecture, json.loads(arguments), classes=classes)
    return measure_cost(model, input_of(model).size if size is None else size)


def measure_cost(model: nn.Module, size: int) -> NetworkCost:
    """Return the cost of a network.

    Args:
        model: The network, on any device, `meta` included.
        size: Side of the square input in pixels.
    """
    from torch.utils.flop_counter import FlopCounterMode

    classifier = {id(parameter) for parameter in _classifier_parameters(model)}
    parameters = [parameter for parameter in model.parameters() if id(parameter) not in classifier]
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    training, counter = model.training, FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            penultimate(model.eval(), torch.zeros(1, 3, size, size, device=device))
        # The counter counts multiplications and additions separately.
        multiply_adds = int(counter.get_total_flops()) // 2
    except Exception:
        # Operations of other libraries may have no counter, and features of a user's may have no such device.
        multiply_adds = 0
    model.train(training)
    return NetworkCost(
        parameters=sum(parameter.numel() for parameter in parameters), multiply_adds=multiply_adds or None
    )


def _classifier_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of timm's classifier; none for other networks, whose classifier is removed already."""
    get = getattr(model, "get_classifier", None)
    if get is None:
        return []
    # Distilled networks have two.
    classifier: Any = get()
    modules = classifier if isinstance(classifier, tuple | list) else [classifier]
    return [parameter for module in modules if isinstance(module, nn.Module) for parameter in module.parameters()]
