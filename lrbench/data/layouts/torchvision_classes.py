"""The data set classes of `torchvision.datasets`, and which of them can be downloaded."""

import inspect
from typing import Any

from lrbench.config import suggestion
from lrbench.config.files import TorchvisionFiles
from lrbench.config.task import Task
from lrbench.core.errors import InputError

# Their download raises: the original site is offline.
_OFFLINE = {"StanfordCars"}
# Base classes, and a data set of noise.
_EXCLUDED = {"VisionDataset", "DatasetFolder", "FakeData"}


def dataset_class(task: Task, files: TorchvisionFiles) -> Any:
    """Return the class that the task names.

    Raises:
        InputError: torchvision has no such data set.
    """
    import torchvision.datasets

    known = [name for name in torchvision.datasets.__all__ if name[:1].isupper() and name not in _EXCLUDED]
    if files.dataset not in known:
        raise InputError(
            f"torchvision has no data set {files.dataset!r} (task {task.name}).{suggestion(files.dataset, known)}"
        )
    return getattr(torchvision.datasets, files.dataset)


def is_downloadable(files: TorchvisionFiles) -> bool:
    """Return whether torchvision can download the data set."""
    import torchvision.datasets

    cls = getattr(torchvision.datasets, files.dataset, None)
    return cls is not None and files.dataset not in _OFFLINE and "download" in inspect.signature(cls).parameters
