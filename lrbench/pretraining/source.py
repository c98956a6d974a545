"""The source task: its prepared images, and the evaluation of a network on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from lrbench.config import load_task
from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS, ProcessGroup
from lrbench.core.memo import memoised
from lrbench.core.workspace import Place
from lrbench.data.examples import TaskData
from lrbench.data.pixels import Indices, Pixels
from lrbench.data.prepare import prepare_task
from lrbench.data.synthetic.ps10 import KINDS
from lrbench.models.devices import pick_device, to_device
from lrbench.models.folding import fold_batchnorm
from lrbench.models.inference import InputNormalisation, forward_all
from lrbench.models.loading import load_snapshot
from lrbench.store.references import WeightsFile

# Training images on which the fit is measured. Generated images are in random order.
_FITTED = 1_000
# Images whose prediction may differ between machines: this many, or this many in ten thousand if that is more.
_TOLERANCE = 2


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source task, prepared.

    Attributes:
        data: Its classes and splits.
        fingerprint: Hash of images and labels (`TaskData.fingerprint`).
        train: Training images.
        test: Test images.
        conflict: Images of the split `conflict`; None if the source has none.
    """

    data: TaskData
    fingerprint: str
    train: Pixels
    test: Pixels
    conflict: Pixels | None


@memoised(1)
def open_source(
    name: str, settings: Input, roots: Sequence[Path], partial: bool, cache: Path | None, control: Control
) -> Source:
    """Prepare a source task; the process remembers the latest one for its next segment.

    Raises:
        InputError: The data is missing or incomplete, or an image does not decode.
    """
    load_task(name).require_training_images()
    task = prepare_task(
        name, settings, ("train", "test", "conflict"), roots=roots, partial=partial, cache=cache, control=control
    )
    return Source(
        data=task.data,
        fingerprint=task.data.fingerprint,
        train=task.pixels["train"],
        test=task.pixels["test"],
        conflict=task.pixels.get("conflict"),
    )


@dataclass(frozen=True, kw_only=True)
class SourceScores:
    """Scores of a network on the source.

    Attributes:
        accuracy: Top-1 on the test split.
        report: If the source is annotated: `simple`, `complex` and `both` (accuracy on test images with that evidence),
            `conflict_simple` and `conflict_complex` (share of images with contradictory evidence that are predicted as the
            class of that evidence), `train_simple` and `train_complex` (accuracy on the first rightly labelled training images,
            by evidence), and `memorised` (share of wrongly labelled training images that are predicted as
            labelled).
    """

    accuracy: float
    report: dict[str, float]


class Evaluator:
    """Evaluates a network on the source: every image once, divided among the processes.

    Args:
        model: The network in evaluation mode.
        source: The source task.
        normalise: Turns images into inputs.
        control: Receives progress.
        ranks: The processes that share the work.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        normalise: InputNormalisation,
        control: Control,
        ranks: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self._model, self._source, self._normalise = model, source, normalise
        self._control, self._ranks = control, ranks

    def accuracy(self) -> float:
        """Return top-1 on the test split."""
        return _mean(self._correct(fold_batchnorm(self._model)))

    def scores(self) -> SourceScores:
        """Return all scores."""
        source, network = self._source, fold_batchnorm(self._model)
        correct = self._correct(network)
        test, train = source.data.splits["test"], source.data.splits["train"]
        report: dict[str, float] = {}
        if "set" in test.annotations:
            report |= {kind: _mean(correct[test.annotations["set"] == index]) for index, kind in enumerate(KINDS)}
        elif "complex" in test.annotations:
            is_complex = test.annotations["complex"] == 1
            report["simple"] = _mean(correct[~is_complex])
            report["complex"] = _mean(correct[is_complex])
        if source.conflict is not None:
            conflict = source.data.splits["conflict"]
            predicted = self._predictions(network, source.conflict, "images with conflicting evidence")
            report["conflict_simple"] = _mean(predicted == conflict.labels)
            report["conflict_complex"] = _mean(predicted == conflict.annotations["complex_class"])
        if "carries" in train.annotations:
            right = np.flatnonzero(train.annotations["wrong"] == 0)[:_FITTED]
            fitted = self._predictions(network, source.train, "training images", right) == train.labels[right]
            carries = train.annotations["carries"][right]
            report |= {f"train_{kind}": _mean(fitted[carries == index]) for index, kind in enumerate(KINDS[:2])}
        if "wrong" in train.annotations:
            wrong = np.flatnonzero(train.annotations["wrong"] == 1)
            if len(wrong):
                predicted = self._predictions(network, source.train, "training images", wrong)
                report["memorised"] = _mean(predicted == train.labels[wrong])
        return SourceScores(
            accuracy=_mean(correct), report={name: value for name, value in report.items() if value >= 0}
        )

    def _correct(self, network: nn.Module) -> npt.NDArray[np.bool_]:
        predicted = self._predictions(network, self._source.test, "test images")
        return np.equal(predicted, self._source.data.splits["test"].labels)

    def _predictions(self, network: nn.Module, pixels: Pixels, unit: str, indices: Indices | None = None) -> Indices:
        if indices is None:
            indices = np.arange(len(pixels))
        # Slices without padding: no image counts twice.
        mine = np.array_split(indices, self._ranks.world_size)[self._ranks.rank]
        predicted = np.empty(0, dtype=np.int64)
        if len(mine):
            predicted = forward_all(
                lambda images: network(images).argmax(1),
                pixels,
                self._normalise,
                indices=mine,
                progress=lambda done: self._control.progress(done, len(mine), unit),
            ).numpy()
        return np.concatenate(self._ranks.all_gather(predicted))


def evaluate_again(path: Path, place: Place, control: Control) -> str | None:
    """Evaluate a snapshot on its source, and compare with the accuracy in its metadata.

    Args:
        path: The snapshot.
        place: Folders of data and pixels.
        control: Receives progress.

    Returns:
        A clause describing the disagreement; None if there is none, or if the source is unknown.

    Raises:
        InputError: The source's data is missing or incomplete.
    """
    snapshot = load_snapshot(WeightsFile(text=str(path), path=path))
    metadata = snapshot.metadata
    if metadata.source_task is None or metadata.source_accuracy is None:
        return None
    source = open_source(metadata.source_task, metadata.input, place.roots, place.partial, place.pixel_cache, control)
    if source.fingerprint != metadata.source_fingerprint:
        return f"it was pretrained on images or labels of {metadata.source_task} that differ from the current ones"
    device = pick_device()
    model = to_device(snapshot.model, device).eval()
    normalise = InputNormalisation(metadata.input.mean, metadata.input.std, device)
    accuracy = Evaluator(model, source, normalise, control).accuracy()
    # Rounding on another machine may change a close prediction.
    if abs(accuracy - metadata.source_accuracy) > max(_TOLERANCE / len(source.test), _TOLERANCE * 1e-4):
        return (
            f"its metadata has a source accuracy of {100 * metadata.source_accuracy:.2f} %, but it evaluates to "
            f"{100 * accuracy:.2f} %: its weights or BatchNorm statistics have changed"
        )
    return None


def _mean(values: npt.NDArray[np.bool_]) -> float:
    # -1 means that there is no such image.
    return float(values.mean()) if len(values) else -1.0
