"""Members of a zip file."""

import stat
import zipfile
from collections.abc import Iterator

from lrbench.data.archives.members import BLOCK_BYTES, CHUNK_BYTES, SPECIAL_KINDS, Member, RefusedArchive, SizeBudget

# `create_system` of Unix and macOS, whose file attributes contain the file type.
_UNIX_SYSTEMS = (3, 19)


def zip_members(archive: zipfile.ZipFile, budget: SizeBudget) -> Iterator[Member]:
    """Yield the members of a zip file in order.

    Raises:
        RefusedArchive: A member is neither a file nor a folder, or uses a compression whose memory is not bounded.
    """
    for info in archive.infolist():
        # `orig_filename`, because zipfile cuts `filename` at a null byte. Some Windows programs write backslashes.
        name = info.orig_filename.replace("\\", "/")
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system in _UNIX_SYSTEMS else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise RefusedArchive(f"its member {name[:80]!r} is {SPECIAL_KINDS.get(kind, 'of an unknown type')}")
        is_folder = kind == stat.S_IFDIR or name.endswith("/")
        if not is_folder and info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RefusedArchive(f"its member {name[:80]!r} uses compression method {info.compress_type}")
        budget.spend(BLOCK_BYTES)
        yield Member(name=name, is_folder=is_folder, content=_read_content(archive, info, budget))


def _read_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: SizeBudget) -> Iterator[bytes]:
    with archive.open(info) as content:
        while chunk := content.read(CHUNK_BYTES):
            budget.spend(len(chunk))
            yield chunk
