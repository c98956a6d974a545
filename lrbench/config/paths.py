"""Checks of the paths and addresses in a task's TOML.

Files are written below the data root only. Files to read may be elsewhere, given by an absolute path.
"""

from typing import Annotated
from urllib.parse import urlparse

from pydantic import AfterValidator, Field

MAX_NAME_BYTES = 255
"""Limit of file systems on a name."""
MAX_PATH_BYTES = 1024
"""Limit on a path in a TOML or archive, which leaves room for the data root."""
MAX_PATH_DEPTH = 64
"""Limit on the folders of such a path."""
# Leaves room for `<name>.part.again`, `.<name>.lock` and the like.
_MAX_DOWNLOAD_BYTES = 200


def path_problem(path: str) -> str | None:
    """Return why a path cannot be used below a folder, as the end of a sentence; None if it can."""
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        return "holds a control character"
    if path.startswith("/") or ".." in path.split("/"):
        return "leads out of it"
    if all(part in ("", ".") for part in path.split("/")):
        return "has no name"
    size = len(path.encode(errors="surrogateescape"))
    longest = max(len(part.encode(errors="surrogateescape")) for part in path.split("/"))
    if longest > MAX_NAME_BYTES or size > MAX_PATH_BYTES:
        return f"is longer than file systems allow ({MAX_NAME_BYTES} bytes a name, {MAX_PATH_BYTES:,} a path)"
    if path.count("/") > MAX_PATH_DEPTH:
        return f"is deeper than {MAX_PATH_DEPTH} folders"
    return None


def _below(path: str) -> str:
    """Check a folder in the data root, in which files may be written."""
    problem = path_problem(path) if path != "." else None
    if problem == "leads out of it" or path.startswith("~"):
        raise ValueError(f"{path!r} leads out of the data root: name a folder in it")
    if problem:
        raise ValueError(f"{path[:80]!r} {problem}")
    return path


def _named(path: str) -> str:
    """Check a folder in the data root other than the root."""
    if all(part in ("", ".") for part in path.split("/")):
        raise ValueError(f"{path!r} has no name: name the folder that appears")
    return _below(path)


def _file_name(name: str) -> str:
    if "/" in name or path_problem(name):
        raise ValueError(f"{name[:80]!r} must be a file's name, without folders")
    return name


def _readable(path: str) -> str:
    """Check a file or folder to read, relative to the data root or absolute."""
    if path == ".":
        return path
    problem = path_problem(path.lstrip("/"))
    if problem == "leads out of it":
        raise ValueError(f"{path!r} contains `..`: give a path below the data root, or an absolute one")
    if problem:
        raise ValueError(f"{path[:80]!r} {problem}")
    return path


def _all_readable(paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for path in (paths,) if isinstance(paths, str) else paths:
        _readable(path)
    return paths


def download_name(url: str) -> str:
    """Return the file name under which a download is stored."""
    return urlparse(url).path.rpartition("/")[2]


def _address(url: str) -> str:
    try:
        address = urlparse(url)
    except ValueError as error:
        raise ValueError(f"{url[:80]!r} is not an address ({error})") from error
    if address.scheme not in ("http", "https") or not address.netloc or not url.isprintable():
        raise ValueError(f"{url[:80]!r} is not an address that begins with https:// or http://")
    name = download_name(url)
    if path_problem(name) or len(name.encode()) > _MAX_DOWNLOAD_BYTES:
        raise ValueError(f"{url[:80]!r} does not end in a file's name of up to {_MAX_DOWNLOAD_BYTES} bytes")
    return url


Below = Annotated[str, AfterValidator(_below)]
NamedBelow = Annotated[str, AfterValidator(_named)]
FileName = Annotated[str, AfterValidator(_file_name)]
Readable = Annotated[str, AfterValidator(_readable)]
# One path, or several, of which the first that exists is used.
ReadableOrMore = Annotated[str | Annotated[tuple[str, ...], Field(min_length=1)], AfterValidator(_all_readable)]
Address = Annotated[str, AfterValidator(_address)]
