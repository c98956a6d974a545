"""Checks of single files that others sent: sizes and types before their content is parsed, hashes after."""

from pathlib import Path

from pydantic import BaseModel

from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, read_bytes, sha256_bytes
from lrbench.leaderboard.registration import Registration, read_registration
from lrbench.store.results import StoredResult, load_result

_LARGEST = {".json": 16 << 20, ".parquet": 512 << 20, ".txt": 256 << 20}
# ImageNet-21k has 14 million images.
_MOST_IMAGES = 20_000_000
# Bytes of the name of an image or class.
_LONGEST_NAME = 4096
# Bytes of a Parquet file without rows.
_OVERHEAD = 64 << 10
# Limits on the values of a record, below which pages, tables and JSON can hold them.
_LONGEST_TEXT = 2000
_LARGEST_INTEGER = (1 << 63) - 1
_DEEPEST = 24

_REMEDY = "Ask its author for the file."


def check_size(path: Path) -> None:
    """Check the size of a file.

    Raises:
        InputError: It is larger than any file of a collection.
    """
    size, limit = path.stat().st_size, _LARGEST[path.suffix]
    if size > limit:
        raise InputError(f"{path} has {size:,} bytes, more than the {limit:,} of any such file. {_REMEDY}")


def check_list(path: Path) -> Path:
    """Check a list of images against the hash in its name.

    Raises:
        InputError: They disagree.
    """
    if not sha256_bytes(read_bytes(path)).startswith(path.stem.rpartition("-")[2]):
        raise DamagedFile(path, "its content does not have the hash in its name", _REMEDY)
    return path


def check_registration(leaderboard: Path, name: str) -> Registration | None:
    """Read a registration.

    Raises:
        InputError: It is damaged, or a value in it is excessive.
    """
    registration = read_registration(leaderboard, name)
    if registration is not None:
        _refuse_excess(leaderboard / registration.file, registration)
    return registration


def check_result(path: Path, suite: str) -> StoredResult:
    """Read a record and its predictions.

    Args:
        path: The record.
        suite: The suite, or `foreign`, in whose folder it is.

    Raises:
        InputError: They are damaged, disagree with their hashes, have no hash, or a value in them is excessive.
    """
    try:
        stored = load_result(path, suite)
    except RecursionError as error:
        raise DamagedFile(path, "it is nested too deeply", _REMEDY) from error
    _refuse_excess(path, stored.result)
    if not stored.result.checked:
        raise InputError(f"{path} has schema 1, which has no hash of the record. Compute the result again.")
    if not stored.result.snapshot.sha256.isalnum():
        raise DamagedFile(path, "`snapshot.sha256` is not a hash", _REMEDY)
    predictions = path.with_suffix(".parquet")
    if predictions.is_file():
        check_size(predictions)
        _refuse_oversized(predictions, stored.result.test_count, stored.result.task.classes)
    stored.read_predictions(names=True)
    return stored


def _refuse_excess(path: Path, model: BaseModel) -> None:
    if problem := _excess(model):
        raise DamagedFile(path, problem, _REMEDY)


def _excess(value: object, depth: int = 0) -> str | None:
    """Return which limit a value exceeds, as a clause; None if it exceeds none."""
    if depth > _DEEPEST:
        return "it is nested too deeply"
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"it holds a text of {len(value):,} characters"
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        return "it holds a number that is too large"
    if isinstance(value, BaseModel):
        value = dict(value)
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((problem for part in parts if (problem := _excess(part, depth + 1))), None)


def _refuse_oversized(path: Path, count: int, classes: int) -> None:
    """Refuse predictions that unpack to more than their record's number of images needs.

    Args:
        path: The Parquet file.
        count: Number of test images in its record.
        classes: Number of classes in its record.

    Raises:
        InputError: They have another number of rows, columns that are not those of predictions, or names of excessive length.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    largest = count * _LONGEST_NAME
    # The file's metadata holds the names of the classes.
    size = path.stat().st_size - classes * _LONGEST_NAME - _OVERHEAD
    try:
        if size <= largest:
            with parquet.ParquetFile(path) as file:
                rows = file.metadata.num_rows
                if rows != count or rows > _MOST_IMAGES:
                    raise InputError(f"{path} has {rows:,} rows, and its record {count:,} test images.")
                if problem := _column_problem(file.schema_arrow):
                    raise DamagedFile(path, problem, _REMEDY)
                size = sum(
                    file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)
                )
                columns = ["image"] if "image" in file.schema_arrow.names and size <= largest else []
                # Equal prefixes are stored once, so that the names are larger than the column. The names of a batch are
                # expanded together; a single one is part of the file.
                for batch in file.iter_batches(batch_size=1, columns=columns, use_threads=False) if columns else ():
                    size += batch.nbytes
                    if size > largest:
                        break
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is no Parquet file"
        raise DamagedFile(path, reason, _REMEDY) from error
    if size > largest:
        raise InputError(
            f"{path} unpacks to more than {largest:,} bytes, which predictions of {count:,} images do not need."
        )


def _column_problem(schema: "arrow.Schema") -> str | None:  # type: ignore[name-defined]  # noqa: F821
    """Return why columns are not those of predictions, as a clause; None if they are."""
    import pyarrow as arrow

    known = {
        **dict.fromkeys(("index", "label", "prediction"), arrow.types.is_integer),
        "image": arrow.types.is_string,
        "score": arrow.types.is_float32,
    }
    # A request for `label` also reads a column `label.x`.
    if len(set(schema.names)) < len(schema.names) or not known.keys() >= set(schema.names):
        return "it has columns that predictions do not have"
    wrong = [field.name for field in schema if not known[field.name](field.type)]
    return f"its column {wrong[0]!r} has type {schema.field(wrong[0]).type}" if wrong else None
