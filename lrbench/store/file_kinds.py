"""Detection of a weights file's format from its content, not its suffix. Nothing in the file is loaded or run."""

import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from lrbench.core.files import open_regular

LARGEST_HEADER = 16 << 20
"""Bytes of the largest safetensors header that is read; headers of large networks have less than one million."""

# A tar archive's signature is at byte 257.
_START = 512
_TENSORS_ONLY = "Save its tensors with torch.save or as safetensors in the program that wrote it."
# Signature, description and advice.
_SIGNATURES = (
    (b"version https://git-lfs", "it is a Git LFS pointer, not the file itself", "Fetch it with `git lfs pull`."),
    (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file, as Keras writes them", _TENSORS_ONLY),
    (b"\x93NUMPY", "it is a NumPy array", _TENSORS_ONLY),
    (b"GGUF", "it is a GGUF file of quantised weights", "Use weights in float32 or float16."),
    (b"\x1f\x8b", "it is compressed with gzip", "Unpack it, and name the file of weights in it."),
    (b"BZh", "it is compressed with bzip2", "Unpack it, and name the file of weights in it."),
    (b"\xfd7zXZ\x00", "it is compressed with xz", "Unpack it, and name the file of weights in it."),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd", "Unpack it, and name the file of weights in it."),
)
_ARCHIVE = "Unpack it, and name the file of weights in it."


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """Format of a file.

    Attributes:
        form: `safetensors`; `torch`, a file of torch.save, which is a pickle; or `other`.
        description: A clause that begins with "it"; empty for the first two forms.
        advice: A sentence; empty for the first two forms.
    """

    form: Literal["safetensors", "torch", "other"]
    description: str = ""
    advice: str = ""


def file_kind(path: Path) -> FileKind:
    """Detect the format of a file from its first bytes and, for a zip archive, from its list of files.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not a regular file, or it cannot be read.
    """
    with open_regular(path) as file:
        start, size = file.read(_START), os.fstat(file.fileno()).st_size
        if header_length(start, size) is not None:
            return FileKind(form="safetensors")
        if start.startswith(b"PK\x03\x04"):
            return _archive(file)
    # Protocols 2 to 5: torch.save writes 2, plain pickle 4 or 5.
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return FileKind(form="torch")
    for signature, description, advice in _SIGNATURES:
        if start.startswith(signature):
            return _other(description, advice)
    if start[257:262] == b"ustar":
        return _other("it is a tar archive", _ARCHIVE)
    if start.lstrip()[:1] == b"<":
        return _other("it is a web page", "Download the file itself.")
    if not start:
        return _other("it is empty", "Copy it again.")
    return _other(
        "it is not a file that torch.save or safetensors writes",
        "Copy it again if it should be one, or name another file.",
    )


def header_length(start: bytes, size: int) -> int | None:
    """Return the length of a safetensors file's header, or None if the file has another format.

    Args:
        start: The file's first bytes, at least nine.
        size: Size of the file in bytes.
    """
    length: int = struct.unpack("<Q", start[:8])[0] if len(start) >= 9 else 0
    return length if 2 <= length <= min(LARGEST_HEADER, size - 8) and start[8:9] == b"{" else None


def _archive(file: BinaryIO) -> FileKind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return _other("it is truncated", "Copy it again.")
    if any(name.endswith("/data.pkl") for name in names):
        return FileKind(form="torch")
    if any(name.endswith(".npy") for name in names):
        return _other("it is an archive of NumPy arrays", _TENSORS_ONLY)
    return _other("it is a zip archive", _ARCHIVE)


def _other(description: str, advice: str) -> FileKind:
    return FileKind(form="other", description=description, advice=advice)
