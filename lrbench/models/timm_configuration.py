"""timm's configuration of a network: its input, and the names of its first and last layer."""

from typing import Any

from torch import nn

from lrbench.config.loading import validate
from lrbench.config.suite import Input


def pretrained_configuration(model: nn.Module) -> dict[str, Any]:
    """Return timm's description of a network's published weights: first and last layer, normalisation, classes."""
    configuration: Any = model.pretrained_cfg
    return dict(configuration)


def input_of(model: nn.Module) -> Input:
    """Return the input that timm states for a network."""
    from timm.data.config import resolve_model_data_config

    configuration: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    interpolation = configuration["interpolation"]
    content = {
        "size": int(max(configuration["input_size"][1:])),
        # A few networks ask for more than the image, which would have to be padded.
        "crop_fraction": min(1.0, float(configuration["crop_pct"])),
        "interpolation": interpolation if interpolation in {"bilinear", "bicubic"} else "bicubic",
        "mean": list(configuration["mean"]),
        "std": list(configuration["std"]),
        # timm's third mode, "border", pads small images; lrbench crops instead.
        "crop_mode": "squash" if configuration["crop_mode"] == "squash" else "center",
    }
    return validate(Input, content, "timm's configuration of the network")
