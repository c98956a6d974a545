"""Fetching a task's archives: checked before they are unpacked, and unpacked whole or not at all."""

import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlparse

from lrbench.control import Control
from lrbench.data.layouts.scanning import IMAGE_ENDINGS, is_litter
from lrbench.data.layouts.search import how_to_get, refuse_file
from lrbench.data.receive import receive, wrong
from lrbench.errors import FailureError, InputError
from lrbench.files import sync_folder, write_json, writing
from lrbench.registry.task import Archive, HubFiles, Task, TorchvisionFiles

_MARKER = ".lrbench-fetched.json"


def fetch(task: Task, root: Path, control: Control) -> None:
    """Download, check and unpack what a task's TOML names.

    Args:
        task: The task.
        root: Data root to put it in.
        control: Told what happens, and how far a download is; it may stop one, which is then gone on with.

    Raises:
        InputError: There is nothing to download; says how to get the data by hand.
        FailureError: A download failed from every address, or is not what it should be; or the disk is full.
        InterruptedWork: Asked to stop; what arrived is kept.
    """
    if isinstance(task.files, HubFiles):
        from lrbench.data.layouts.hub import read_hub

        read_hub(task, task.files, (root,))
        control.say(f"{task.name} is in the cache of `datasets`")
        return
    if isinstance(task.files, TorchvisionFiles):
        from lrbench.data.layouts.torchvision import download

        refuse_file(task, root)
        download(task, task.files, root)
        control.say(f"{task.name} is there, under {root}")
        return
    if not task.archives:
        raise InputError(f"task {task.name} names nothing to download. {how_to_get(task)}")
    refuse_file(task, root)
    for archive in task.archives:
        _one(task, archive, root, control)


def _one(task: Task, archive: Archive, root: Path, control: Control) -> None:
    folder = root / archive.into
    name = Path(urlparse(archive.url).path).name
    goal = folder / (archive.unpacks_to or name)
    if goal.exists():
        _refuse_half_unpacked(task, archive, goal)
        control.say(f"{goal} is there already")
        return
    path = folder / name
    if not path.is_file() or (problem := wrong(path, archive)) is not None:
        if path.is_file():
            _set_aside(path, problem or "", control)
        receive(task, archive, path, control)
    if archive.unpacks_to:
        control.say(f"unpacking {path}")
        unpack(path, folder, archive)
        control.say(f"{goal} is there; {path} is no longer needed")


def _refuse_half_unpacked(task: Task, archive: Archive, goal: Path) -> None:
    if archive.images is None or (goal / _MARKER).is_file():
        return
    found = count_images(goal)
    if found < archive.images:
        raise FailureError(
            f"{goal} of task {task.name} holds {found:,} images, and the whole archive {archive.images:,}: it was unpacked or "
            "copied in part. Move it away, then run the same command again; an archive that is there already is not fetched "
            "again."
        )


def _set_aside(path: Path, problem: str, control: Control) -> None:
    bad = path.with_name(path.name + ".bad")
    control.say(f"{path} {problem}; it is kept as {bad.name}")
    os.replace(path, bad)


def count_images(folder: Path) -> int:
    """Number of image files in a folder and those below it, what systems leave lying about not counted."""
    return sum(
        name.lower().endswith(IMAGE_ENDINGS) and not is_litter(name)
        for _, _, names in os.walk(folder)
        for name in names
    )


def unpack(path: Path, folder: Path, archive: Archive) -> None:
    """Unpack an archive into a temporary folder, count its images, and move what should appear into place.

    Args:
        path: A tar, compressed or not, or a zip.
        folder: Where to unpack.
        archive: Names the folder that is wanted and how many images it holds.

    Raises:
        FailureError: The archive is damaged, holds members that lead out of it, does not hold the folder, or holds fewer
            images; or the disk is full.
    """
    appears = archive.unpacks_to or ""
    with writing(folder):
        temporary = Path(tempfile.mkdtemp(prefix=".unpack.", dir=folder))
        try:
            try:
                if zipfile.is_zipfile(path):
                    _unzip(path, temporary)
                else:
                    with tarfile.open(path) as opened:
                        opened.extractall(temporary, filter="data")
            except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
                raise FailureError(
                    f"{path} could not be unpacked: {error}. Nothing was put in place. Delete it and fetch it again."
                ) from error
            found = next(
                (each for each in (temporary / appears, *temporary.glob(f"*/{appears}")) if each.is_dir()), None
            )
            if found is None:
                held = ", ".join(sorted(each.name for each in temporary.iterdir())[:5])
                raise FailureError(f"{path} holds no folder {appears} (it holds {held}). Delete it and fetch it again.")
            images = count_images(found)
            if archive.images is not None and images < archive.images:
                raise FailureError(
                    f"{path} holds {images:,} images, and it should hold {archive.images:,}. Nothing was put in place. Delete "
                    "it and fetch it again."
                )
            # Says later that this folder was unpacked whole; readers pass over names that begin with a dot.
            write_json(found / _MARKER, {"archive": path.name, "images": images})
            os.replace(found, folder / appears)
            sync_folder(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _unzip(path: Path, temporary: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.startswith("/") or ".." in Path(member).parts:
                raise zipfile.BadZipFile(f"its member {member!r} leads out of it")
        archive.extractall(temporary)
