"""Re-estimated BatchNorm statistics, compared with the mean over batches computed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from lrbench.models.inference import InputNormalisation
from lrbench.pretraining import batchnorm
from lrbench.pretraining.batchnorm import reestimate

NORMALISE = InputNormalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), torch.device("cpu"))


class Images:
    """Sixty images of eight by eight pixels, each of a different brightness, so that batches differ."""

    plain = None

    def __init__(self):
        draw = np.random.default_rng(0)
        bright = draw.integers(0, 200, (60, 1, 1, 1))
        self.values = (bright + draw.integers(0, 56, (60, 8, 8, 3))).astype(np.uint8)

    def __len__(self):
        return len(self.values)

    def evaluation(self, indices):
        return self.values[indices]


class Network(nn.Module):
    """Two convolutions, each with BatchNorm; between them half of the channels are dropped in training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3)
        self.drop = nn.Dropout2d(0.5)
        self.second, self.after = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)

    def forward(self, images):
        return self.after(self.second(self.drop(self.norm(self.first(images)).relu())))


@pytest.fixture
def estimated(monkeypatch):
    """The network, its state before, the statistics of 48 images in batches of about 16, their record and the batches."""
    monkeypatch.setattr(batchnorm, "_BATCH", 16)
    model, shown = Network().eval(), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    watching = model.first.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    statistics, record = reestimate(model, Images(), NORMALISE, images=48, seed=0)
    watching.remove()
    return model, before, statistics, record, shown


def moments(values):
    """The mean and unbiased variance of each channel."""
    return values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=True)


def test_statistics_are_the_mean_over_all_batches(estimated):
    model, _, statistics, record, shown = estimated
    assert [len(batch) for batch in shown] == [16, 16, 16] and record["batch"] == 16 and record["images"] == 48
    by_hand = []
    with torch.inference_mode():
        for batch in shown:
            inner = model.first(batch)
            mean, variance = moments(inner)
            # A layer in training mode normalises with the moments (biased variance) of its batch.
            spread = (inner.var((0, 2, 3), unbiased=False) + model.norm.eps).sqrt()
            handed = ((inner - mean[:, None, None]) / spread[:, None, None]).relu()
            by_hand.append((mean, variance, *moments(model.second(handed))))
    names = ("norm.running_mean", "norm.running_var", "after.running_mean", "after.running_var")
    for name, batches in zip(names, zip(*by_hand, strict=True), strict=True):
        torch.testing.assert_close(statistics[name], torch.stack(batches).mean(0), rtol=1e-4, atol=1e-5)
        # A single batch gives different statistics.
        assert not torch.allclose(batches[0], batches[1], rtol=0.02), name
    assert set(statistics) == set(names)


def test_each_image_of_the_sample_is_in_one_batch(estimated):
    shown = torch.cat(estimated[4])
    all_images = NORMALISE(torch.from_numpy(Images().values))
    same = (shown[:, None] == all_images[None]).flatten(2).all(2)
    assert same.sum(1).tolist() == [1] * 48 and same.sum(0).max() == 1


def test_reestimation_leaves_the_network_unchanged(estimated):
    model, before, _, _, _ = estimated
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (model.norm.momentum, model.after.momentum) == (0.3, 0.1)
    assert not any(module.training for module in model.modules())
