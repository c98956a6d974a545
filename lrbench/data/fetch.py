"""Fetching a task's archives: checked before they are unpacked, and unpacked whole or not at all."""

import errno
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from lrbench.control import Control
from lrbench.data.layouts.scanning import IMAGE_ENDINGS, is_litter
from lrbench.data.layouts.search import beneath, candidates, how_to_get, refuse_file
from lrbench.data.receive import receive, set_aside, wrong
from lrbench.data.unpacked import is_marked, mark_unpacked
from lrbench.errors import FailureError, InputError, InterruptedWork, sentence
from lrbench.files import sync_folder, writing
from lrbench.locks import locked
from lrbench.registry.task import Archive, HubFiles, Task, TorchvisionFiles

_CHUNK = 1 << 20
_PACKED = {".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip"}
_WRONG = (
    "Delete it and fetch it again; or, where it is right, correct `unpacks_to`, `inner` or `images` in the task's TOML."
)


def fetch(task: Task, root: Path, control: Control, *, roots: Sequence[Path] = ()) -> None:
    """Download, check and unpack what a task's TOML names, unless the whole data is there.

    Args:
        task: The task.
        root: Data root to put it in.
        control: Told what happens, and how far a download is; it may stop one, which is then gone on with.
        roots: Data roots in which the data may be already, beside `root`.

    Raises:
        InputError: There is nothing to download; says how to get the data by hand.
        FailureError: A download failed from every address, or is not what it should be; or the disk is full.
        InterruptedWork: Asked to stop; what arrived is kept.
    """
    from lrbench.data.loading import find_task_data

    if isinstance(task.files, HubFiles):
        from lrbench.data.layouts.hub import read_hub

        read_hub(task, task.files, (root,))
        control.say(f"{task.name} is in the cache of `datasets`")
        return
    if isinstance(task.files, TorchvisionFiles) and not task.archives:
        from lrbench.data.layouts.torchvision import download

        refuse_file(task, root)
        download(task, task.files, root)
        control.say(f"{task.name} is there, under {root}")
        return
    if task.files.layout == "synthetic":
        control.say(f"{task.name} is made on the spot: there is nothing to fetch")
        return
    if not task.archives:
        raise InputError(f"task {task.name} names nothing to download. {how_to_get(task)}")
    refuse_file(task, root)
    everywhere = (root, *roots)
    # Without pinned counts nothing says what the whole is.
    if task.counts and not _missing(task, everywhere):
        control.say(f"{task.name} is there already, whole, at {find_task_data(task, everywhere)}")
        return
    for archive in task.archives:
        _one(task, archive, _beside(task, archive, root), control)
    # A folder of the right name may hold a part.
    if task.counts and (problems := _missing(task, everywhere)):
        goals = ", ".join(str(Path(archive.into, archive.unpacks_to or _name(archive))) for archive in task.archives)
        raise FailureError(
            f"everything that task {task.name} names is there, and still its data is not whole: "
            f"{sentence('; '.join(problems))} Move {goals} under {root} away, and run the same command again."
        )


def _missing(task: Task, roots: Sequence[Path]) -> tuple[str, ...]:
    """What a reader misses in the task's data, in whatever form users have it; nothing where it is whole."""
    from lrbench.data.loading import load_task_data

    try:
        return load_task_data(task, roots, partial=True).problems
    except InputError as error:
        return (str(error).rstrip("."),)


def _beside(task: Task, archive: Archive, root: Path) -> Path:
    """The folder for an archive: where others that belong beside it lie already, by one of the names that readers know."""
    usual = root / archive.into
    beside = [each for each in task.archives if each.into == archive.into and each.unpacks_to and each.images]
    known = candidates(getattr(task.files, "root", ()))
    for folder in (usual, *(beneath(root, name) for name in known)):
        for each in beside:
            there = folder / str(each.unpacks_to)
            if there.is_dir() and count_images(there) >= (each.images or 0):
                return folder
    return usual


def _name(archive: Archive) -> str:
    return Path(urlparse(archive.url).path).name


def _one(task: Task, archive: Archive, folder: Path, control: Control) -> None:
    path = folder / _name(archive)
    goal = folder / archive.unpacks_to if archive.unpacks_to else path
    if _is_there(task, archive, goal, control):
        return
    with locked(goal, control) as alone:
        # Another process may have fetched it while this one waited for the lock.
        if _is_there(task, archive, goal, control):
            return
        _set_aside_if_wrong(path, archive, control)
        if not path.is_file():
            receive(task, archive, path, control)
        if archive.unpacks_to:
            control.say(f"unpacking {path}")
            unpack(path, goal, archive, control, alone=alone)
            control.say(f"{goal} is there; {path} is no longer needed")
        elif path.suffix in _PACKED:
            control.say(
                f"{path.name} is an archive and was not unpacked: `unpacks_to` in the task's TOML names the folder in it"
            )


def _is_there(task: Task, archive: Archive, goal: Path, control: Control) -> bool:
    """Whether what an archive gives is there, as far as can be told without the archive.

    Raises:
        InputError: A file stands where a folder should be, or the other way round.
        FailureError: It was unpacked or copied in part.
    """
    if archive.unpacks_to:
        refuse_file(task, goal)
    elif goal.is_dir():
        raise InputError(f"{goal} is a folder, but task {task.name} needs a file there. Move it away.")
    if not goal.exists() or (not archive.unpacks_to and wrong(goal, archive) is not None):
        return False
    _refuse_half_unpacked(task, archive, goal)
    control.say(f"{goal} is there already")
    return True


def _refuse_half_unpacked(task: Task, archive: Archive, goal: Path) -> None:
    if not archive.unpacks_to or archive.images is None or is_marked(goal):
        return
    found = count_images(goal)
    if found < archive.images:
        raise FailureError(
            f"{goal} of task {task.name} holds {found:,} images, and the whole archive {archive.images:,}: it was unpacked or "
            "copied in part. Move it away, then run the same command again; an archive that is there already is not fetched "
            "again."
        )


def _set_aside_if_wrong(path: Path, archive: Archive, control: Control) -> None:
    if not path.is_file() or (problem := wrong(path, archive)) is None:
        return
    with writing(path):
        bad = set_aside(path)
    control.say(f"{path} {problem}; it is kept as {bad.name}")


def count_images(folder: Path) -> int:
    """Number of image files in a folder and those below it, what systems leave lying about not counted."""
    return sum(
        name.lower().endswith(IMAGE_ENDINGS) and not is_litter(name)
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
        FailureError: The archive is damaged, holds members that lead out of it, does not hold the folder, or holds fewer
            images; or the disk is full.
        InterruptedWork: Asked to stop; nothing is left of what was unpacked.
    """
    with writing(goal), _temporary_folder(goal, alone=alone) as temporary:
        with _damage_named(path):
            _unpack_into(path, temporary, control)
            if archive.inner:
                temporary = _unpack_inner(path, temporary, archive.inner, control)
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
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    else:
        temporary = Path(tempfile.mkdtemp(prefix=f"{temporary.name}.", dir=goal.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what the libraries raise for a damaged archive into one clear paragraph."""
    try:
        yield
    # Zip files raise RuntimeError where they are encrypted or packed in an unknown way.
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        # The system's own errors have a number; gzip's and bzip2's, of damaged data, have none.
        if isinstance(error, OSError) and error.errno is not None:
            # It is unpacked into an empty folder: what stands in the way there came out of the archive.
            if error.errno not in {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}:
                raise
            reason = "it is damaged: it holds a file and a folder of the same name"
        raise FailureError(
            f"{path} could not be unpacked: {sentence(reason)} Nothing was put in place. Delete it and fetch it again."
        ) from error


def _unpack_into(path: Path, folder: Path, control: Control) -> None:
    if zipfile.is_zipfile(path):
        _unzip(path, folder, control)
    else:
        _untar(path, folder, control)


def _unpack_inner(path: Path, folder: Path, inner: str, control: Control) -> Path:
    """Unpack the archive `inner` that lies somewhere in a folder; gives the folder of what it held.

    Raises:
        FailureError: It is not there.
    """
    found = next(folder.rglob(inner), None)
    if found is None:
        raise FailureError(f"{path} holds no {inner}. Nothing was put in place. {_WRONG}")
    unpacked = Path(tempfile.mkdtemp(dir=folder))
    _unpack_into(found, unpacked, control)
    return unpacked


def _untar(path: Path, temporary: Path, control: Control) -> None:
    size = path.stat().st_size
    with path.open("rb") as packed, tarfile.open(fileobj=packed) as archive:
        for member in archive:
            _may_go_on(path, control)
            archive.extract(member, temporary, filter="data")
            control.progress(packed.tell(), size, "bytes")
        # Compressed data is checked where it ends, which lies after the last member.
        while archive.fileobj is not None and archive.fileobj.read(_CHUNK):
            _may_go_on(path, control)


def _unzip(path: Path, temporary: Path, control: Control) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if member.filename.startswith("/") or ".." in PurePosixPath(member.filename).parts:
                raise zipfile.BadZipFile(f"its member {member.filename!r} leads out of it")
        size, done = sum(member.compress_size for member in members), 0
        for member in members:
            _may_go_on(path, control)
            archive.extract(member, temporary)
            done += member.compress_size
            control.progress(done, size, "bytes")


def _may_go_on(path: Path, control: Control) -> None:
    if control.stop_requested():
        raise InterruptedWork(f"stopped while {path} was unpacked. Run the same command again to unpack it.")


def _wanted(path: Path, temporary: Path, appears: str) -> Path:
    """The folder that should appear, among what was unpacked: at the top, one folder below, or all of it.

    Raises:
        FailureError: It is not there.
    """
    found = next((each for each in (temporary / appears, *temporary.glob(f"*/{appears}")) if each.is_dir()), None)
    if found is not None:
        return found
    held = sorted(each for each in temporary.iterdir() if not is_litter(each.name))
    if not held or any(each.is_dir() for each in held):
        names = ", ".join(each.name for each in held[:5])
        raise FailureError(f"{path} holds no folder {appears} (it holds {names}). {_WRONG}")
    # Its files lie at the top, without a folder around them.
    found = Path(tempfile.mkdtemp(dir=temporary), "all")
    found.mkdir()
    for each in held:
        os.replace(each, found / each.name)
    return found
