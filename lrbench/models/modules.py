"""Networks of any library: a PyTorch module whose features and input are known, as a snapshot."""

import copy
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrbench.config.loading import validate
from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.models.timm_configuration import input_of
from lrbench.store.references import PythonModel
from lrbench.store.snapshots import SnapshotMetadata

ReadFeatures = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A PyTorch module and what lrbench must know of it.

    Attributes:
        module: The network. It is copied, never changed.
        features: Function of the module and a batch of inputs, shape `(B, 3, S, S)`, that returns features, shape `(B, D)` or
            `(B, D, H, W)`, which are averaged over positions. None for timm's penultimate features, or else for what the last
            linear layer of the module receives.
        size: Side S of the square input in pixels; None for what timm states, or else 224.
        mean, std: Subtracted from each channel on the scale [0, 1], and what divides it; None for what timm states, or else
            ImageNet's.
        crop_fraction: Side of the input over the short side to which an image is resized before the centre crop.
        name: Name in records and messages; None for the module's class.
    """

    module: nn.Module
    features: ReadFeatures | None = None
    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_fraction: float | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """Name of the network as a reference."""
        return f"python:{self.name or type(self.module).__name__}"


class FeatureNetwork(nn.Module):
    """A module of any library with the methods of timm's networks that transfers use.

    Args:
        module: The network.
        features: Function of the module and inputs; None for what the last linear layer receives.
        size: Side of its input in pixels.
    """

    def __init__(self, module: nn.Module, features: ReadFeatures | None, size: int) -> None:
        super().__init__()
        self.module, self._features, self._size = module, features, size
        if features is None:
            _remove_classifier(module)
        self.classifier: nn.Module = nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        """Return features. Shape `(B, D)`."""
        features = self.module(images) if self._features is None else self._features(self.module, images)
        if not isinstance(features, Tensor) or features.ndim not in (2, 4) or len(features) != len(images):
            given = (
                f"a tensor of shape {tuple(features.shape)}"
                if isinstance(features, Tensor)
                else type(features).__name__
            )
            raise InputError(
                f"the features of {type(self.module).__name__} are {given}, not a tensor of shape (images, features) or "
                "(images, features, height, width). Pass a function: lrbench.Model(features=lambda module, images: …)."
            )
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the features themselves, or the classifier's scores."""
        scores: Tensor = features if pre_logits else self.classifier(features)
        return scores

    def reset_classifier(self, classes: int) -> None:
        """Replace the classifier by a new linear layer."""
        with torch.no_grad():
            width = self.forward_features(torch.zeros(2, 3, self._size, self._size)).shape[1]
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of inputs. Shape `(B, C)`."""
        return self.forward_head(self.forward_features(images))


def load_module(model: Model) -> tuple[nn.Module, SnapshotMetadata]:
    """Return a copy of a module that transfers can use, in evaluation mode, with a header like that of a snapshot.

    Raises:
        InputError: The size, mean or std is invalid, or the features are not known.
    """
    is_timm = hasattr(model.module, "forward_head") and hasattr(model.module, "pretrained_cfg")
    network = copy.deepcopy(model.module).cpu().eval()
    stated = input_of(network).model_dump() if is_timm else {"size": 224}
    changes = {"size": model.size, "mean": model.mean, "std": model.std, "crop_fraction": model.crop_fraction}
    given = validate(
        Input, {**stated, **{name: value for name, value in changes.items() if value is not None}}, model.text
    )
    if not is_timm or model.features is not None:
        network = FeatureNetwork(network, model.features, given.size).eval()
        _try(network, given.size, model.text)
    metadata = SnapshotMetadata(architecture=type(model.module).__name__, classes=0, input=given, origin=model.text)
    return network, metadata


def build(reference: PythonModel) -> Model:
    """Call the function of a reference.

    Raises:
        InputError: It cannot be imported or fails, or it returns no network.
    """
    try:
        built = (reference.build or import_function(reference.function))()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{reference.text} failed: {type(error).__name__}: {error}") from error
    if isinstance(built, nn.Module):
        return Model(module=built, name=reference.text.removeprefix("python:"))
    if not isinstance(built, Model):
        raise InputError(
            f"{reference.text} returned {type(built).__name__}. Return a torch.nn.Module or an lrbench.Model."
        )
    return built


def import_function(name: str) -> Callable[[], Any]:
    """Return the function `package.module:function`, also from the current folder.

    Raises:
        InputError: The module cannot be imported, or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"{module_name} has no function {function_name!r}. Name one that returns a torch.nn.Module.")
    made: Callable[[], Any] = function
    return made


def _remove_classifier(module: nn.Module) -> None:
    """Replace the last linear layer by an identity, in place."""
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        # The module itself gives features.
        return
    parent, _, name = linear[-1].rpartition(".")
    setattr(module.get_submodule(parent), name, nn.Identity())


def _try(network: FeatureNetwork, size: int, text: str) -> None:
    """Compute the features of two images, so that a wrong size or function is reported before any data is read."""
    try:
        with torch.inference_mode():
            network.forward_features(torch.zeros(2, 3, size, size))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{text} fails on inputs of shape (2, 3, {size}, {size}): {type(error).__name__}: {error}. Set its input size, or "
            "pass a function for its features (lrbench.Model)."
        ) from error
