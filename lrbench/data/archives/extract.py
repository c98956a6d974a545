"""Extracting a tar or zip file into a folder: files and folders only, without following links.

zipfile lists and decompresses members and tarfile parses single headers, but neither creates a file: several Python releases
of both write outside the target folder.
"""

import os
import stat
import zipfile
from pathlib import Path

from lrbench.config.paths import path_problem
from lrbench.core.control import Control
from lrbench.core.errors import InterruptedWork
from lrbench.data.archives.marker import MARKER
from lrbench.data.archives.members import CHUNK_BYTES, SPECIAL_KINDS, Member, RefusedArchive, SizeBudget
from lrbench.data.archives.safe_tree import SafeTree
from lrbench.data.archives.tar import TarStream, is_tar, tar_members
from lrbench.data.archives.zip import zip_members


def is_archive(path: Path) -> bool:
    """Return whether a file is a tar, compressed or not, or a zip, by its first header or its last bytes."""
    return is_tar(path) or zipfile.is_zipfile(path)


def extract(path: Path, folder: Path, budget: SizeBudget, control: Control) -> None:
    """Extract an archive into an empty folder.

    Permissions, owners and times are not restored. Of two members with the same name, the later one is kept.

    Args:
        path: A tar (uncompressed, or compressed by gzip, bzip2 or xz) or a zip.
        folder: Target folder, not a link.
        budget: Number of bytes that may be written.
        control: Receives progress; may request a stop.

    Raises:
        RefusedArchive: A member is a link or a device, has a path outside the folder or an invalid name, or the archive
            exceeds the budget.
        InterruptedWork: A stop was requested.
        Exception: Any error of zipfile, tarfile, a decompressor or the system.
    """
    size = path.stat().st_size
    with path.open("rb") as packed, SafeTree(folder) as tree:
        if is_tar(path):
            stream = TarStream(packed, budget)
            for member in tar_members(stream):
                _extract_member(member, tree, path, control)
                control.progress(packed.tell(), size, "bytes")
            # The checksum of compressed data comes after the last member.
            while stream.read(CHUNK_BYTES):
                _raise_if_stopped(path, control)
            return
        with zipfile.ZipFile(packed) as archive:
            sizes = [info.compress_size for info in archive.infolist()]
            total, done = sum(sizes), 0
            for member, member_size in zip(zip_members(archive, budget), sizes, strict=True):
                _extract_member(member, tree, path, control)
                done += member_size
                control.progress(done, total, "bytes")


def check_only_files_and_folders(folder: Path) -> None:
    """Check that a folder contains regular files and folders only.

    Raises:
        RefusedArchive: It contains anything else; the message names the first.
    """
    for parent, folders, files, handle in os.fwalk(folder):
        for name in (*folders, *files):
            mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                kind = SPECIAL_KINDS.get(stat.S_IFMT(mode), "neither a file nor a folder")
                raise RefusedArchive(f"its member {Path(parent, name).relative_to(folder)} is {kind}")


def _raise_if_stopped(path: Path, control: Control) -> None:
    if control.stop_requested():
        raise InterruptedWork(f"stopped while unpacking {path}. Run the same command again to unpack it.")


def _extract_member(member: Member, tree: SafeTree, path: Path, control: Control) -> None:
    _raise_if_stopped(path, control)
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    is_root = member.is_folder and not parts and member.name
    # macOS stores a folder's icon in a file of this name.
    if is_root or parts[-1:] == ["Icon\r"]:
        return
    problem = path_problem("/".join(["", *parts] if member.name.startswith("/") else parts))
    if problem:
        raise RefusedArchive(f"its member {member.name[:80]!r} {problem}")
    # Only lrbench itself may mark a folder as unpacked.
    if MARKER in parts:
        return
    if member.is_folder:
        tree.make_folder(parts)
        return
    with tree.create_file(parts) as file:
        for chunk in member.content:
            _raise_if_stopped(path, control)
            file.write(chunk)
