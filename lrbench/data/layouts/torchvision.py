"""The layout `torchvision`: a class of `torchvision.datasets`, built once a split from files that are there."""

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from lrbench.config.task import Task, TorchvisionFiles
from lrbench.core.errors import FailureError, InputError, LrbenchError, as_sentence
from lrbench.core.files import sha256_bytes
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
# How it says that an argument is none that it knows (`verify_str_arg`).
_ARGUMENT = re.compile(
    "^Unknown value .* for argument|^Expected type .* for argument|unexpected keyword argument|required positional argument"
)
# Where they keep their classes' names.
_CLASSES = ("classes", "all_categories")
# Where torchvision's classes keep their files' paths, or pairs of a path and a label.
_PATHS = ("_image_files", "_images", "_samples", "samples", "imgs", "images", "data")
# Where they keep the folder of their files, absolute or relative to their root.
_FOLDERS = ("_base_folder", "base_folder", "raw_folder", "_data_path")


@dataclass(frozen=True)
class TorchvisionImages:
    """An `ImageSource` over a torchvision data set whose images do not lie in files of their own."""

    data: Any = field(repr=False)
    root: Path
    labels: tuple[int, ...] = field(repr=False)
    split: str
    task: str

    def read(self, index: int) -> Bytes:
        """Image `index` as RGB. Shape `(H, W, 3)`.

        Raises:
            InputError: It does not decode; the message says where it is.
        """
        try:
            with reading_only():
                image = self.data[index][0]
            return rgb_pixels(image)
        except Exception as error:
            raise UndecodableImage(f"{self.split} image {index} under {self.root}", str(error), self.task) from error

    def stamp(self) -> str:
        """SHA-256 of how the data set was built, of its labels, and of its files' sizes and modification times."""
        files = hash_file_stats(self.root, _data_files(self.data, self.root))[0]
        return sha256_bytes(f"{self.data!r} {self.labels} {files}".encode(errors="surrogateescape"))

    def content(self) -> None:
        """Nothing: the images lie together in a few files."""
        return


def find_torchvision(task: Task, files: TorchvisionFiles, roots: Sequence[Path]) -> Path:
    """The first root from which the class can be built.

    Raises:
        InputError: None can, or the task's arguments are wrong.
    """
    return _build(task, files, roots)[0]


def read_torchvision(task: Task, files: TorchvisionFiles, roots: Sequence[Path]) -> LayoutData:
    """Build each split with its arguments; nothing is written or downloaded.

    Raises:
        InputError: torchvision has no such class, its files are not there or damaged, splits are the same images or number
            their classes differently, or a class is tested but not trained on.
    """
    root, built = _build(task, files, roots)
    try:
        with reading_only():
            splits = {name: _split(task, name, data, root) for name, data in built.items()}
            for attribute in _CLASSES:
                _refuse_other_numbers(
                    task, files, root, {name: getattr(data, attribute, None) for name, data in built.items()}
                )
            names = list(map(str, getattr(built["train"], "classes", None) or ()))
    except LrbenchError:
        raise
    except Exception as error:
        # Classes without labels or without a length raise whatever their code happens to.
        raise InputError(
            f"torchvision's {files.dataset} does not give one image and one whole number a row for task {task.name}: "
            f"{_reason(error)}. Name another class in files.dataset, or read the files with another layout."
        ) from error
    _reject_shared_images(task, splits)
    highest = (
        max(int(split.labels.max()) for split in splits.values() if len(split)) if any(map(len, splits.values())) else 0
    )
    # Some classes name fewer than they have, such as coarser ones.
    return from_labels(task, str(root), names if highest < len(names) else (), splits)


def _split(task: Task, name: SplitName, data: Any, root: Path) -> Split:
    labels = _labels(data)
    paths = _paths(data, root)
    if paths is None:
        ids = [f"{name}/{index}" for index in range(len(labels))]
        images: ImageSource = TorchvisionImages(data, root, tuple(labels), name, task.argument)
    else:
        # Files are read by content, as in every other layout: the classes look at neither depth nor transparency.
        ids, images = list(map(printable, paths)), FileImages(root=root, paths=paths, task=task.argument)
    return Split(ids=ids, labels=np.asarray(labels, dtype=np.int64), images=images)


def _refuse_other_numbers(task: Task, files: TorchvisionFiles, root: Path, classes: Mapping[SplitName, Any]) -> None:
    """Refuse splits that number their classes differently, as those classes do that list the folders of a split.

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
            f"torchvision's {files.dataset} at {root} numbers the classes of task {task.name} differently: class {number} is "
            f"{ours!r} in train and {theirs!r} in {split}. Copy the whole data set again."
        )


def _reject_shared_images(task: Task, splits: Mapping[SplitName, Split]) -> None:
    """Refuse splits that share image files.

    Raises:
        InputError: Names them.
    """
    for one, other in combinations([split for split in splits if isinstance(splits[split].images, FileImages)], 2):
        shared = sorted(set(splits[one].ids) & set(splits[other].ids))
        if shared:
            raise InputError(
                f"{len(shared):,} images of task {task.name} are both in {one} and in {other} ({first_few(shared)}). Give each "
                "split other arguments in files.splits."
            )


def _build(task: Task, files: TorchvisionFiles, roots: Sequence[Path]) -> tuple[Path, dict[SplitName, Any]]:
    make = dataset_class(task, files)
    given: dict[str, SplitName] = {}
    for split, arguments in files.splits.items():
        other = given.setdefault(repr(sorted(arguments.items())), split)
        if other != split:
            raise InputError(
                f"files.splits of task {task.name} gives {other} and {split} the same arguments, so they would be the same "
                f"images. Give each its own; where torchvision's {files.dataset} knows no splits, use another layout."
            )
        try:
            inspect.signature(make).bind(root="", **arguments)
        except TypeError as error:
            raise _wrong_arguments(task, files, error) from error
    reading = {"download": False} if "download" in inspect.signature(make).parameters else {}
    tried, damaged = [], False
    for root in roots:
        for name in candidates(files.root):
            path = root / name
            try:
                with reading_only():
                    return path, {
                        split: make(root=str(path), **reading, **arguments) for split, arguments in files.splits.items()
                    }
            except Exception as error:
                if _ARGUMENT.search(str(error)):
                    raise _wrong_arguments(task, files, error) from error
                damaged = damaged or not isinstance(error, RuntimeError | OSError)
                # torchvision speaks of an argument that a user of lrbench does not have.
                tried.append(f"{path} ({re.sub(_DOWNLOAD_ADVICE, '', _reason(error))})")
    raise InputError(
        f"the data of task {task.name} was not found{', or could not be read,' if damaged else ''} by torchvision's "
        f"{files.dataset}. Looked at: {'; '.join(tried)}. {how_to_get(task)}"
    )


def _reason(error: Exception) -> str:
    """The first line of an error of others' code, with its kind where that alone says what it is."""
    first = (str(error).strip().splitlines() or [""])[0]
    kind = "" if isinstance(error, RuntimeError | OSError) and first else type(error).__name__
    return shorten(": ".join(filter(None, (kind, first))), quote=False).removesuffix(".")


def _wrong_arguments(task: Task, files: TorchvisionFiles, error: Exception) -> InputError:
    where = "" if task.path is None else f" in {task.path}"
    return InputError(
        f"task {task.name}: torchvision's {files.dataset}: {as_sentence(str(error))} Correct files.splits{where}."
    )


def download(task: Task, files: TorchvisionFiles, root: Path) -> None:
    """Have torchvision download and unpack a data set whose task names no archives; it checks hashes, begins anew each time.

    Raises:
        InputError: The class downloads nothing, or the task's arguments are wrong; says what to do.
        FailureError: The download failed.
    """
    make = dataset_class(task, files)
    if not is_downloadable(files):
        raise InputError(f"torchvision's {files.dataset} downloads nothing (task {task.name}). {how_to_get(task)}")
    root.mkdir(parents=True, exist_ok=True)
    for arguments in files.splits.values():
        try:
            make(root=str(root), download=True, **arguments)
        except Exception as error:
            if isinstance(error, TypeError) or _ARGUMENT.search(str(error)):
                raise _wrong_arguments(task, files, error) from error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise FailureError(
                f"torchvision's {files.dataset} could not download task {task.name} to {root}: {as_sentence(reason)} Try "
                f"again, or get it by hand: {task.manual or 'see the data set’s own page.'}"
            ) from error


def _paths(data: Any, root: Path) -> tuple[str, ...] | None:
    """The path of each image relative to the root, or None where the class names no files."""
    for name in _PATHS:
        given = getattr(data, name, None)
        if not isinstance(given, list | tuple) or len(given) != len(data):
            continue
        files = [each[0] if isinstance(each, tuple | list) and each else each for each in given]
        if not all(isinstance(file, str | os.PathLike) for file in files):
            continue
        base = os.path.join(os.path.abspath(root), "")
        absolute = [os.path.abspath(file) for file in files]
        # Paths elsewhere would name this machine's folders, and twins would name two images.
        if len(set(absolute)) == len(absolute) and all(path.startswith(base) for path in absolute):
            return tuple(path.removeprefix(base) for path in absolute)
    return None


def _data_files(data: Any, root: Path) -> list[str]:
    """The files of a class that names none: those in its own folder, or those that lie in the root itself."""
    given = next((folder for name in _FOLDERS if (folder := getattr(data, name, None))), None)
    if given is not None and os.path.isdir(root / given):
        return sorted(
            os.path.relpath(Path(folder, file), root) for folder, _, files in os.walk(root / given) for file in files
        )
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_file())


def _labels(data: Any) -> list[int]:
    for name in ("targets", "_labels", "labels", "y"):
        labels = getattr(data, name, None)
        if labels is not None and len(labels) == len(data):
            return [int(label) for label in labels]
    samples = getattr(data, "samples", None) or getattr(data, "_samples", None)
    if samples is not None and len(samples) == len(data):
        return [int(sample[1]) for sample in samples]
    # Slow but always right: some classes keep their labels nowhere.
    return [int(data[index][1]) for index in range(len(data))]
