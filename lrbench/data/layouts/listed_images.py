"""Images that a file names, a list's or a table's: where they are sought, and which of them are there."""

import itertools
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrbench.config.strict import OneOrMore
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.data.examples import SplitName
from lrbench.data.layouts.data_folder import candidates
from lrbench.data.layouts.display import first_few
from lrbench.data.layouts.image_folders import list_images
from lrbench.data.layouts.layout_data import Sample
from lrbench.data.layouts.list_files import is_number
from lrbench.data.layouts.unicode_names import PathLookup, unify_unicode_forms


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """What is there of the images that a file names.

    Attributes:
        samples: Class and path, relative to the data set's folder, of each image that is there.
        ids: What the file calls each of these, wherever their folder lies.
        missing: What it calls those that are not there.
    """

    samples: list[Sample]
    ids: list[str]
    missing: list[str]


def existing_image_folders(names: OneOrMore, root: Path) -> list[str]:
    """The folders that are there of those that may hold the images, relative to `root`."""
    return [name for name in candidates(names) if os.path.isdir(root / name)]


def find_list(root: Path, folders: Sequence[str], names: OneOrMore) -> Path | None:
    """The first of several file names that is there, in `root` or beside a folder of the images."""
    folders_of_lists = list(dict.fromkeys([root, *((root / folder).parent for folder in folders)]))
    places = [place / name for name in candidates(names) for place in folders_of_lists]
    return next((place for place in places if os.path.isfile(place)), None)


def describe_missing_parts(root: Path, images: OneOrMore, lists: Sequence[OneOrMore]) -> str | None:
    """Why a folder does not hold the images' folder and all lists; None where it does."""
    folders = existing_image_folders(images, root)
    if not folders:
        return f"no folder {' or '.join(candidates(images))} in it"
    missing = [candidates(each)[0] for each in lists if find_list(root, folders, each) is None]
    return f"no {' and no '.join(missing)} in it or beside {root / folders[0]}" if missing else None


def choose_image_folder(root: Path, folders: Sequence[str], named: Sequence[Sample]) -> str:
    """The first folder that holds any of the named images: another one may only be called like it."""
    if len(folders) == 1:
        return folders[0]
    return next((folder for folder in folders if has_any_image(root, folder, named)), folders[0])


def has_any_image(root: Path, folder: str, named: Sequence[Sample]) -> bool:
    """Whether any of the named images is in a folder; looks no further than the first that is."""
    files = PathLookup(root)
    return any(os.path.isfile(root / image_path(folder, image)) for _, image in named) or any(
        files.find(image_path(folder, image)) for _, image in named
    )


def image_path(folder: str, image: str) -> str:
    """A named image's path relative to the data set's folder."""
    return image if folder == "." else f"{folder}/{image}"


def find_listed_images(root: Path, folder: str, named: Sequence[Sample]) -> ListedImages:
    """Which of the named images are there, in whatever Unicode form and with endings in upper or lower case."""
    found, files = ListedImages(samples=[], ids=[], missing=[]), PathLookup(root)
    for klass, image in named:
        path = files.find(image_path(folder, image))
        if path is not None:
            found.samples.append((klass, path))
            found.ids.append(image)
        else:
            found.missing.append(image)
    return found


def unify_class_names(named: Mapping[SplitName, Sequence[Sample]]) -> dict[SplitName, list[Sample]]:
    """The images of each split with their classes, whose names differ in more than their Unicode form."""
    class_of = unify_unicode_forms(klass for samples in named.values() for klass, _ in samples)
    return {split: [(class_of[klass], image) for klass, image in samples] for split, samples in named.items()}


def find_unlisted_images(task: Task, root: Path, samples: Mapping[SplitName, Sequence[Sample]]) -> list[str]:
    """The images beside those of a task that it does not name; none where counts say that all are named.

    Args:
        task: The task.
        root: The folder that the paths of `samples` are relative to.
        samples: The images of each split.
    """
    if {"train", "test"} <= task.counts.keys():
        return []
    used = {path for found in samples.values() for _, path in found}
    folders = sorted({posixpath.dirname(path) for path in used})
    there = (posixpath.join(folder, name) for folder in folders for name in list_images(root / folder)[0])
    return [path for path in there if path not in used]


def describe_missing_images(found: ListedImages, of: int, what: str) -> list[str]:
    """A clause that says that named images are not there; none where all are.

    Args:
        found: What is there.
        of: How many are named.
        what: Which images, as `listed test`.
    """
    if not found.missing:
        return []
    return [f"{len(found.missing):,} of {of:,} {what} images are not there ({first_few(found.missing)})"]


def no_images_error(task: Task, path: Path, first: Path, count: int, hint: str = "") -> InputError:
    """The error for a file none of whose images is there.

    Args:
        task: The task.
        path: The list or table.
        first: Where its first image was looked for.
        count: How many it names.
        hint: What else may be the cause, as a sentence that ends in a space.
    """
    return InputError(
        f"none of the {count:,} images that {path} lists is there: the first was looked for at {first}. {hint}Copy the "
        f"images, or set files.images in the TOML of task {task.name} to the folder that these names are relative to."
    )


def reject_shared_images(task: Task, root: Path, listed: Mapping[SplitName, Sequence[Sample]]) -> None:
    """Refuse splits that share images, however their paths are spelt.

    Raises:
        InputError: Names them.
    """
    paths = {split: {posixpath.normpath(path) for _, path in named} for split, named in listed.items()}
    for one, other in itertools.combinations(paths, 2):
        shared = sorted(paths[one] & paths[other])
        if shared:
            raise InputError(
                f"the lists of task {task.name} at {root} name {len(shared):,} images both for {one} and for {other} "
                f"({first_few(shared)}), so what is learnt by heart would be tested, or selected by. Get the original "
                "lists again."
            )


def sort_classes(names: set[str]) -> list[str]:
    """In the order of their numbers where all are whole numbers, else of their names."""
    return sorted(names, key=lambda name: (int(name), name)) if all(map(is_number, names)) else sorted(names)
