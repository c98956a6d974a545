"""Conversion of other libraries' tensor names to timm's, with timm's own conversion functions."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lrbench.models.limits import limited

Tensors = Mapping[str, torch.Tensor]

# Names that are specific to one library, most specific first.
_CONVENTIONS = (
    (r"\.encoder\.layer\.\d+\.|^embeddings\.|\.embedder\.|\.patch_embeddings\.", "Hugging Face transformers'"),
    (r"encoder_layer_\d+\.|^conv_proj\.|^features\.|^classifier\.\d+\.", "torchvision's"),
    (r"^visual\.|^text_model\.|^token_embedding\.", "CLIP's"),
    (r"^downsample_layers\.|\.dwconv\.", "those of Facebook's ConvNeXt"),
    (r"^backbone\.bottom_up\.", "Detectron2's"),
    (r"^backbone\.", "OpenMMLab's, or those of a model within another"),
    (r"^(student|teacher|encoder_q|encoder_k|online_encoder)\.", "those of self-supervised training"),
)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Tensors under timm's names.

    Attributes:
        tensors: By name.
        dropped: Names of the file's tensors that timm leaves out.
    """

    tensors: dict[str, torch.Tensor]
    dropped: list[str]


def convert(architecture: str, arguments: Mapping[str, Any], tensors: Tensors, *, classes: int) -> Converted | None:
    """Rename and reshape tensors as timm does when it publishes weights of an architecture.

    Args:
        architecture: The timm model.
        arguments: Keyword arguments of `timm.create_model`.
        tensors: By the names of another library.
        classes: Number of outputs of the network.

    Returns:
        None if timm has no conversion, it fails, or it computes new values, as when position embeddings are resized.
    """
    try:
        model, convert_names = _conversion(architecture, arguments, classes)
        if convert_names is None:
            return None
        try:
            outputs = convert_names(dict(tensors), model)
        except TypeError:
            # Some conversions take only the tensors.
            outputs = convert_names(dict(tensors))
    except Exception:
        # Conversions are written for known files; other names raise exceptions of any kind.
        return None
    if not isinstance(outputs, dict):
        return None
    if not all(isinstance(value, torch.Tensor) and not value.is_meta for value in outputs.values()):
        return None
    computed, dropped = _changes(tensors, outputs)
    return None if computed else Converted(tensors=outputs, dropped=dropped)


def convention(names: list[str]) -> str:
    """Return which library's names these look like, as a sentence after a space; empty if unknown."""
    for pattern, whose in _CONVENTIONS:
        example = next((name for name in names if re.search(pattern, name)), None)
        if example is not None:
            return f" Its names look like {whose} ({example[:60]})."
    return ""


def _conversion(
    architecture: str, arguments: Mapping[str, Any], classes: int
) -> tuple[nn.Module | None, Callable[..., Any] | None]:
    """Return the network on the device `meta` and timm's conversion function for it."""
    import timm
    from timm.models import _builder

    caught: list[tuple[nn.Module, Callable[..., Any] | None]] = []

    def catch(model: nn.Module, *_: Any, filter_fn: Callable[..., Any] | None = None, **__: Any) -> None:
        caught.append((model, filter_fn))

    # Architectures pass their conversion to this private loader only.
    loader = _builder.load_pretrained
    _builder.load_pretrained = catch
    try:
        with torch.device("meta"), limited(architecture):
            timm.create_model(architecture, pretrained=True, num_classes=classes, **arguments)
    finally:
        _builder.load_pretrained = loader
    return caught[0] if caught else (None, None)


def _changes(inputs: Tensors, outputs: Tensors) -> tuple[bool, list[str]]:
    """Return whether outputs hold non-zero values that no input holds, and the names of inputs that no output holds."""
    before, after = ({_storage(tensor) for tensor in tensors.values()} for tensors in (inputs, outputs))
    joined = [tensor.flatten().double() for tensor in outputs.values() if _storage(tensor) not in before]
    loose = {name: tensor.flatten().double() for name, tensor in inputs.items() if _storage(tensor) not in after}
    zero = torch.zeros(1, dtype=torch.float64)
    pool, used = torch.cat([*loose.values(), zero]), torch.cat([*joined, zero[:0]])
    computed = any(not bool(torch.isin(values, pool).all()) for values in joined)
    return computed, [name for name, values in loose.items() if not bool(torch.isin(values, used).all())]


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
