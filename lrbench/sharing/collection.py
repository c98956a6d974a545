"""Collections: results outside of their workspace, in the layout of its `leaderboard/` folder.

`results/<suite>/` holds records, predictions and the suite as run, `registrations/` the registrations, and `splits/` the lists
of images that lrbench drew. Each file has a hash in it or in its name, except for suites, which are validated. Other files are
ignored. Files from others are untrusted: sizes and numbers are limited, links are refused, and nothing is unpickled.
"""

import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from lrbench.config import Suite
from lrbench.config.paths import path_problem
from lrbench.config.strict import NAME_PATTERN
from lrbench.core.control import Control
from lrbench.core.errors import InputError, as_sentence
from lrbench.core.files import DamagedFile, open_regular, temporary_folder
from lrbench.core.workspace import FOREIGN
from lrbench.data.archives.extract import extract
from lrbench.data.archives.members import RefusedArchive, SizeBudget
from lrbench.data.archives.tar import is_tar
from lrbench.leaderboard.gathering import read_suite
from lrbench.leaderboard.registration import Registration
from lrbench.sharing import hub
from lrbench.sharing.checking import check_list, check_registration, check_result, check_size
from lrbench.sharing.places import HubRepository
from lrbench.store.results import StoredResult

PATTERNS = ("results/*/*.json", "results/*/*.parquet", "registrations/*.json", "splits/*.txt")
"""Patterns of the files of a collection."""

MOST_FILES = 200_000
MOST_BYTES = 4 << 30

_NAME = NAME_PATTERN.strip("^$")
_CELL = r"[^\W_][\w.-]{0,229}"
_FILES = re.compile(
    rf"results/{_NAME}/(suite\.json|{_CELL}\.(json|parquet))|registrations/{_NAME}\.json|splits/{_CELL}-[0-9a-f]{{16}}\.txt"
)

_FOLDERS = ("results", "registrations", "splits")

# Errors of zipfile for damaged or encrypted archives.
_DAMAGE = (
    zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, ValueError, OverflowError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A collection whose files have been checked.

    Attributes:
        folder: Folder of the files.
        results: Results whose record and predictions agree with their hashes.
        suites: Suites as run, by name.
        registrations: Registrations, by the name of their suite.
        splits: Lists of images.
        refused: Errors of files that are damaged, each a sentence.
    """

    folder: Path
    results: tuple[StoredResult, ...]
    suites: dict[str, Suite]
    registrations: dict[str, Registration]
    splits: tuple[Path, ...]
    refused: tuple[str, ...]

    @property
    def files(self) -> list[PurePosixPath]:
        """The checked files, relative to the folder."""
        records = [stored.path for stored in self.results]
        paths = [*records, *(path.with_suffix(".parquet") for path in records), *self.splits]
        return [
            *(PurePosixPath(path.relative_to(self.folder)) for path in paths),
            *(PurePosixPath("results", name, "suite.json") for name in self.suites),
            *(PurePosixPath("registrations", f"{name}.json") for name in self.registrations),
        ]


@contextmanager
def open_collection(place: HubRepository | Path, scratch: Path, control: Control) -> Iterator[Collection]:
    """Yield the checked collection at a place.

    Args:
        place: A data set of the Hub, a zip file, a folder that `results push` wrote, or a workspace.
        scratch: Folder for temporary files, which are removed at the end.
        control: Receives progress; may request a stop.

    Raises:
        InputError: There is no collection, it is too large, or it is unsafe.
        FailureError: The Hub cannot be reached.
    """
    if isinstance(place, Path) and place.is_dir():
        yield read_collection(_top(place, str(place)), str(place), control)
        return
    with temporary_folder(scratch, "received") as folder:
        if isinstance(place, HubRepository):
            _download(place, folder)
            yield read_collection(folder, place.text, control)
        else:
            _unpack(place, folder, control)
            yield read_collection(_top(folder, str(place)), str(place), control)


def _download(place: HubRepository, folder: Path) -> None:
    commit, sizes = hub.list_files(place)
    wanted = {name: size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in PATTERNS)}
    _refuse_large(place.text, wanted)
    for name in wanted:
        # A pattern's `*` matches slashes.
        if problem := path_problem(name):
            raise InputError(
                f"{place.text} is refused: its file {name[:80]!r} {problem}. Ask its author for a new one."
            )
    hub.download(place, commit, folder, PATTERNS)


def _unpack(path: Path, folder: Path, control: Control) -> None:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise InputError(
            f"there is no folder or zip file {path}. Name one that `lrbench results push` wrote, a workspace, or "
            "hf://datasets/USER/NAME."
        ) from None
    try:
        with file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        _refuse_large(str(path), {member.filename: member.file_size for member in members})
        names = Counter(member.filename.replace("\\", "/").casefold() for member in members)
        if repeated := [name for name, count in names.items() if count > 1]:
            raise RefusedArchive(f"it has several members named {repeated[0][:80]!r}")
        # A file can be both. Its members as a tar were not counted.
        if is_tar(path):
            raise RefusedArchive("it is a tar file, too")
        extract(path, folder, SizeBudget(MOST_BYTES), control)
    except _DAMAGE as error:
        raise InputError(
            f"{path} is not a zip file, or it is damaged: {as_sentence(str(error))} Copy it again."
        ) from error
    except (RefusedArchive, NotADirectoryError, IsADirectoryError) as error:
        reason = str(error) if isinstance(error, RefusedArchive) else "a file and a folder in it have the same name"
        raise InputError(
            f"{path} is refused: {as_sentence(reason)} Ask its author for a zip file of `lrbench results push`."
        ) from error


def _refuse_large(where: str, sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if len(sizes) > MOST_FILES or total > MOST_BYTES:
        raise InputError(
            f"{where} has {len(sizes):,} files of {total:,} bytes, more than the {MOST_FILES:,} files or {MOST_BYTES:,} "
            "bytes that lrbench receives. Ask its author for single suites."
        )


def _top(folder: Path, where: str) -> Path:
    """Return the folder that holds `results/`: `leaderboard` of the one given, itself, or the same of its only folder."""
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    # A workspace may have a folder `results` of other programs.
    tops = [folder / "leaderboard", folder]
    if len(inner) == 1:
        tops += [inner[0] / "leaderboard", inner[0]]
    for top in tops:
        if (top / "results").is_dir():
            return top
    raise InputError(f"{where} holds no results: it has no folder `results`. Name a folder that `results push` wrote.")


def read_collection(folder: Path, where: str, control: Control) -> Collection:
    """Check the files of a collection.

    Args:
        folder: The folder that holds `results/`.
        where: Its place, for messages.
        control: Receives progress.

    Raises:
        InputError: It holds links or too many files, or no result.
    """
    names = _scan(folder, where)
    results: list[StoredResult] = []
    suites: dict[str, Suite] = {}
    registrations: dict[str, Registration] = {}
    splits: list[Path] = []
    refused: list[str] = []
    for number, name in enumerate(names, 1):
        path = folder / name
        kind, _, rest = name.partition("/")
        try:
            if path.suffix == ".parquet":
                continue
            check_size(path)
            if kind == "splits":
                splits.append(check_list(path))
            elif kind == "registrations":
                if (registration := check_registration(folder, path.stem)) is not None:
                    registrations[path.stem] = registration
            elif path.name == "suite.json":
                suites[path.parent.name] = read_suite(folder / "results", path.parent.name)
            else:
                results.append(check_result(path, rest.partition("/")[0]))
        except DamagedFile as error:
            # Its remedy is for the workspace in which the file was written.
            refused.append(f"{error.path.relative_to(folder)} is damaged: {as_sentence(error.reason)}")
        except InputError as error:
            refused.append(as_sentence(str(error).replace(f"{folder}/", "")))
        control.progress(number, len(names), "files")
    # A suite's results are useless without the suite.
    for suite in sorted({stored.result.suite for stored in results} - {FOREIGN} - suites.keys()):
        count = len(results)
        results = [stored for stored in results if stored.result.suite != suite]
        refused.append(f"results/{suite}/suite.json cannot be read, so {count - len(results):,} results are left out.")
    if not results and not refused:
        raise InputError(f"{where} holds no results. Name a folder that `lrbench results push` wrote.")
    tasks = {stored.result.task.name for stored in results}
    return Collection(
        folder=folder,
        results=tuple(results),
        suites=suites,
        registrations=registrations,
        splits=tuple(path for path in splits if task_of_list(path) in tasks),
        refused=tuple(refused),
    )


def task_of_list(path: Path) -> str:
    """Return the task of a list of images from its name: `<task>-<hash>.txt`, or `<task>-<draw>-seed<k>-<hash>.txt`."""
    return re.sub(r"(-[^-]+-seed\d+)?-[0-9a-f]{16}$", "", path.stem)


def _scan(folder: Path, where: str) -> list[str]:
    """Return the names of a collection's files below a folder, sorted; links are refused."""
    names = []
    total = 0

    def stop(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=stop):
        if parent == str(folder):
            # The rest of a workspace is no part of the collection.
            folders[:] = [name for name in folders if name in _FOLDERS]
            files = []
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                raise InputError(f"{path} is a link, which {where} may not hold. Ask its author for real files.")
        for name in files:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if _FILES.fullmatch(relative):
                names.append(relative)
                total += path.stat().st_size
        if len(names) > MOST_FILES or total > MOST_BYTES:
            _refuse_large(where, dict.fromkeys(names, total // len(names) + 1))
    return sorted(names)
