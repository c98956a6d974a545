"""The source task during pretraining: its images, and what a network knows of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lrbench.control import Control
from lrbench.data.examples import EvaluationTransform, TaskData
from lrbench.data.loading import load_task_data
from lrbench.data.pixels import Pixels
from lrbench.data.prepare import prepare
from lrbench.models import InputNormalisation, forward_all
from lrbench.registry import load_task
from lrbench.registry.suite import Input


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source task, prepared.

    Attributes:
        data: Its classes and splits.
        fingerprint: Of the images and labels, as `TaskData.fingerprint`.
        train: Training images.
        test: Test images.
    """

    data: TaskData
    fingerprint: str
    train: Pixels
    test: Pixels


@lru_cache(maxsize=1)
def open_source(
    name: str, settings: Input, roots: Sequence[Path], partial: bool, cache: Path | None, control: Control
) -> Source:
    """Load and prepare a source task; kept for the next segment of the same process.

    Raises:
        InputError: The data is missing, half-copied or does not decode.
    """
    data = load_task_data(load_task(name), roots, partial=partial)
    transform = EvaluationTransform.of(settings)
    return Source(
        data=data,
        fingerprint=data.fingerprint,
        train=prepare(data, "train", transform, cache=cache, control=control),
        test=prepare(data, "test", transform, cache=cache, control=control),
    )


@dataclass(frozen=True, kw_only=True)
class SourceScores:
    """What a network knows of the source.

    Attributes:
        accuracy: Top-1 on the test split.
        report: `simple` and `complex` (accuracy on test images with that evidence) and `memorised` (share of wrongly
            labelled training images that are predicted as labelled), where the source is annotated.
    """

    accuracy: float
    report: dict[str, float]


def evaluate(model: nn.Module, source: Source, normalise: InputNormalisation, control: Control) -> SourceScores:
    """Score a network on the source.

    Args:
        model: In evaluation mode.
        source: The source task.
        normalise: Turns images into inputs.
        control: Told how far the evaluation is.
    """

    def predictions(pixels: Pixels, indices: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None) -> torch.Tensor:
        total = len(pixels) if indices is None else len(indices)
        return forward_all(
            lambda images: model(images).argmax(1),
            pixels,
            normalise,
            indices=indices,
            each=lambda done: control.progress(done, total, "test images"),
        )

    test, train = source.data.splits["test"], source.data.splits["train"]
    correct = predictions(source.test).numpy() == test.labels
    report: dict[str, float] = {}
    if "complex" in test.annotations:
        is_complex = test.annotations["complex"] == 1
        report["simple"] = _mean(correct[~is_complex])
        report["complex"] = _mean(correct[is_complex])
    if "wrong" in train.annotations:
        wrong = np.flatnonzero(train.annotations["wrong"] == 1)
        if len(wrong):
            report["memorised"] = _mean(predictions(source.train, wrong).numpy() == train.labels[wrong])
    return SourceScores(accuracy=_mean(correct), report={name: value for name, value in report.items() if value >= 0})


def _mean(values: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    # -1 stands for "no such image": a mean over nothing is not a number, and not zero.
    return float(values.mean()) if len(values) else -1.0
