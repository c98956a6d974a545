import numpy as np
import pytest
import torch
from torch import nn

from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.models.inference import InputNormalisation
from lrbench.pretraining.source import Evaluator, open_source


class SeesBrightness(nn.Module):
    """A stub network whose prediction depends on the image: the brightest of ten blocks of rows."""

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.mean(dim=1), (10, 1)).squeeze(2)


def test_report_covers_each_evaluation_set(home):
    (home / "ps10.toml").write_text(
        'name = "mine"\n[files]\nlayout = "synthetic"\ngenerator = "ps10"\nsize = 20\ntrain = 200\ntest = 300\n'
        "options = { templates = 4, wrong = 0.5 }\n"
    )
    settings = Input(size=20, crop_fraction=1.0)
    source = open_source("ps10.toml", settings, (), False, None, Control())
    normalise = InputNormalisation(settings.mean, settings.std, torch.device("cpu"))
    model = SeesBrightness()
    scores = Evaluator(model, source, normalise, Control()).scores()

    def predict(split):
        images = np.stack([split.images.read(index) for index in range(len(split))])
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(settings.mean)[:, None, None]) / (
            torch.tensor(settings.std)[:, None, None]
        )
        return model(pixels).argmax(1).numpy()

    train, test, conflict = (source.data.splits[name] for name in ("train", "test", "conflict"))
    correct, followed, wrong = predict(test) == test.labels, predict(conflict), train.annotations["wrong"] == 1
    assert scores.accuracy == pytest.approx(correct.mean())
    assert scores.report == pytest.approx(
        {
            "simple": correct[0::3].mean(),
            "complex": correct[1::3].mean(),
            "both": correct[2::3].mean(),
            "conflict_simple": (followed == conflict.labels).mean(),
            "conflict_complex": (followed == conflict.annotations["complex_class"]).mean(),
            **{
                f"train_{kind}": (predict(train) == train.labels)[
                    ~wrong & (train.annotations["carries"] == index)
                ].mean()
                for index, kind in enumerate(("simple", "complex"))
            },
            "memorised": (predict(train) == train.labels)[wrong].mean(),
        }
    )
    assert len(set(scores.report.values())) == 8
