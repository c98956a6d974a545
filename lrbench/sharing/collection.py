"""Collections: results outside of their workspace, in the layout of its `leaderboard/` folder.

`results/<suite>/` holds records, predictions and the suite as run, `registrations/` the registrations, and `splits/` the lists
of images that lrbench drew. Each file has a hash in it or in its name, except for suites, which are validated. Other files are
ignored. Files from others are untrusted: sizes and numbers are limited, links are refused, and nothing is unpickled.
"""

import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from lrbench.config import Suite
from lrbench.config.strict import NAME_PATTERN
from lrbench.core.control import Control
from lrbench.core.errors import InputError, as_sentence
from lrbench.core.files import DamagedFile, open_regular, read_bytes, sha256_bytes
from lrbench.core.workspace import FOREIGN
from lrbench.data.archives.extract import extract
from lrbench.data.archives.members import RefusedArchive, SizeBudget
from lrbench.leaderboard.gathering import read_suite
from lrbench.leaderboard.registration import Registration, read_registration
from lrbench.sharing import hub
from lrbench.sharing.places import HubRepository
from lrbench.store.results import StoredResult, load_result

PATTERNS = ("results/*/*.json", "results/*/*.parquet", "registrations/*.json", "splits/*.txt")
"""Patterns of the files of a collection."""

MOST_FILES = 200_000
MOST_BYTES = 4 << 30
_MOST_FILE_BYTES = {".json": 64 << 20, ".parquet": 512 << 20, ".txt": 256 << 20}
# ImageNet-21k has 14 million images.
_MOST_IMAGES = 20_000_000
_LONGEST_IMAGE_NAME = 4096

_NAME = NAME_PATTERN.strip("^$")
_CELL = r"[^\W_][\w.-]{0,229}"
_FILES = re.compile(
    rf"results/{_NAME}/(suite\.json|{_CELL}\.(json|parquet))|registrations/{_NAME}\.json|splits/{_CELL}-[0-9a-f]{{16}}\.txt"
)


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
        yield read_collection(_top(place, str(place)), str(place))
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="received.", dir=scratch) as temporary:
        folder = Path(temporary)
        if isinstance(place, HubRepository):
            commit, sizes = hub.list_files(place)
            wanted = {name: size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in PATTERNS)}
            _refuse_large(place.text, wanted)
            hub.download(place, commit, folder, PATTERNS)
            yield read_collection(folder, place.text)
        else:
            _unpack(place, folder, control)
            yield read_collection(_top(folder, str(place)), str(place))


def _unpack(path: Path, folder: Path, control: Control) -> None:
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = [name.replace("\\", "/").casefold() for name in archive.namelist()]
            sizes = {info.filename: info.file_size for info in archive.infolist()}
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise RefusedArchive(f"it has several members named {repeated[:80]!r}")
        _refuse_large(str(path), sizes)
        extract(path, folder, SizeBudget(MOST_BYTES), control)
    except FileNotFoundError:
        raise InputError(
            f"there is no folder or zip file {path}. Name one that `lrbench results push` wrote, a workspace, or "
            "hf://datasets/USER/NAME."
        ) from None
    except _DAMAGE as error:
        raise InputError(
            f"{path} is not a zip file or it is damaged: {as_sentence(str(error))} Copy it again."
        ) from error
    except RefusedArchive as error:
        raise InputError(
            f"{path} is refused: {as_sentence(str(error))} Ask its author for a file of `results push`."
        ) from error


def _refuse_large(where: str, sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if len(sizes) > MOST_FILES or total > MOST_BYTES:
        raise InputError(
            f"{where} has {len(sizes):,} files of {total:,} bytes, more than the {MOST_FILES:,} files or {MOST_BYTES:,} "
            "bytes that lrbench receives. Ask its author for single suites."
        )


def _top(folder: Path, where: str) -> Path:
    """Return the folder that holds `results/`: the one given, its `leaderboard`, or the same in its only folder."""
    inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    tops = [folder, folder / "leaderboard"]
    if len(inner) == 1:
        tops += [inner[0], inner[0] / "leaderboard"]
    for top in tops:
        if (top / "results").is_dir():
            return top
    raise InputError(f"{where} holds no results: it has no folder `results`. Name a folder that `results push` wrote.")


def read_collection(folder: Path, where: str) -> Collection:
    """Check the files of a collection.

    Args:
        folder: The folder that holds `results/`.
        where: Its place, for messages.

    Raises:
        InputError: It holds links or too many files, or no result.
    """
    names = _scan(folder, where)
    results: list[StoredResult] = []
    suites: dict[str, Suite] = {}
    registrations: dict[str, Registration] = {}
    splits: list[Path] = []
    refused: list[str] = []
    for name in names:
        path = folder / name
        kind, _, rest = name.partition("/")
        try:
            if path.suffix == ".parquet":
                continue
            if kind == "splits":
                splits.append(_checked_list(path))
            elif kind == "registrations":
                if (registration := read_registration(folder, path.stem)) is not None:
                    registrations[path.stem] = registration
            elif path.name == "suite.json":
                suites[path.parent.name] = read_suite(folder / "results", path.parent.name)
            else:
                results.append(_checked_result(path, rest.partition("/")[0]))
        except InputError as error:
            refused.append(as_sentence(str(error).replace(str(folder), where)))
    # A suite's results are useless without the suite.
    for suite in sorted({stored.result.suite for stored in results} - {FOREIGN} - suites.keys()):
        refused.append(f"{where} has no readable results/{suite}/suite.json, so the results of {suite} are left out.")
        results = [stored for stored in results if stored.result.suite != suite]
    if not results and not refused:
        raise InputError(f"{where} holds no results. Name a folder that `results push` wrote.")
    return Collection(
        folder=folder,
        results=tuple(results),
        suites=suites,
        registrations=registrations,
        splits=tuple(splits),
        refused=tuple(refused),
    )


def _scan(folder: Path, where: str) -> list[str]:
    """Return the names of a collection's files below a folder, sorted; links are refused."""
    names = []
    total = 0
    for part in ("results", "registrations", "splits"):
        for parent, folders, files in os.walk(folder / part):
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
    if (folder / "results").is_symlink():
        raise InputError(f"{folder / 'results'} is a link, which {where} may not hold. Ask its author for real files.")
    return sorted(names)


def _checked_list(path: Path) -> Path:
    if not sha256_bytes(read_bytes(path, limit=_MOST_FILE_BYTES[path.suffix])).startswith(path.stem.rpartition("-")[2]):
        raise DamagedFile(path, "its content does not have the hash in its name", "Ask its author for the file.")
    return path


def _checked_result(path: Path, suite: str) -> StoredResult:
    """Read a record and its predictions.

    Raises:
        InputError: They are damaged, disagree with their hashes, have no hash, or are too large.
    """
    predictions = path.with_suffix(".parquet")
    for file in (path, predictions):
        # The limit is checked before the content is parsed.
        if file.is_file() and file.stat().st_size > _MOST_FILE_BYTES[file.suffix]:
            raise InputError(f"{file} has more than {_MOST_FILE_BYTES[file.suffix]:,} bytes, which no result has.")
    stored = load_result(path, suite)
    if not stored.result.checked:
        raise InputError(f"{path} has schema 1, which has no hash of the record. Compute the result again.")
    if predictions.is_file():
        _refuse_oversized(predictions, stored.result.test_count)
    stored.read_predictions(names=True)
    return stored


def _refuse_oversized(path: Path, count: int) -> None:
    """Refuse predictions that unpack to more than their record's number of images needs.

    Raises:
        InputError: They have another number of rows, or names of excessive length.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            rows, largest = file.metadata.num_rows, count * _LONGEST_IMAGE_NAME
            if rows != count or rows > _MOST_IMAGES:
                raise InputError(f"{path} has {rows:,} rows, and its record {count:,} test images.")
            size = sum(
                file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)
            )
            schema = file.schema_arrow
            columns = ["image"] if "image" in schema.names and size <= largest else []
            if columns and schema.field("image").type != arrow.string():
                raise DamagedFile(path, "its image names are not text", "Copy it again.")
            # Equal prefixes are stored once, so that the names are larger than the column.
            for batch in file.iter_batches(batch_size=256, columns=columns, use_threads=False) if columns else ():
                size += batch.nbytes
                if size > largest:
                    break
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is no Parquet file"
        raise DamagedFile(path, reason, "Copy it again.") from error
    if size > largest:
        raise InputError(
            f"{path} unpacks to more than {largest:,} bytes, which predictions of {count:,} images do not need."
        )
