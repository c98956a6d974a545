"""Unpacking an archive atomically: extract to a temporary folder, check the contents, move them to the target."""

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
from lrbench.core.errors import FailureError, InputError, as_sentence
from lrbench.core.files import sync_folder, writing
from lrbench.data.archives.extract import check_only_files_and_folders, extract
from lrbench.data.archives.marker import mark_unpacked
from lrbench.data.archives.members import RefusedArchive, SizeBudget
from lrbench.data.layouts.image_folders import IMAGE_ENDINGS, is_system_file

_FETCH_AGAIN = "Delete it and fetch it again, or correct `unpacks_to`, `inner` or `images` in the task's TOML."
_INVALID_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}


def count_images(folder: Path) -> int:
    """Return the number of image files in a folder and its subfolders."""
    return sum(
        name.lower().endswith(IMAGE_ENDINGS) and not is_system_file(name)
        for _, _, names in os.walk(folder)
        for name in names
    )


def unpack(path: Path, target: Path, archive: Archive, control: Control, *, has_lock: bool) -> None:
    """Unpack an archive and move the wanted folder to `target`, after counting its images.

    Args:
        path: A tar, compressed or not, or a zip.
        target: Folder to create.
        archive: Description of the archive: the folder in it, an inner archive, the number of images.
        control: Receives progress; may request a stop.
        has_lock: Whether no other process can unpack to `target`, so that leftovers of a killed process may be removed.

    Raises:
        FailureError: The archive is damaged, unsafe or too large, or lacks the folder or some images; or the disk is full.
        InputError: A link or a file has the name of the temporary folder.
        InterruptedWork: A stop was requested; nothing is left behind.
    """
    with writing(target), _temporary_folder(target, has_lock=has_lock) as temporary:
        with _explain_errors(path, target):
            budget = SizeBudget.for_archive(path)
            extract(path, temporary, budget, control)
            if archive.inner:
                temporary = _extract_inner(path, temporary, archive.inner, budget, control)
            check_only_files_and_folders(temporary)
        wanted = _find_wanted(path, temporary, archive.unpacks_to or target.name)
        images = count_images(wanted)
        if archive.images is not None and images < archive.images:
            raise FailureError(f"{path} contains {images:,} images, expected {archive.images:,}. {_FETCH_AGAIN}")
        mark_unpacked(wanted, archive=path.name, images=images)
        os.replace(wanted, target)
        sync_folder(target.parent)


@contextmanager
def _temporary_folder(target: Path, *, has_lock: bool) -> Iterator[Path]:
    """Create an empty folder next to the target and remove it at the end; with a lock it has a fixed name."""
    temporary = target.with_name(f".{target.name}.unpacking")
    if has_lock:
        if temporary.is_symlink() or temporary.is_file():
            raise InputError(
                f"{temporary} is a link or a file, but lrbench unpacks to a folder of that name. Delete it, then run the same "
                "command again."
            )
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    else:
        temporary = Path(tempfile.mkdtemp(prefix=f"{temporary.name}.", dir=target.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _explain_errors(path: Path, target: Path) -> Iterator[None]:
    """Turn errors of a refused or damaged archive into a FailureError with advice."""
    try:
        yield
    except RefusedArchive as error:
        raise FailureError(
            f"{path} could not be unpacked: {as_sentence(str(error))} Unpack it yourself, check its contents, and move its "
            f"folder to {target}."
        ) from error
    # zipfile raises RuntimeError for encrypted files, and ValueError or struct.error for some damage.
    except (
        tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError, OSError, ValueError,
        OverflowError, struct.error,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        # System errors have a number; those of gzip and bzip2 for damaged data have none.
        if isinstance(error, OSError) and error.errno is not None:
            if error.errno in _INVALID_NAME:
                raise FailureError(
                    f"{path} could not be unpacked: the file system of {target.parent} refuses the member name "
                    f"{str(error.filename)[:80]!r} ({os.strerror(error.errno).lower()}). Choose another disk with "
                    "--data-root."
                ) from error
            # The temporary folder was empty, so only a member of the archive can be in the way.
            if error.errno not in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
                raise
            reason = "it is damaged: a file and a folder have the same name"
        raise FailureError(
            f"{path} could not be unpacked: {as_sentence(reason)} Delete it and fetch it again."
        ) from error


def _extract_inner(path: Path, folder: Path, inner: str, budget: SizeBudget, control: Control) -> Path:
    """Extract the archive `inner` from anywhere below a folder; return the folder with its contents."""
    inner_path = next((Path(parent, inner) for parent, _, names in os.walk(folder) if inner in names), None)
    if inner_path is None:
        raise FailureError(f"{path} contains no {inner}. {_FETCH_AGAIN}")
    inner_folder = Path(tempfile.mkdtemp(dir=folder))
    extract(inner_path, inner_folder, budget, control)
    return inner_folder


def _find_wanted(path: Path, temporary: Path, name: str) -> Path:
    """Return the folder `name` at the top or one folder below, or a folder of all files if the archive has only files."""
    tops = sorted(temporary.iterdir())
    wanted = next((folder for top in (temporary, *tops) if (folder := top / name).is_dir()), None)
    if wanted is not None:
        return wanted
    contents = [top for top in tops if not is_system_file(top.name)]
    if not contents or any(top.is_dir() for top in contents):
        names = ", ".join(top.name for top in contents[:5])
        raise FailureError(f"{path} contains no folder {name} (it contains: {names or 'nothing'}). {_FETCH_AGAIN}")
    wanted = Path(tempfile.mkdtemp(dir=temporary), "all")
    wanted.mkdir()
    for top in contents:
        os.replace(top, wanted / top.name)
    return wanted
