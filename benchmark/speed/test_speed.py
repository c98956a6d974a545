"""Speed of the probe against scikit-learn, and of features with a prepared cache against without."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from lrbench.config import load_suite, load_task
from lrbench.config.protocols import Probe
from lrbench.core.control import Control
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.models.devices import pick_device
from lrbench.models.inference import InputNormalisation, forward_all
from lrbench.models.networks import create_model, penultimate
from lrbench.transfer.protocols.logistic import Standardiser, solve


def _network(suite, classes):
    return create_model(suite.model.architecture, suite.model.arguments, classes=classes, seed=0)


def test_the_probe_against_scikit_learn(against):
    """One strength on random features, with the same gradient tolerance for both."""
    draw = np.random.default_rng(0)
    count, width, classes = 2000, 512, 100
    labels = draw.integers(0, classes, count)
    raw = np.maximum(draw.normal(size=(count, width)) + 0.3 * draw.normal(size=(classes, width))[labels], 0)
    features = torch.from_numpy(raw.astype(np.float32))
    inputs, targets = Standardiser(features)(features), torch.from_numpy(labels)
    settings = Probe()
    plain = inputs[:, :-1].numpy()

    def ours():
        (fit,) = solve(inputs, targets, [1.0], classes=classes, settings=settings)
        assert fit.converged

    def theirs():
        LogisticRegression(C=1.0, tol=settings.tolerance, max_iter=settings.iterations).fit(plain, labels)

    against("probe, one strength, against scikit-learn", ours, theirs, rounds=3)


def test_features_again_against_the_first_time(against, tmp_path):
    """The second snapshot of a task uses the prepared pixels: no image is decoded again."""
    suite, device = load_suite("quick"), pick_device()
    task = load_task("toy-objects")
    model = _network(suite, 20).to(device).eval()
    normalise = InputNormalisation(suite.input.mean, suite.input.std, device)
    transform = EvaluationTransform.of(suite.input)
    fresh = iter(range(1000))

    def extract(cache):
        data = load_task_data(task, [])
        for split in data.splits:
            pixels = prepare(data, split, transform, cache=cache, control=Control())
            forward_all(lambda images: penultimate(model, images), pixels, normalise)

    extract(tmp_path / "warm")
    against(
        "features with a prepared cache, against without",
        lambda: extract(tmp_path / "warm"),
        lambda: extract(tmp_path / f"cold{next(fresh)}"),
    )
