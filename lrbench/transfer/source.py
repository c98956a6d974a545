"""Predictions of a snapshot's own classifier on images of its source."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lrbench.config.protocols import HIT_BLOCKS
from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.core.memo import memoised
from lrbench.data.examples import SplitName, TaskData
from lrbench.data.pixels import Indices
from lrbench.data.prepare import PreparedTask, prepare_task
from lrbench.data.synthetic.stream import Stream
from lrbench.models.devices import computing_threads
from lrbench.models.inference import forward_all
from lrbench.transfer.features import Network
from lrbench.transfer.record import Outcome
from lrbench.transfer.selection import Choice


@memoised(2)
def open_source_images(
    name: str,
    settings: Input,
    splits: tuple[SplitName, ...],
    roots: Sequence[Path],
    partial: bool,
    cache: Path | None,
    control: Control,
) -> PreparedTask:
    """Prepare splits of a source task; the process remembers the latest ones for its next snapshots.

    Raises:
        InputError: The data is missing or incomplete, or an image does not decode.
    """
    return prepare_task(name, settings, splits, roots=roots, partial=partial, cache=cache, control=control)


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Images of a source to predict.

    Attributes:
        parts: Indices of the images in each split, in order.
        description: The images, for messages.
        counts: Number of images of each of `HIT_BLOCKS`, in order; empty for other images.
    """

    parts: tuple[tuple[SplitName, Indices], ...]
    description: str
    counts: dict[str, int]

    def labels(self, data: TaskData) -> npt.NDArray[np.int64]:
        """Return the label of each image. Shape `(N,)`."""
        return np.concatenate([data.splits[name].labels[indices] for name, indices in self.parts])

    def names(self, data: TaskData) -> list[str]:
        """Return the name of each image."""
        return [data.splits[name].ids[index] for name, indices in self.parts for index in indices]


def select_test(data: TaskData) -> Selected:
    """Return all test images of a source."""
    return Selected(parts=(("test", np.arange(len(data.splits["test"]))),), description="the test images", counts={})


def select_hits(data: TaskData) -> Selected:
    """Return the images of `HIT_BLOCKS`; the rightly labelled ones are drawn at random, the same for every snapshot.

    Raises:
        InputError: The source has no such images.
    """
    train = data.splits["train"]
    is_wrong = train.annotations.get("wrong", np.zeros(len(train), dtype=np.int64)) == 1
    wrong, right = np.flatnonzero(is_wrong), np.flatnonzero(~is_wrong)
    sample = np.sort(right[Stream("source-hits", len(right)).permutation(len(right))[: len(wrong)]])
    conflict = np.arange(len(data.splits["conflict"]) if "conflict" in data.splits else 0)
    if not len(wrong) + len(conflict):
        raise InputError(
            f"{data.task.name} has no training images that are known to be labelled wrongly and no images with conflicting "
            "evidence. Remove source_hits from the suite, or choose a source that has them."
        )
    parts: list[tuple[SplitName, Indices]] = [("train", np.concatenate([wrong, sample])), ("conflict", conflict)]
    return Selected(
        parts=tuple((name, indices) for name, indices in parts if len(indices)),
        description="images with wrong labels or conflicting evidence",
        counts=dict(zip(HIT_BLOCKS, (len(wrong), len(sample), len(conflict)), strict=True)),
    )


def select_fit(data: TaskData, images: int) -> Selected:
    """Return a sample of training images, the same for every snapshot; all of them if there are fewer."""
    count = len(data.splits["train"])
    sample = np.sort(Stream("source-fit", count).permutation(count)[:images])
    return Selected(parts=(("train", sample),), description="a sample of the training images", counts={})


def predict_source(network: Network, source: PreparedTask, selected: Selected, control: Control) -> Outcome:
    """Predict images of the source on which a network was pretrained.

    The pass is that of the source accuracy in the snapshot's header: the same BatchNorm statistics and CPU threads.

    Args:
        network: The snapshot.
        source: The prepared source.
        selected: The images.
        control: Receives progress and may request a stop.

    Returns:
        The logits; nothing is selected or fitted.

    Raises:
        InputError: The snapshot was pretrained on other images.
        InterruptedWork: A stop was requested.
    """
    name, metadata = source.data.task.name, network.snapshot.metadata
    if source.data.fingerprint != metadata.source_fingerprint:
        raise InputError(
            f"{network.reference.text} was pretrained on images or labels of {name} that differ from the current ones, so its "
            f"source accuracy cannot be computed again. Restore the former images of {name}, or pretrain under another suite "
            "name (--set name=NAME)."
        )
    total = sum(len(indices) for _, indices in selected.parts)

    def watch(count: int) -> None:
        control.progress(count, total, "images")
        if control.stop_requested():
            raise InterruptedWork(
                f"stopped while predicting {selected.description} of {name}. Finished cells are saved. Run the same command "
                "again to continue."
            )

    started = time.perf_counter()
    # A header without threads is of a GPU or of an older version, which used one.
    with computing_threads(network.device, metadata.threads or 1):
        logits = [
            forward_all(
                lambda images: network.inference(images).float(),
                source.pixels[split],
                network.normalise,
                indices=indices,
                progress=watch,
            )
            for split, indices in selected.parts
        ]
    return Outcome(
        choice=Choice(chosen={}, candidates=(), edge=False, metric=source.data.task.metric),
        scores=torch.cat(logits),
        train_count=len(source.data.splits["train"]),
        diagnostics={"hits": selected.counts} if selected.counts else {},
        timings={"prediction": time.perf_counter() - started},
    )
