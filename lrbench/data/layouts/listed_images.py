"""Images that a list or a table names: find their folder, and which of them exist."""

import itertools
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrbench.config.strict import OneOrMore
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.wording import counted
from lrbench.data.examples import SplitName
from lrbench.data.layouts.data_folder import candidates
from lrbench.data.layouts.display import first_few
from lrbench.data.layouts.image_folders import list_images
from lrbench.data.layouts.layout_data import Sample
from lrbench.data.layouts.list_files import is_number
from lrbench.data.layouts.unicode_names import PathLookup, unify_unicode_forms


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """The images that a file names, divided into existing and missing ones.

    Attributes:
        samples: Class and path, relative to the data set's folder, of each existing image.
        ids: Name of each existing image in the file, without the image folder.
        missing: Names of the images that do not exist.
    """

    samples: list[Sample]
    ids: list[str]
    missing: list[str]


def existing_image_folders(names: OneOrMore, root: Path) -> list[str]:
    """Return the candidate image folders that exist, relative to `root`."""
    return [name for name in candidates(names) if os.path.isdir(root / name)]


def find_list(root: Path, folders: Sequence[str], names: OneOrMore) -> Path | None:
    """Return the first of several file names that exists, in `root` or next to an image folder."""
    folders_of_lists = list(dict.fromkeys([root, *((root / folder).parent for folder in folders)]))
    places = [place / name for name in candidates(names) for place in folders_of_lists]
    return next((place for place in places if os.path.isfile(place)), None)


def describe_missing_parts(root: Path, images: OneOrMore, lists: Sequence[OneOrMore]) -> str | None:
    """Return which of the image folder and the lists a folder lacks, or None if it has all of them."""
    folders = existing_image_folders(images, root)
    if not folders:
        return f"it has no folder {' or '.join(candidates(images))}"
    missing = [candidates(names)[0] for names in lists if find_list(root, folders, names) is None]
    return f"no {' and no '.join(missing)} in it or next to {root / folders[0]}" if missing else None


def choose_image_folder(root: Path, folders: Sequence[str], named: Sequence[Sample]) -> str:
    """Return the first folder that has any of the named images."""
    if len(folders) == 1:
        return folders[0]
    return next((folder for folder in folders if has_any_image(root, folder, named)), folders[0])


def has_any_image(root: Path, folder: str, named: Sequence[Sample]) -> bool:
    """Return whether any of the named images is in a folder; stops at the first."""
    files = PathLookup(root)
    return any(os.path.isfile(root / image_path(folder, image)) for _, image in named) or any(
        files.find(image_path(folder, image)) for _, image in named
    )


def image_path(folder: str, image: str) -> str:
    """Return a named image's path relative to the data set's folder."""
    return image if folder == "." else f"{folder}/{image}"


def find_listed_images(root: Path, folder: str, named: Sequence[Sample]) -> ListedImages:
    """Find the named images, in any Unicode form and with endings in upper or lower case."""
    listed, files = ListedImages(samples=[], ids=[], missing=[]), PathLookup(root)
    for klass, image in named:
        path = files.find(image_path(folder, image))
        if path is not None:
            listed.samples.append((klass, path))
            listed.ids.append(image)
        else:
            listed.missing.append(image)
    return listed


def unify_class_names(named: Mapping[SplitName, Sequence[Sample]]) -> dict[SplitName, list[Sample]]:
    """Return the samples of each split with one Unicode form for each class."""
    class_of = unify_unicode_forms(klass for samples in named.values() for klass, _ in samples)
    return {split: [(class_of[klass], image) for klass, image in samples] for split, samples in named.items()}


def find_unlisted_images(task: Task, root: Path, samples: Mapping[SplitName, Sequence[Sample]]) -> list[str]:
    """Return images in the folders of a task's images that it does not name; none if the task pins counts.

    Args:
        task: The task.
        root: Folder that the paths of `samples` are relative to.
        samples: The images of each split.
    """
    if {"train", "test"} <= task.counts.keys():
        return []
    used = {path for members in samples.values() for _, path in members}
    folders = [folder for folder in sorted({posixpath.dirname(path) for path in used}) if (root / folder).is_dir()]
    existing = (posixpath.join(folder, name) for folder in folders for name in list_images(root / folder)[0])
    return [path for path in existing if path not in used]


def describe_missing_images(images: ListedImages, count: int, kind: str) -> list[str]:
    """Return a clause about missing images, or nothing if all exist.

    Args:
        images: Existing and missing images.
        count: Number of named images.
        kind: Which images, as `listed test`.
    """
    if not images.missing:
        return []
    return [f"{len(images.missing):,} of {count:,} {kind} images are missing ({first_few(images.missing)})"]


def no_images_error(task: Task, path: Path, first: Path, count: int, hint: str = "") -> InputError:
    """Return the error for a file none of whose images exists.

    Args:
        task: The task.
        path: The list or table.
        first: Path at which its first image was looked for.
        count: Number of images that it names.
        hint: Another possible cause, as a sentence.
    """
    advice = f"{hint} Otherwise, copy" if hint else "Copy"
    return InputError(
        f"none of the {count:,} images in {path} exists; the first was looked for at {first}. {advice} the images, or set "
        f"files.images in the TOML of task {task.name} to the folder that these names are relative to."
    )


def reject_shared_images(task: Task, root: Path, listed: Mapping[SplitName, Sequence[Sample]]) -> None:
    """Reject splits that share images, however their paths are spelt.

    Raises:
        InputError: Names them.
    """
    paths = {split: {posixpath.normpath(path) for _, path in samples} for split, samples in listed.items()}
    for one, other in itertools.combinations(paths, 2):
        shared = sorted(paths[one] & paths[other])
        if shared:
            raise InputError(
                f"the lists of task {task.name} at {root} name {counted(len(shared), 'image')} for both {one} and {other} "
                f"({first_few(shared)}). Splits must not overlap; get the original lists."
            )


def sort_classes(names: set[str]) -> list[str]:
    """Sort class names numerically if all are whole numbers, otherwise as text."""
    return sorted(names, key=lambda name: (int(name), name)) if all(map(is_number, names)) else sorted(names)
