"""Decoding an image file to RGB, by content and not by file name. All images of lrbench are decoded here."""

import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from PIL import EpsImagePlugin, Image, PngImagePlugin, UnidentifiedImageError

from lrbench.core.errors import InputError, as_sentence
from lrbench.data.c_stderr import capture_c_stderr
from lrbench.data.image_formats import READ_FORMATS, explain_unreadable
from lrbench.data.jpeg import Bytes, decode_jpeg
from lrbench.data.memory_budget import reserve_memory

# Pillow must not start Ghostscript, also when a library such as torchvision opens images itself.
EpsImagePlugin.gs_binary = False
# Image generators write PNG files with more than 1 MiB of compressed text, Pillow's default limit.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20
with suppress(ImportError):
    from PIL import AvifImagePlugin

    # Threads of lrbench decode several images at a time.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Pillow's warnings concern metadata and image sizes, which are checked below, and do not name the file.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Scales 16-bit grey levels to 8 bits: 65535 / 255 = 257.
_LEVELS_16_TO_8 = 257
MOST_PIXELS = 178_956_970
"""Largest number of pixels of an image, Pillow's default limit."""
MOST_IMAGE_BYTES = 1 << 30
"""Largest image file, enough for that many pixels in 16-bit colour."""
# Pixels that are converted at a time, because a conversion takes several times the memory of its image.
_STRIP_PIXELS = 1 << 22
_ORIENTATION_TAG = 0x0112
# Keys of `Image.info` that can contain an orientation. `getexif` takes a tenth of the time of a small image.
_METADATA_KEYS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
_PNG_START = b"\x89PNG\r\n\x1a\n"


class UndecodableImage(InputError):
    """An image that cannot be read or decoded, or is damaged.

    Attributes:
        name: File name.
        reason: What is wrong, as a clause.
    """

    def __init__(self, name: str, reason: str, task: str = "TASK") -> None:
        super().__init__(
            f"{name} could not be read as an image: {as_sentence(reason)} Replace it from the original archive, or remove it "
            f"if the data is your own. `lrbench data verify {task}` (with the same --data-root) lists all such files."
        )
        self.name = name
        self.reason = reason
        self._task = task

    def __reduce__(self) -> tuple[type["UndecodableImage"], tuple[str, str, str]]:
        return UndecodableImage, (self.name, self.reason, self._task)


@dataclass
class Findings:
    """Findings of decoding one image.

    Attributes:
        damage: The damage of an image that decodes nevertheless; None if there is none.
        oriented: The file name if its metadata state that it is shown rotated or mirrored; else None.
    """

    damage: UndecodableImage | None = None
    oriented: str | None = None


_FINDINGS: ContextVar[Findings | None] = ContextVar("findings", default=None)


@contextmanager
def collect_findings() -> Iterator[Findings]:
    """Collect the findings of decoding one image in this thread. Outside this context, a damaged image is an error."""
    findings = Findings()
    token = _FINDINGS.set(findings)
    try:
        yield findings
    finally:
        _FINDINGS.reset(token)


def decode(content: bytes, name: str, *, task: str = "TASK", upright: bool = False) -> Bytes:
    """Decode the bytes of an image file to RGB, with Pillow's result.

    The format is detected from the bytes, because data sets contain GIF, BMP and PNG files named `.jpg`. CMYK is converted.
    Transparency is composed on white, because drawings are often black on transparent. 16-bit grey levels are scaled to 8 bits.
    Of several frames, the first is used. Pillow truncates 16-bit colour to 8 bits, and may not recognise a transparent 16-bit
    colour. Floating-point and 32-bit levels are refused, because no standard defines which level is white.

    Args:
        content: Bytes of the file.
        name: File name for errors.
        task: Task name for the advice in errors.
        upright: Apply the orientation in the metadata (EXIF or XMP), as image viewers do. By default the stored pixels are
            returned, as in published results.

    Returns:
        Shape `(H, W, 3)`.

    Raises:
        UndecodableImage: The bytes are not an image, or one that is truncated or, outside `collect_findings`, damaged.
    """
    if not content:
        raise UndecodableImage(name, "the file is empty", task)
    try:
        with capture_c_stderr() as messages:
            pixels, damage, orientation = _decode(content, messages or [])
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage(name, explain_unreadable(content), task) from error
    except Image.DecompressionBombError as error:
        raise UndecodableImage(name, f"it has more than {MOST_PIXELS:,} pixels; reduce its size", task) from error
    except Exception as error:
        # Pillow's decoders raise a dozen exception types for damaged files (OSError, SyntaxError, struct.error, …).
        reason = str(error) or type(error).__name__
        if "MAX_TEXT" in reason:
            limit = PngImagePlugin.MAX_TEXT_CHUNK >> 20
            reason = f"its metadata contain more than {limit} MiB of text; save it without them"
        raise UndecodableImage(name, reason, task) from error
    findings = _FINDINGS.get()
    if damage is not None:
        damaged = UndecodableImage(name, f"it is damaged: {damage}", task)
        if findings is None:
            raise damaged
        findings.damage = damaged
    if findings is not None and orientation != 1:
        findings.oriented = name
    return np.ascontiguousarray(_rotate(pixels, orientation) if upright else pixels)


def _decode(content: bytes, messages: Sequence[str]) -> tuple[Bytes, str | None, int]:
    """Return the stored pixels of an image, its damage as a clause, and the EXIF orientation (1 to 8).

    Args:
        content: Bytes of the file.
        messages: Receives what C libraries print during the call.
    """
    # `open` reads only the header.
    image = Image.open(io.BytesIO(content), formats=READ_FORMATS)
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise Image.DecompressionBombError
    reserve_memory(width, height)
    pixels, damage = decode_jpeg(content) if image.format in {"JPEG", "MPO"} else (None, None)
    if image.format == "TIFF":
        # Pillow rotates TIFF images, and only these, when it loads them, and removes the orientation. Undo the rotation.
        orientation = _read_orientation(image)
        image.load()
        pixels = _rotate(rgb_pixels(image), {6: 8, 8: 6}.get(orientation, orientation))
        return pixels, f"its decoder reports {messages[0]!r}" if messages else None, orientation
    if pixels is None or image.mode != "RGB":
        image.load()
        pixels = rgb_pixels(image)
    return pixels, png_damage(content) if image.format == "PNG" else damage, _read_orientation(image)


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, from 1 (as stored) to 8."""
    if image.format != "TIFF" and _METADATA_KEYS.isdisjoint(image.info):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Pillow raises a dozen exception types for damaged metadata, too.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _rotate(pixels: Bytes, orientation: int) -> Bytes:
    """Apply an EXIF orientation. Shape `(H, W, 3)`, or `(W, H, 3)` for orientations from 5."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return pixels


def png_damage(content: bytes) -> str | None:
    """Return the damage that a PNG file's checksums show, as a clause, or None. Pillow checks only some of them."""
    offset = len(_PNG_START)
    while offset < len(content):
        length, kind = int.from_bytes(content[offset : offset + 4]), content[offset + 4 : offset + 8]
        end = offset + 8 + length
        if zlib.crc32(memoryview(content)[offset + 4 : end]) != int.from_bytes(content[end : end + 4]):
            return f"the checksum of its {kind.decode(errors='replace')} data does not match"
        if kind == b"IEND":
            return None
        offset = end + 4
    return "its end is missing"


def rgb_pixels(image: Image.Image) -> Bytes:
    """Return the pixels of an image of any mode as RGB, converted as in `decode`. Shape `(H, W, 3)`.

    Raises:
        ValueError: Its levels are floating-point numbers or exceed 16 bits.
    """
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return np.array(_to_rgb(image))
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(_to_rgb(image.crop((0, top, width, bottom))))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError(
            "its levels are floating-point numbers, for which no white level is defined; convert it to 8 or 16 bits"
        )
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Older versions of Pillow open 16-bit PNGs as 32-bit "I". Pillow's conversion to 8 bits clips at 255.
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(
                "its levels exceed 16 bits, for which no white level is defined; convert it to 8 or 16 bits"
            )
        grey = ((levels + _LEVELS_16_TO_8 // 2) // _LEVELS_16_TO_8).astype(np.uint8)
        if "transparency" in image.info:
            grey[levels == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
