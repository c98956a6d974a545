"""Predictions of a network's own classifier on further test images of its source."""

import time

import numpy as np
import torch

from lrbench.config.task import Task
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.data.examples import Split
from lrbench.data.layouts.head_tests import head_classes
from lrbench.data.prepare import PreparedTask
from lrbench.models.inference import forward_all
from lrbench.store.references import PythonModel
from lrbench.transfer.features import Network
from lrbench.transfer.record import Outcome
from lrbench.transfer.selection import Choice


def check_head(network: Network, task: Task) -> None:
    """Check that a network has the classifier that a task tests.

    Raises:
        InputError: The task has training images, or the network has no such classifier.
    """
    if task.head is None:
        raise InputError(
            f"{task.name} has training images of its own and does not test a network's classifier. Use --protocol probe, or a "
            "task with [head], such as imagenet-v2."
        )
    text, metadata = network.reference.text, network.snapshot.metadata
    if isinstance(network.reference, PythonModel):
        raise InputError(
            f"{text} gives features: lrbench does not know the classes of a module's classifier. Import its weights with "
            "`lrbench snapshots add`, or name a network of timm."
        )
    sources = " or ".join(task.head.sources)
    if metadata.source_task is not None and metadata.source_task not in task.head.sources:
        raise InputError(
            f"{text} was pretrained on {metadata.source_task}, but {task.name} tests classifiers of {sources}. Choose another "
            "task."
        )
    classes = len(head_classes(task)[0])
    if metadata.classes != classes:
        raise InputError(
            f"{text} has {metadata.classes:,} outputs, but {task.name} tests classifiers of {sources} with {classes:,}. Choose "
            "another network."
        )


def predict_head(network: Network, tested: PreparedTask, control: Control) -> Outcome:
    """Predict the test images of a task with a network's own classifier.

    A task of fewer classes than the classifier compares the scores of its own classes only, as its authors do.

    Args:
        network: The snapshot.
        tested: The prepared task.
        control: Receives progress and may request a stop.

    Returns:
        Scores of the task's classes; nothing is selected or fitted.

    Raises:
        InputError: The scores are not finite.
        InterruptedWork: A stop was requested.
    """
    data = tested.data
    names = head_classes(data.task)[0]
    columns = torch.tensor([names.index(name) for name in data.classes])
    pixels = tested.pixels["test"]

    def watch(count: int) -> None:
        control.progress(count, len(pixels), "images")
        if control.stop_requested():
            raise InterruptedWork(
                f"stopped while predicting the test images of {data.task.name}. Finished cells are saved. Run the same command "
                "again to continue."
            )

    started = time.perf_counter()
    logits = forward_all(lambda images: network.inference(images).float(), pixels, network.normalise, progress=watch)
    if not bool(torch.isfinite(logits).all()):
        raise InputError(
            f"the scores that {network.reference.text} gives of {data.task.name} are not finite. Its weights may be damaged: "
            "check them with `lrbench snapshots verify`."
        )
    return Outcome(
        choice=Choice(chosen={}, candidates=(), edge=False, metric=data.task.metric),
        scores=merge_accepted(logits[:, columns], data.splits["test"]),
        train_count=0,
        diagnostics={},
        timings={"prediction": time.perf_counter() - started},
    )


def merge_accepted(scores: torch.Tensor, split: Split) -> torch.Tensor:
    """Move the best score of each image's accepted classes to its label, and exclude its other accepted classes.

    The label is then the prediction, or among the first five, exactly if an accepted class is.

    Args:
        scores: Shape `(N, C)`.
        split: Its annotations `accepted0`, … hold the accepted classes; without any, scores are returned as they are.

    Returns:
        Shape `(N, C)`.
    """
    columns = [values for name, values in split.annotations.items() if name.startswith("accepted")]
    if not columns:
        return scores
    accepted = torch.from_numpy(np.stack(columns, axis=1))
    merged, rows = scores.clone(), torch.arange(len(scores))
    best = torch.full((len(scores),), -torch.inf)
    for column in accepted.T:
        named = column >= 0
        best[named] = torch.maximum(best[named], scores[rows[named], column[named]])
        merged[rows[named], column[named]] = -torch.inf
    merged[rows, torch.from_numpy(split.labels)] = best
    return merged
