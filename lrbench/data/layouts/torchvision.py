"""The layout `torchvision`: a class of `torchvision.datasets`, built from existing files once for each split."""

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from lrbench.config.files import TorchvisionFiles
from lrbench.config.task import Task
from lrbench.core.errors import FailureError, InputError, LrbenchError, as_sentence
from lrbench.core.files import sha256_bytes
from lrbench.core.wording import counted
from lrbench.data.decode import UndecodableImage, rgb_pixels
from lrbench.data.examples import ImageSource, Split, SplitName
from lrbench.data.jpeg import Bytes
from lrbench.data.layouts.data_folder import candidates, how_to_get
from lrbench.data.layouts.display import first_few, printable, shorten
from lrbench.data.layouts.file_images import FileImages, hash_file_stats
from lrbench.data.layouts.layout_data import LayoutData, from_labels
from lrbench.data.layouts.read_only import reading_only
from lrbench.data.layouts.torchvision_classes import dataset_class, is_downloadable

_DOWNLOAD_ADVICE = r"[.,]? You can use download=True to download it.*"
# Errors about arguments that the class does not accept (`verify_str_arg`).
_ARGUMENT = re.compile(
    "^Unknown value .* for argument|^Expected type .* for argument|unexpected keyword argument|required positional argument"
)
# Attributes of torchvision's classes: class names, ...
_CLASSES = ("classes", "all_categories")
# ... file paths or pairs of path and label, ...
_PATHS = ("_image_files", "_images", "_samples", "samples", "imgs", "images", "data")
# ... and the folder of the files, absolute or relative to the root.
_FOLDERS = ("_base_folder", "base_folder", "raw_folder", "_data_path")


@dataclass(frozen=True)
class TorchvisionImages:
    """An `ImageSource` over a torchvision data set whose images are not separate files."""

    data: Any = field(repr=False)
    root: Path
    labels: tuple[int, ...] = field(repr=False)
    split: str
    task: str

    def read(self, index: int) -> Bytes:
        """Return image `index` as RGB. Shape `(H, W, 3)`.

        Raises:
            InputError: It cannot be decoded; names the image.
        """
        try:
            with reading_only():
                image = self.data[index][0]
            return rgb_pixels(image)
        except Exception as error:
            raise UndecodableImage(f"{self.split} image {index} under {self.root}", str(error), self.task) from error

    def stamp(self) -> str:
        """Return the SHA-256 of the data set's arguments, its labels, and its files' sizes and modification times."""
        files = hash_file_stats(self.root, _data_files(self.data, self.root))[0]
        return sha256_bytes(f"{self.data!r} {self.labels} {files}".encode(errors="surrogateescape"))

    def content(self) -> None:
        """Return None: a few files contain all images, so sizes identify nothing."""
        return


def find_torchvision(task: Task, files: TorchvisionFiles, roots: Sequence[Path]) -> Path:
    """Return the first root from which the class can be built.

    Raises:
        InputError: There is none, or the task's arguments are wrong.
    """
    return _build_datasets(task, files, roots)[0]


def read_torchvision(task: Task, files: TorchvisionFiles, roots: Sequence[Path]) -> LayoutData:
    """Build each split with its arguments; nothing is written or downloaded.

    Raises:
        InputError: torchvision has no such class, its files are missing or damaged, splits share images or number their
            classes differently, or a class is tested but not trained on.
    """
    root, built = _build_datasets(task, files, roots)
    try:
        with reading_only():
            splits = {name: _read_split(task, name, data, root) for name, data in built.items()}
            for attribute in _CLASSES:
                _reject_other_class_numbers(
                    task, files, root, {name: getattr(data, attribute, None) for name, data in built.items()}
                )
            names = list(map(str, getattr(built["train"], "classes", None) or ()))
    except LrbenchError:
        raise
    except Exception as error:
        # Classes without labels or without a length may raise any error.
        raise InputError(
            f"torchvision's {files.dataset} does not return one image and one integer label for each item (task {task.name}): "
            f"{_first_line(error)}. Set files.dataset to another class, or use another layout."
        ) from error
    _reject_shared_images(task, splits)
    highest = (
        max(int(split.labels.max()) for split in splits.values() if len(split)) if any(map(len, splits.values())) else 0
    )
    # Some data sets name fewer classes than they have labels.
    return from_labels(task, str(root), names if highest < len(names) else (), splits)


def _read_split(task: Task, name: SplitName, data: Any, root: Path) -> Split:
    labels = _read_labels(data)
    paths = _image_paths(data, root)
    if paths is None:
        ids = [f"{name}/{index}" for index in range(len(labels))]
        images: ImageSource = TorchvisionImages(data, root, tuple(labels), name, task.argument)
    else:
        # Files are decoded as in every other layout; the classes ignore bit depth and transparency.
        ids, images = list(map(printable, paths)), FileImages(root=root, paths=paths, task=task.argument)
    return Split(ids=ids, labels=np.asarray(labels, dtype=np.int64), images=images)


def _reject_other_class_numbers(
    task: Task, files: TorchvisionFiles, root: Path, classes: Mapping[SplitName, Any]
) -> None:
    """Reject splits that number their classes differently, which happens if a class lists the folders of each split.

    Raises:
        InputError: Names the first class that differs.
    """
    first = classes["train"]
    for split, names in classes.items():
        if not (isinstance(first, list | tuple) and isinstance(names, list | tuple)) or list(first) == list(names):
            continue
        pairs = enumerate(zip_longest(first, names, fillvalue="missing"))
        number, (ours, theirs) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
        raise InputError(
            f"torchvision's {files.dataset} at {root} numbers the classes of the splits of task {task.name} differently: "
            f"class {number} is {ours!r} in train and {theirs!r} in {split}. Copy the whole data set again."
        )


def _reject_shared_images(task: Task, splits: Mapping[SplitName, Split]) -> None:
    """Reject splits that share image files.

    Raises:
        InputError: Names them.
    """
    for one, other in combinations([split for split in splits if isinstance(splits[split].images, FileImages)], 2):
        shared = sorted(set(splits[one].ids) & set(splits[other].ids))
        if shared:
            raise InputError(
                f"{one} and {other} of task {task.name} share {counted(len(shared), 'image')} ({first_few(shared)}). Give each "
                "split different arguments in files.splits."
            )


def _build_datasets(task: Task, files: TorchvisionFiles, roots: Sequence[Path]) -> tuple[Path, dict[SplitName, Any]]:
    cls = dataset_class(task, files)
    split_of: dict[str, SplitName] = {}
    for split, arguments in files.splits.items():
        other = split_of.setdefault(repr(sorted(arguments.items())), split)
        if other != split:
            raise InputError(
                f"files.splits of task {task.name} gives {other} and {split} the same arguments, so they would have the same "
                f"images. Give each split different arguments; if torchvision's {files.dataset} has no splits, use another "
                "layout."
            )
        try:
            inspect.signature(cls).bind(root="", **arguments)
        except TypeError as error:
            raise _arguments_error(task, files, error) from error
    reading = {"download": False} if "download" in inspect.signature(cls).parameters else {}
    tried, damaged = [], False
    for root in roots:
        for name in candidates(files.root):
            path = root / name
            try:
                with reading_only():
                    return path, {
                        split: cls(root=str(path), **reading, **arguments) for split, arguments in files.splits.items()
                    }
            except Exception as error:
                if _ARGUMENT.search(str(error)):
                    raise _arguments_error(task, files, error) from error
                damaged = damaged or not isinstance(error, RuntimeError | OSError)
                # torchvision advises an argument that lrbench does not offer.
                tried.append(f"{path} ({re.sub(_DOWNLOAD_ADVICE, '', _first_line(error))})")
    raise InputError(
        f"the data of task {task.name} was not found{', or could not be read,' if damaged else ''} by torchvision's "
        f"{files.dataset}. Looked at: {'; '.join(tried)}. {how_to_get(task)}"
    )


def _first_line(error: Exception) -> str:
    """Return the first line of a library's error, with its type unless the message is self-explanatory."""
    first = (str(error).strip().splitlines() or [""])[0]
    kind = "" if isinstance(error, RuntimeError | OSError) and first else type(error).__name__
    return shorten(": ".join(filter(None, (kind, first))), quote=False).removesuffix(".")


def _arguments_error(task: Task, files: TorchvisionFiles, error: Exception) -> InputError:
    where = "" if task.path is None else f" in {task.path}"
    return InputError(
        f"task {task.name}: torchvision's {files.dataset}: {as_sentence(str(error))} Correct files.splits{where}."
    )


def download(task: Task, files: TorchvisionFiles, root: Path) -> None:
    """Let torchvision download and unpack a data set whose task names no archives. It checks hashes and cannot resume.

    Raises:
        InputError: torchvision cannot download the data set, or the task's arguments are wrong.
        FailureError: The download failed.
    """
    cls = dataset_class(task, files)
    if not is_downloadable(files):
        raise InputError(f"torchvision cannot download {files.dataset} (task {task.name}). {how_to_get(task)}")
    root.mkdir(parents=True, exist_ok=True)
    for arguments in files.splits.values():
        try:
            cls(root=str(root), download=True, **arguments)
        except Exception as error:
            if isinstance(error, TypeError) or _ARGUMENT.search(str(error)):
                raise _arguments_error(task, files, error) from error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise FailureError(
                f"torchvision's {files.dataset} could not download task {task.name} to {root}: {as_sentence(reason)} Try "
                f"again, or get it by hand: {task.manual or 'see the page of the data set.'}"
            ) from error


def _image_paths(data: Any, root: Path) -> tuple[str, ...] | None:
    """Return the path of each image relative to the root, or None if the class names no files."""
    for name in _PATHS:
        given = getattr(data, name, None)
        if not isinstance(given, list | tuple) or len(given) != len(data):
            continue
        files = [entry[0] if isinstance(entry, tuple | list) and entry else entry for entry in given]
        if not all(isinstance(file, str | os.PathLike) for file in files):
            continue
        base = os.path.join(os.path.abspath(root), "")
        absolute = [os.path.abspath(file) for file in files]
        # Paths outside the root depend on the machine, and duplicate paths would name two images.
        if len(set(absolute)) == len(absolute) and all(path.startswith(base) for path in absolute):
            return tuple(path.removeprefix(base) for path in absolute)
    return None


def _data_files(data: Any, root: Path) -> list[str]:
    """Return the files of a class that names none: those in its folder, or else those directly in the root."""
    given = next((folder for name in _FOLDERS if (folder := getattr(data, name, None))), None)
    if given is not None and os.path.isdir(root / given):
        return sorted(
            os.path.relpath(Path(folder, file), root) for folder, _, files in os.walk(root / given) for file in files
        )
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_file())


def _read_labels(data: Any) -> list[int]:
    for name in ("targets", "_labels", "labels", "y"):
        labels = getattr(data, name, None)
        if labels is not None and len(labels) == len(data):
            return [int(label) for label in labels]
    samples = getattr(data, "samples", None) or getattr(data, "_samples", None)
    if samples is not None and len(samples) == len(data):
        return [int(sample[1]) for sample in samples]
    # Slow but always right: some classes have no list of labels.
    return [int(data[index][1]) for index in range(len(data))]
