"""Unpacking an archive beside its goal, checking what it held, and moving that into place: whole or not at all."""

import errno
import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrbench.config.task import Archive
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, sentence
from lrbench.core.files import sync_folder, writing
from lrbench.data.extract import RefusedArchive, Room, extract, refuse_other_kinds
from lrbench.data.layouts.image_folders import IMAGE_ENDINGS, is_system_file
from lrbench.data.unpacked import mark_unpacked

_WRONG = (
    "Delete it and fetch it again; or, where it is right, correct `unpacks_to`, `inner` or `images` in the task's TOML."
)
# The system's answers to names that it does not take.
_NAMES = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}


def count_images(folder: Path) -> int:
    """Number of image files in a folder and those below it, what systems leave lying about not counted."""
    return sum(
        name.lower().endswith(IMAGE_ENDINGS) and not is_system_file(name)
        for _, _, names in os.walk(folder)
        for name in names
    )


def unpack(path: Path, goal: Path, archive: Archive, control: Control, *, alone: bool) -> None:
    """Unpack an archive into a temporary folder, count its images, and move what should appear into place.

    Args:
        path: A tar, compressed or not, or a zip.
        goal: The folder that should appear.
        archive: Says how many images it holds.
        control: Told how far it is; may stop it.
        alone: Whether no other process can be unpacking to `goal`, so that what a killed one left there is removed.

    Raises:
        FailureError: The archive is damaged, holds more than files and folders or members that lead out of it, would fill
            the disk, does not hold the folder, or holds fewer images; or the disk is full.
        InputError: A link or a file is at the temporary folder's place.
        InterruptedWork: Asked to stop; nothing is left of what was unpacked.
    """
    with writing(goal), _temporary_folder(goal, alone=alone) as temporary:
        with _named_problems(path, goal):
            room = Room.of(path)
            extract(path, temporary, room, control)
            if archive.inner:
                temporary = _unpack_inner(path, temporary, archive.inner, room, control)
            refuse_other_kinds(temporary)
        found = _wanted(path, temporary, archive.unpacks_to or goal.name)
        images = count_images(found)
        if archive.images is not None and images < archive.images:
            raise FailureError(
                f"{path} holds {images:,} images, and it should hold {archive.images:,}. Nothing was put in place. "
                f"{_WRONG}"
            )
        mark_unpacked(found, archive=path.name, images=images)
        os.replace(found, goal)
        sync_folder(goal.parent)


@contextmanager
def _temporary_folder(goal: Path, *, alone: bool) -> Iterator[Path]:
    """An empty folder beside the goal, removed at the end; of a fixed name where no other process can be using it."""
    temporary = goal.with_name(f".{goal.name}.unpacking")
    if alone:
        if temporary.is_symlink() or temporary.is_file():
            raise InputError(
                f"{temporary} is a link or a file, and lrbench unpacks to a folder of that name. Delete it, then run the same "
                "command again."
            )
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    else:
        temporary = Path(tempfile.mkdtemp(prefix=f"{temporary.name}.", dir=goal.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _named_problems(path: Path, goal: Path) -> Iterator[None]:
    """Turn what is raised for an archive that is refused or damaged into one clear paragraph."""
    by_hand = f"Unpack it by hand, check what it holds, and put its folder at {goal}"
    try:
        yield
    except RefusedArchive as error:
        raise FailureError(
            f"{path} could not be unpacked: {sentence(str(error))} Nothing was put in place. {by_hand}."
        ) from error
    # Zip files raise RuntimeError where they are encrypted, and ValueError or struct.error for some damage.
    except (
        tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError, OSError, ValueError,
        OverflowError, struct.error,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        # The system's own errors have a number; gzip's and bzip2's, of damaged data, have none.
        if isinstance(error, OSError) and error.errno is not None:
            if error.errno in _NAMES:
                raise FailureError(
                    f"{path} could not be unpacked: the file system at {goal.parent} does not take the name of its member "
                    f"{str(error.filename)[:80]!r} ({os.strerror(error.errno).lower()}). Nothing was put in place. Choose "
                    "another disk with --data-root."
                ) from error
            # It is unpacked into an empty folder: what is in the way there came out of the archive.
            if error.errno not in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
                raise
            reason = "it is damaged: it holds a file and a folder of the same name"
        raise FailureError(
            f"{path} could not be unpacked: {sentence(reason)} Nothing was put in place. Delete it and fetch it again."
        ) from error


def _unpack_inner(path: Path, folder: Path, inner: str, room: Room, control: Control) -> Path:
    """Unpack the archive `inner` that is somewhere in a folder; gives the folder of what it held.

    Raises:
        FailureError: It is not there.
    """
    found = next((Path(parent, inner) for parent, _, names in os.walk(folder) if inner in names), None)
    if found is None:
        raise FailureError(f"{path} holds no {inner}. Nothing was put in place. {_WRONG}")
    unpacked = Path(tempfile.mkdtemp(dir=folder))
    extract(found, unpacked, room, control)
    return unpacked


def _wanted(path: Path, temporary: Path, appears: str) -> Path:
    """The folder that should appear, among what was unpacked: at the top, one folder below, or all of it.

    Raises:
        FailureError: It is not there.
    """
    tops = sorted(temporary.iterdir())
    found = next((folder for top in (temporary, *tops) if (folder := top / appears).is_dir()), None)
    if found is not None:
        return found
    held = [top for top in tops if not is_system_file(top.name)]
    if not held or any(top.is_dir() for top in held):
        names = ", ".join(top.name for top in held[:5])
        raise FailureError(f"{path} holds no folder {appears} (it holds {names}). {_WRONG}")
    # Its files are at the top, without a folder around them.
    found = Path(tempfile.mkdtemp(dir=temporary), "all")
    found.mkdir()
    for top in held:
        os.replace(top, found / top.name)
    return found
