"""A task loaded and prepared for the input of a network: the common start of pretraining and transfer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrbench.config import load_task
from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.data.examples import EvaluationTransform, SplitName, TaskData
from lrbench.data.loading import load_task_data, report_unused
from lrbench.data.pixels import Pixels
from lrbench.data.prepare import prepare_splits


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """A task whose images are ready to be read.

    Attributes:
        data: Its classes and splits.
        transform: The evaluation transform of the pixels.
        pixels: The prepared images of each split.
    """

    data: TaskData
    transform: EvaluationTransform
    pixels: dict[SplitName, Pixels]


def prepare_task(
    name: str,
    settings: Input,
    splits: Sequence[SplitName] | None,
    *,
    roots: Sequence[Path],
    partial: bool,
    cache: Path | None,
    control: Control,
) -> PreparedTask:
    """Load a task and prepare its images for a network's input.

    Args:
        name: A registered task, or the path of a task's TOML.
        settings: The network's input.
        splits: The splits to prepare; None prepares all.
        roots: Folders in which data is searched.
        partial: Whether an incomplete data set is accepted.
        cache: Folder of the pixel caches; None writes no cache.
        control: Receives progress and warnings.

    Raises:
        InputError: The data is missing or incomplete, or an image does not decode.
    """
    data = load_task_data(load_task(name), roots, partial=partial)
    report_unused(data, control)
    transform = EvaluationTransform.of(settings)
    data, pixels = prepare_splits(
        data, tuple(data.splits) if splits is None else splits, transform, cache=cache, control=control
    )
    return PreparedTask(data=data, transform=transform, pixels=pixels)
