"""Parameters and multiply-adds of networks."""

import pytest
import torch
from torch import nn

from lrbench.models.modules import Model, load_module
from lrbench.models.network_cost import measure_cost, skeleton_cost
from lrbench.models.networks import create_model
from lrbench.store.references import PretrainedWeights, PythonModel


class Small(nn.Module):
    """A convolution of known cost and a classifier."""

    def __init__(self):
        super().__init__()
        self.convolution, self.classifier = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 7)

    def forward(self, images):
        return self.classifier(self.convolution(images).mean(dim=(2, 3)))


def test_cost_of_a_convolution_is_counted_by_hand():
    network, metadata = load_module(Model(module=Small(), size=8))
    cost = measure_cost(network, metadata.input.size)
    # Each of 64 positions and 5 channels sums 27 products; the classifier is left out.
    assert cost.parameters == 5 * 27 + 5 and cost.multiply_adds == 64 * 5 * 27


def test_cost_needs_no_weights():
    cost = skeleton_cost(PretrainedWeights(source="timm", name="resnet10t"))
    model = create_model("resnet10t", {}, classes=10)
    body = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("fc."))
    assert cost.parameters == body and cost == measure_cost(model, 176)
    assert skeleton_cost(PythonModel(text="python:a:b", function="a:b")) is None


def test_cost_that_cannot_be_counted_is_unknown(monkeypatch):
    def breaks(*_):
        raise NotImplementedError

    monkeypatch.setattr("lrbench.models.network_cost.penultimate", breaks)
    network = Small().train()
    cost = measure_cost(network, 8)
    assert cost.multiply_adds is None and cost.parameters == 140 + 42 and network.training
    assert isinstance(network(torch.zeros(1, 3, 8, 8)), torch.Tensor)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_other_architectures_have_costs(name):
    cost = skeleton_cost(PretrainedWeights(source="timm", name=name))
    assert cost.parameters > 10_000 and cost.multiply_adds > 1_000_000
