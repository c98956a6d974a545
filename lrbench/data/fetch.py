"""Fetching a task's archives: checked before they are unpacked, and unpacked whole or not at all."""

import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

from lrbench.data.layouts.search import how_to_get, refuse_file
from lrbench.errors import FailureError, InputError
from lrbench.files import sync_folder, writing
from lrbench.registry.task import Archive, HubFiles, Task, TorchvisionFiles

Say = Callable[[str], None]


def fetch(task: Task, root: Path, say: Say) -> None:
    """Download, check and unpack what a task's TOML names.

    Args:
        task: The task.
        root: Data root to put it in.
        say: Told what happens.

    Raises:
        InputError: There is nothing to download; says how to get the data by hand.
        FailureError: A download failed from every address, or is not what it should be.
    """
    if isinstance(task.files, HubFiles):
        from lrbench.data.layouts.hub import read_hub

        read_hub(task, task.files, (root,))
        say(f"{task.name} is in the cache of `datasets`")
        return
    if isinstance(task.files, TorchvisionFiles):
        from lrbench.data.layouts.torchvision import download

        refuse_file(task, root)
        download(task, task.files, root)
        say(f"{task.name} is there, under {root}")
        return
    if not task.archives:
        raise InputError(f"task {task.name} names nothing to download. {how_to_get(task)}")
    refuse_file(task, root)
    for archive in task.archives:
        _one(task, archive, root, say)


def _one(task: Task, archive: Archive, root: Path, say: Say) -> None:
    folder = root / archive.into
    name = Path(urlparse(archive.url).path).name
    goal = folder / (archive.unpacks_to or name)
    if goal.exists():
        say(f"{goal} is there already")
        return
    path = folder / name
    if not path.is_file() or (problem := wrong(path, archive)) is not None:
        if path.is_file():
            bad = path.with_name(path.name + ".bad")
            say(f"{path} {problem}; it is kept as {bad.name}")
            os.replace(path, bad)
        _download(task, archive, path, say)
    if archive.unpacks_to:
        say(f"unpacking {path}")
        unpack(path, folder, archive.unpacks_to)
        say(f"{goal} is there; {path} is no longer needed")


def _download(task: Task, archive: Archive, path: Path, say: Say) -> None:
    import pooch

    known = f"md5:{archive.md5}" if archive.md5 else f"sha256:{archive.sha256}" if archive.sha256 else None
    problems = []
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for url in (archive.url, *archive.mirrors):
            say(f"downloading {url}")
            with tempfile.TemporaryDirectory(prefix=".download.", dir=path.parent) as temporary:
                try:
                    # The hash is checked here, where a wrong file can be looked into, and not by pooch.
                    pooch.retrieve(url, known_hash=None, path=temporary, fname=path.name, progressbar=False)
                except Exception as error:
                    # Requests, pooch and the operating system each raise their own.
                    if isinstance(error, OSError) and error.errno is not None and not hasattr(error, "response"):
                        raise
                    problems.append(f"{url}: {(str(error).splitlines() or [type(error).__name__])[0]}")
                    continue
                problem = wrong(Path(temporary) / path.name, archive)
                if problem is None:
                    os.replace(Path(temporary) / path.name, path)
                    sync_folder(path.parent)
                    return
                problems.append(f"{url}: what came {problem}")
    raise FailureError(
        f"{path.name} of task {task.name} could not be fetched. {'; '.join(problems)}. Fetch it by hand"
        + (f" (it has {archive.bytes:,} bytes)" if archive.bytes else "")
        + (f" (its hash is {known})" if known else "")
        + f" and put it at {path}, then run the same command again: it will be checked and unpacked."
    )


def wrong(path: Path, archive: Archive) -> str | None:
    """What is wrong with a downloaded file, in a few words; None when it is as it should be."""
    import pooch

    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "is a web page, not the file (a page that asks for a log-in or says that the file has moved)"
    if archive.bytes is not None and path.stat().st_size != archive.bytes:
        return f"has {path.stat().st_size:,} bytes, not {archive.bytes:,}"
    for algorithm, expected in (("md5", archive.md5), ("sha256", archive.sha256)):
        if expected and (found := pooch.file_hash(str(path), alg=algorithm)) != expected:
            return f"has the {algorithm} {found}, not {expected}"
    return None


def unpack(path: Path, folder: Path, appears: str) -> None:
    """Unpack an archive into a temporary folder and move what should appear into place.

    Args:
        path: A tar, compressed or not, or a zip.
        folder: Where to unpack.
        appears: The folder in the archive that is wanted.

    Raises:
        FailureError: The archive is damaged, holds members that lead out of it, or does not hold the folder.
    """
    with writing(folder):
        temporary = Path(tempfile.mkdtemp(prefix=".unpack.", dir=folder))
        try:
            try:
                if zipfile.is_zipfile(path):
                    _unzip(path, temporary)
                else:
                    with tarfile.open(path) as archive:
                        archive.extractall(temporary, filter="data")
            except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
                raise FailureError(
                    f"{path} could not be unpacked: {error}. Nothing was put in place. Delete it and fetch it again."
                ) from error
            found = next(
                (each for each in (temporary / appears, *temporary.glob(f"*/{appears}")) if each.is_dir()), None
            )
            if found is None:
                held = ", ".join(sorted(each.name for each in temporary.iterdir())[:5])
                raise FailureError(f"{path} holds no folder {appears} (it holds {held}). Delete it and fetch it again.")
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
