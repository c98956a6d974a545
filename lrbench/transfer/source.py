"""Predictions of a snapshot's own classifier on the test images of its source."""

import time
from collections.abc import Sequence
from pathlib import Path

from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.core.memo import memoised
from lrbench.data.prepare import PreparedTask, prepare_task
from lrbench.models.devices import computing_threads
from lrbench.models.inference import forward_all
from lrbench.transfer.features import Network
from lrbench.transfer.record import Outcome
from lrbench.transfer.selection import Choice


@memoised(1)
def open_source_test(
    name: str, settings: Input, roots: Sequence[Path], partial: bool, cache: Path | None, control: Control
) -> PreparedTask:
    """Prepare the test images of a source task; the process remembers the latest one for its next snapshots.

    Raises:
        InputError: The data is missing or incomplete, or an image does not decode.
    """
    return prepare_task(name, settings, ("test",), roots=roots, partial=partial, cache=cache, control=control)


def predict_source(network: Network, source: PreparedTask, control: Control) -> Outcome:
    """Predict the test images of the source on which a network was pretrained.

    The pass is that of the source accuracy in the snapshot's header: the same images, BatchNorm statistics and CPU threads.

    Args:
        network: The snapshot.
        source: The prepared source.
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
    total = len(source.pixels["test"])

    def watch(count: int) -> None:
        control.progress(count, total, "images")
        if control.stop_requested():
            raise InterruptedWork(
                f"stopped while predicting the test images of {name}. Finished cells are saved. Run the same command again to "
                "continue."
            )

    started = time.perf_counter()
    # A header without threads is of a GPU or of an older version, which used one.
    with computing_threads(network.device, metadata.threads or 1):
        logits = forward_all(
            lambda images: network.model(images).float(), source.pixels["test"], network.normalise, progress=watch
        )
    return Outcome(
        choice=Choice(chosen={}, candidates=(), edge=False, metric=source.data.task.metric),
        scores=logits,
        train_count=len(source.data.splits["train"]),
        diagnostics={},
        timings={"prediction": time.perf_counter() - started},
    )
