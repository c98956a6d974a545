"""The paths that a task's TOML may name, checked in one place.

What is written stays below the data root. What is read may be elsewhere where the user names it by an absolute path.
"""

from typing import Annotated
from urllib.parse import urlparse

from pydantic import AfterValidator, Field

LONGEST_NAME = 255
"""Bytes in a name that file systems take."""
LONGEST_PATH = 1024
"""Bytes in a path that a TOML or an archive may name: with the data root before it, below what systems take."""
DEEPEST_PATH = 64
"""Folders in such a path."""
# Beside a downloaded file are `<name>.part.again`, `.<name>.lock` and the like.
_LONGEST_DOWNLOAD = 200


def path_problem(path: str) -> str | None:
    """Return why a path cannot be used below a folder, as the end of a sentence that begins with it; None where it can."""
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in path):
        return "holds a control character"
    if path.startswith("/") or ".." in path.split("/"):
        return "leads out of it"
    if all(part in ("", ".") for part in path.split("/")):
        return "has no name"
    size = len(path.encode(errors="surrogateescape"))
    longest = max(len(part.encode(errors="surrogateescape")) for part in path.split("/"))
    if longest > LONGEST_NAME or size > LONGEST_PATH:
        return f"is longer than file systems take ({LONGEST_NAME} bytes a name, {LONGEST_PATH:,} a path)"
    if path.count("/") > DEEPEST_PATH:
        return f"is deeper than {DEEPEST_PATH} folders"
    return None


def _below(path: str) -> str:
    """A folder of the data root, to which files may be written."""
    problem = path_problem(path) if path != "." else None
    if problem == "leads out of it" or path.startswith("~"):
        raise ValueError(f"{path!r} leads out of the data root: name a folder in it")
    if problem:
        raise ValueError(f"{path[:80]!r} {problem}")
    return path


def _named(path: str) -> str:
    """A folder of the data root that is not the root itself."""
    if all(part in ("", ".") for part in path.split("/")):
        raise ValueError(f"{path!r} has no name: name the folder that appears")
    return _below(path)


def _file_name(name: str) -> str:
    if "/" in name or path_problem(name):
        raise ValueError(f"{name[:80]!r} must be a file's name, without folders")
    return name


def _readable(path: str) -> str:
    """A file or a folder that is read: relative to the data, or absolute."""
    if path == ".":
        return path
    problem = path_problem(path.lstrip("/"))
    if problem == "leads out of it":
        raise ValueError(f"{path!r} leads out through `..`: name a path below the data root, or an absolute one")
    if problem:
        raise ValueError(f"{path[:80]!r} {problem}")
    return path


def _all_readable(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for path in (paths,) if isinstance(paths, str) else paths:
        _readable(path)
    return paths


def download_name(url: str) -> str:
    """Return the file name under which an address is stored."""
    return urlparse(url).path.rpartition("/")[2]


def _address(url: str) -> str:
    try:
        address = urlparse(url)
    except ValueError as error:
        raise ValueError(f"{url[:80]!r} is not an address ({error})") from error
    if address.scheme not in ("http", "https") or not address.netloc or not url.isprintable():
        raise ValueError(f"{url[:80]!r} is not an address that begins with https:// or http://")
    name = download_name(url)
    if path_problem(name) or len(name.encode()) > _LONGEST_DOWNLOAD:
        raise ValueError(f"{url[:80]!r} does not end in a file's name of up to {_LONGEST_DOWNLOAD} bytes")
    return url


Below = Annotated[str, AfterValidator(_below)]
NamedBelow = Annotated[str, AfterValidator(_named)]
FileName = Annotated[str, AfterValidator(_file_name)]
Readable = Annotated[str, AfterValidator(_readable)]
# One path, or several of which the first that is there counts.
ReadableOrMore = Annotated[str | Annotated[tuple[str, ...], Field(min_length=1)], AfterValidator(_all_readable)]
Address = Annotated[str, AfterValidator(_address)]
