"""Helpers of the tests of transfer."""

import numpy as np
import torch
from torch import nn

from lrbench.config.schedule import SnapshotKey
from lrbench.models.inference import InputNormalisation
from lrbench.transfer.selection import LabelledFeatures, validation_split

KEY = SnapshotKey(arm="step", seed=0, stage=1)
CPU = torch.device("cpu")
NORMALISE = InputNormalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CPU)
LABELS = np.arange(24) % 3


def problem(kind, seed=0, count=240, width=24, classes=6):
    """Features and labels: overlapping, separable or collinear classes."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    distance = {"overlapping": 0.4, "separable": 6.0, "collinear": 0.8}[kind]
    features = draw.normal(size=(count, width)) + distance * draw.normal(size=(classes, width))[labels]
    if kind == "collinear":
        features[:, 1] = 2 * features[:, 0] + 1
        features[:, 2] = 3.0
    features = np.maximum(features, 0) if kind == "overlapping" else features
    return LabelledFeatures(
        features=torch.from_numpy(features.astype(np.float32)), labels=torch.from_numpy(labels.astype(np.int64))
    )


def split(data, seed=0):
    train, held = validation_split(data.labels.numpy(), 0.25, seed)
    return (LabelledFeatures(features=data.features[part], labels=data.labels[part]) for part in (train, held))


class Images:
    """Twenty-four images of eight by eight pixels."""

    plain = None
    values = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.values)

    def evaluation(self, indices):
        return self.values[indices]


class Network(nn.Module):
    """A convolution, BatchNorm and a classifier that can be reset."""

    def __init__(self, drop=0.0):
        super().__init__()
        torch.manual_seed(3)
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.classifier, self.drop = nn.Linear(4, 2), nn.Dropout(drop)

    def reset_classifier(self, classes):
        self.classifier = nn.Linear(4, classes)

    def forward(self, images):
        return self.classifier(self.drop(self.norm(self.convolution(images)).relu().mean((2, 3))))


def collapse_by_definition(features, labels):
    """NC1 and NC2 of float64 features from the matrices of their definitions."""
    classes = np.unique(labels)
    means = np.array([features[labels == label].mean(0) for label in classes])
    centred = means - means.mean(0)
    between = centred.T @ centred / len(classes)
    within = np.mean([np.cov(features[labels == label].T, bias=True) for label in classes], axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    off_diagonal = (unit @ unit.T)[~np.eye(len(classes), dtype=bool)]
    nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / len(classes)
    return nc1, np.abs(off_diagonal + 1 / (len(classes) - 1)).mean()
