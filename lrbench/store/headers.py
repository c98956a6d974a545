"""Headers of safetensors files, read and validated without torch.

lrbench stores one JSON record under the key `lrbench`. Its `header_sha256` is the hash of all its other fields.
"""

import json
import os
from pathlib import Path
from typing import Any

from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile, canonical_json, open_regular, parse_json, sha256_json
from lrbench.store.file_kinds import file_kind, header_length

FORMAT = 2
"""Version of the record. Records of version 1 have no hash."""

GET_IT_AGAIN = (
    "Copy it again from its source. If lrbench pretrained it here, delete it (`lrbench snapshots remove`) and run the same "
    "pretraining again."
)
"""Advice for a damaged file of weights."""

_SEAL = "header_sha256"
# Nesting of tables and lists; a network's arguments have two or three levels.
_DEEPEST = 32


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it is stored, with the hash of its fields under `header_sha256`."""
    # JSON converts integer keys to text; the hash covers the stored form.
    fields = {name: value for name, value in json.loads(canonical_json(record)).items() if name != _SEAL}
    return {**fields, _SEAL: sha256_json(fields)}


def read_record(path: Path) -> dict[str, Any] | None:
    """Read lrbench's record in the header of a safetensors file.

    Returns:
        The record without its hash, or None if the file was not written by lrbench.

    Raises:
        InputError: The file is missing, damaged or another kind of file, the record was written by a newer lrbench, or its
            hash differs.
    """
    text = read_header(path)["__metadata__"].get("lrbench")
    if text is None:
        return None
    try:
        record = parse_json(text)
    except ValueError as error:
        raise DamagedFile(path, f"its header is not valid JSON ({error})", GET_IT_AGAIN) from error
    if not _nested_within(record, _DEEPEST):
        raise DamagedFile(path, "its header is nested too deeply", GET_IT_AGAIN)
    version = record.get("format") if isinstance(record, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DamagedFile(path, "its header states no format", GET_IT_AGAIN)
    seal = record.pop(_SEAL, None)
    if seal is None and version == 1:
        return dict(record)
    if version > FORMAT:
        raise InputError(f"{path} has snapshot format {version}; this lrbench reads up to {FORMAT}. Update lrbench.")
    if seal != sha256_json(record):
        raise DamagedFile(path, "its header was changed after it was written (its hash differs)", GET_IT_AGAIN)
    return dict(record)


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file: an entry for each tensor, and text under `__metadata__`.

    Raises:
        InputError: The file is missing, damaged or cut off, or it is another kind of file.
    """
    try:
        kind = file_kind(path)
        if kind.form == "torch":
            raise InputError(
                f"{path} is a pickle (a file of torch.save), not a safetensors snapshot. A pickle can run code when it is "
                f"loaded. If it holds plain weights, import them with `lrbench snapshots add {path} --architecture NAME`, "
                "which loads tensors only."
            )
        with open_regular(path) as file:
            start, size = file.read(9), os.fstat(file.fileno()).st_size
            length = header_length(start, size)
            if length is None:
                raise InputError(
                    f"{path} is not a safetensors file: {kind.description} ({size:,} bytes). {GET_IT_AGAIN}"
                )
            content = start[8:] + file.read(length - 1)
    except FileNotFoundError:
        raise InputError(f"there is no snapshot {path}.") from None
    except OSError as error:
        raise InputError(f"{path} could not be read: {(error.strerror or str(error)).lower()}.") from error
    try:
        header = parse_json(content)
        end = _end(header)
    except ValueError as error:
        raise DamagedFile(path, f"its header cannot be read ({error})", GET_IT_AGAIN) from error
    if size != 8 + length + end:
        raise InputError(
            f"{path} is truncated or damaged: it has {size:,} bytes and should have {8 + length + end:,}. {GET_IT_AGAIN}"
        )
    return {"__metadata__": {}, **header}


def _end(header: Any) -> int:
    """Return the end of the last tensor, in bytes.

    Raises:
        ValueError: The header is not valid.
    """
    if not isinstance(header, dict):
        raise ValueError("it is not a table of tensors")
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                raise ValueError("__metadata__ is not a table of text")
            continue
        if not (
            isinstance(entry, dict)
            and isinstance(entry.get("dtype"), str)
            and _counts(entry.get("shape"))
            and _counts(entry.get("data_offsets"))
            and len(entry["data_offsets"]) == 2
        ):
            raise ValueError(f"the entry {name[:80]!r} does not describe a tensor")
        end = max(end, entry["data_offsets"][1])
    return end


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _nested_within(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_nested_within(item, levels - 1) for item in inner)
