"""Folding of BatchNorm layers into convolutions, which makes inference faster and changes only how its numbers are rounded."""

import copy
from collections import Counter

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lrbench.models.modules import FeatureNetwork
from lrbench.models.networks import batchnorm_layers


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a network that gives the same features and scores, with BatchNorm layers folded into convolutions.

    A layer is folded if all that it receives is the output of one convolution that nothing else receives. The products of
    statistics and weights are computed in float64.

    Args:
        model: The network in evaluation mode. It is not changed.

    Returns:
        A copy of the network without these layers; the network itself if there are none. Intermediate features between a
        convolution and its BatchNorm layer are not those of the network.
    """
    # A user's module may do anything when it is traced.
    is_traceable = bool(batchnorm_layers(model)) and not isinstance(model, FeatureNetwork)
    pairs = _pairs(model) if is_traceable else []
    if not pairs:
        return model
    folded = copy.deepcopy(model).requires_grad_(False)
    for convolution_name, batchnorm_name in pairs:
        batchnorm = folded.get_submodule(batchnorm_name)
        _fold(folded.get_submodule(convolution_name), batchnorm)
        parent, _, attribute = batchnorm_name.rpartition(".")
        # timm's BatchNormAct2d has the parts `drop` and `act`.
        setattr(folded.get_submodule(parent), attribute, nn.Sequential(*batchnorm.children()))
    return folded


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the BatchNorm layers that receive only their outputs."""
    from timm.layers.norm_act import BatchNormAct2d

    batchnorm_types = (nn.BatchNorm2d, BatchNormAct2d)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return type(module) in batchnorm_types or super().is_leaf_module(module, name)

    def called(node: torch.fx.Node, *types: type[nn.Module]) -> bool:
        """Return whether a step is the only call of a layer of one of these types that nothing else changes."""
        if node.op != "call_module" or calls[node.target] > 1:
            return False
        module = model.get_submodule(str(node.target))
        return type(module) in types and not module._forward_hooks and not module._forward_pre_hooks

    try:
        graph = Tracer().trace(model)
    except Exception:
        # Networks whose steps depend on their input cannot be traced.
        return []
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if not called(node, *batchnorm_types):
            continue
        (source,) = node.all_input_nodes
        if called(source, nn.Conv2d) and len(source.users) == 1:
            batchnorm = model.get_submodule(node.target)
            if batchnorm.affine and batchnorm.track_running_stats:
                pairs.append((str(source.target), str(node.target)))
    return pairs


def _fold(convolution: nn.Module, batchnorm: nn.Module) -> None:
    """Fold a BatchNorm2d into the Conv2d before it, in place."""
    assert isinstance(convolution, nn.Conv2d) and isinstance(batchnorm, nn.BatchNorm2d)
    assert batchnorm.running_mean is not None and batchnorm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.double(),
        None if convolution.bias is None else convolution.bias.double(),
        batchnorm.running_mean.double(),
        batchnorm.running_var.double(),
        batchnorm.eps,
        batchnorm.weight.double(),
        batchnorm.bias.double(),
    )
    # Other layers may share the former parameters.
    dtype = convolution.weight.dtype
    convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
