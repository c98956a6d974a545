"""Agreement of the probe with scikit-learn, data of LogME, and the key of a new classifier."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from lrbench.config.protocols import Finetune, Probe
from lrbench.core.control import Control
from lrbench.transfer.protocols import logme, probe
from lrbench.transfer.protocols.finetune import Finetuning
from lrbench.transfer.protocols.finetune_run import FinetuneContext
from lrbench.transfer.protocols.points import Points
from lrbench.transfer.selection import Choice, LabelledFeatures
from lrbench.transfer.target import Development, JoinedPixels
from tests.transfer.helpers import CPU, LABELS, NORMALISE, Images, Network, problem, split


def rectified(count, seed):
    """Four overlapping classes with six nonnegative features on very different scales."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, count)
    centres = np.random.default_rng(0).normal(size=(4, 6))
    features = np.maximum(draw.normal(size=(count, 6)) + 0.8 * centres[labels], 0) * np.geomspace(0.01, 100, 6)
    return LabelledFeatures(features=torch.from_numpy(features).float(), labels=torch.from_numpy(labels))


def test_probe_accuracy_matches_scikit_learn():
    """From raw features to accuracy on 2,000 held-out images."""
    train, test = rectified(400, 1), rectified(2000, 2)
    settings = Probe()
    mean, deviation = train.features.double().mean(0), train.features.double().std(0, unbiased=False)
    inputs, held_out = (((split.features.double() - mean) / deviation).numpy() for split in (train, test))
    choice = probe.select(train, test, classes=4, metric="top1", settings=settings)
    mine = [candidate["score"] for candidate in choice.candidates]
    theirs = []
    for strength in settings.grid():
        fitted = LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-8).fit(
            inputs, train.labels.numpy()
        )
        theirs.append(fitted.score(held_out, test.labels.numpy()))
    assert mine == pytest.approx(theirs, abs=0.001)
    # The strengths make a difference.
    assert 0.2 < min(mine) < max(mine) - 0.05 < 0.9


def test_logme_uses_training_and_validation_images():
    data = problem("overlapping")
    train, validation = split(data)
    choice = logme.select(train, validation, classes=6, metric="top1", settings=None)
    assert choice.chosen["logme"] == pytest.approx(logme.Evidence(data, 6).score, abs=1e-6)
    assert abs(choice.chosen["logme"] - logme.Evidence(train, 6).score) > 1e-3
    fitted = logme.fit(data, choice, classes=6, settings=None)
    # The classifier is fitted on all of them as well.
    torch.testing.assert_close(
        fitted.scores(data.features), data.features.double() @ logme.Evidence(data, 6).weights, rtol=1e-4, atol=1e-5
    )


def test_classifier_is_keyed_by_the_transfer_seed():
    """At a tiny rate, a fine-tuned network is the snapshot with a new classifier."""
    network = Network()
    # BatchNorm depends on the order of images, which the seed keys as well.
    network.norm = nn.Identity()
    development = Development(
        pixels=JoinedPixels([Images()]), labels=LABELS, ids=[""] * 24, given=np.array([], dtype=np.int64)
    )
    settings = Finetune(updates=1, batch=8, augmentation="none", rates=(1e-12,), decays=(0.0,))
    choice = Choice(chosen={"learning_rate": 1e-12, "weight_decay": 0.0}, candidates=(), edge=False, metric="top1")
    scores = {}
    for state, seed in enumerate((0, 1, 2, 0)):
        torch.manual_seed(state)
        tuning = Finetuning(
            FinetuneContext(
                model=network, development=development, classes=3, size=8, normalise=NORMALISE, settings=settings,
                seed=seed, device=CPU, points=Points(None),
            )
        )  # fmt: skip
        result = tuning.fit(choice, Control()).scores(Images())
        # The state of the global generator does not matter.
        torch.testing.assert_close(result, scores.setdefault(seed, result))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (scores[one] - scores[other]).abs().max() > 0.01
