"""BatchNorm layers folded into convolutions."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lrbench.models.folding import fold_batchnorm
from lrbench.models.modules import FeatureNetwork
from lrbench.models.networks import batchnorm_layers, create_model, penultimate


def _with_statistics(model: nn.Module) -> nn.Module:
    """Draw running statistics and affine parameters as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in batchnorm_layers(model).values():
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.5, generator=generator)
            layer.running_var.uniform_(0.3, 3, generator=generator)
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.5, generator=generator)
    return model.eval()


# With biases, activations in BatchNorm layers, layers before convolutions, concatenations.
@pytest.mark.parametrize(
    ("architecture", "arguments", "left"),
    [
        ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32]}, 0),
        ("mobilenetv3_small_050", {}, 0),
        ("densenet121", {"growth_rate": 8, "block_config": (1, 1, 1, 1)}, 8),
    ],
)
def test_folded_network_gives_the_same_features(architecture: str, arguments: dict[str, object], left: int) -> None:
    model = _with_statistics(create_model(architecture, arguments, classes=7, seed=0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batchnorm(model)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for read in (penultimate, lambda network, inputs: network(inputs)):
            expected = read(model, images)
            assert torch.allclose(read(folded, images), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
    assert len(batchnorm_layers(folded)) == left
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class _Block(nn.Module):
    def __init__(self, steps: Callable[["_Block", torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self._steps = steps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._steps(self, images)


def _use_output_twice(block: _Block, images: torch.Tensor) -> torch.Tensor:
    output = block.first(images)
    return output + block.norm(output)


STEPS: dict[str, tuple[Callable[[_Block, torch.Tensor], torch.Tensor], bool]] = {
    "by keyword": (lambda block, images: block.norm(input=block.first(input=images)), True),
    "alone": (lambda block, images: block.norm(block.first(images)), True),
    "output used twice": (_use_output_twice, False),
    "convolution called twice": (lambda block, images: block.norm(block.first(block.first(images))), False),
    "layer called twice": (lambda block, images: block.norm(block.second(block.norm(block.first(images)))), False),
    "activation between": (lambda block, images: block.norm(block.first(images).relu()), False),
    "steps depend on the input": (
        lambda block, images: block.norm(block.first(images)) if images.sum() > 0 else images,
        False,
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_only_a_layer_after_one_convolution_is_folded(name: str) -> None:
    steps, is_folded = STEPS[name]
    block = _with_statistics(_Block(steps))
    folded = fold_batchnorm(block)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert torch.allclose(folded(images), block(images), atol=1e-5)
    assert (folded is not block) == is_folded
    assert bool(batchnorm_layers(folded)) != is_folded


def test_convolution_that_shares_its_weights_keeps_them() -> None:
    block = _with_statistics(_Block(lambda block, images: block.second(block.norm(block.first(images)))))
    assert isinstance(block, _Block)
    block.second.weight = block.first.weight
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    folded = fold_batchnorm(block)
    with torch.inference_mode():
        assert torch.allclose(folded(images), block(images), atol=1e-5)
    assert not batchnorm_layers(folded)


def test_module_of_a_user_is_not_traced() -> None:
    block = _Block(STEPS["alone"][0])
    inputs: list[type] = []
    block.register_forward_pre_hook(lambda module, given: inputs.append(type(given[0])))
    network = FeatureNetwork(block, lambda module, images: module(images), size=8)
    assert fold_batchnorm(network.eval()) is network
    assert inputs == []


def test_layers_with_hooks_are_not_folded() -> None:
    block = _with_statistics(_Block(STEPS["alone"][0]))
    seen: list[torch.Tensor] = []
    block.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        fold_batchnorm(block)(torch.rand(1, 3, 8, 8))
    assert len(seen) == 1
