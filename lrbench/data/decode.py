"""The one place where a file's bytes become an image: by content, never by the file's name."""

import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from PIL import EpsImagePlugin, Image, PngImagePlugin, UnidentifiedImageError

from lrbench.core.errors import InputError, sentence
from lrbench.data.c_messages import c_messages
from lrbench.data.decoding_room import wait_for_room
from lrbench.data.image_kinds import READ_FORMATS, why_unread
from lrbench.data.jpeg import Bytes, decode_jpeg

# Libraries that open images themselves (torchvision's data sets) must not have Pillow start Ghostscript either.
EpsImagePlugin.gs_binary = False
# Pillow refuses PNG files with more than 1 MiB of compressed text, which generators of images write.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20
# What Pillow warns of concerns metadata, or sizes that are looked at here; no such warning names a file.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Sixteen-bit grey levels 0..65535 onto 0..255: 65535 / 255 is exactly 257.
_LEVELS_16_TO_8 = 257
# Most pixels of an image, Pillow's own limit; and the largest file, which holds so many in 16-bit colour.
MOST_PIXELS = 178_956_970
MOST_IMAGE_BYTES = 1 << 30
# Pixels that are converted at a time: a conversion takes several times the memory of its image.
_STRIP_PIXELS = 1 << 22
_ORIENTATION = 0x0112
# Where formats but TIFF have it, by Pillow's names: asking for it is a tenth of the time of a small image.
_STATING = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
_PNG_START = b"\x89PNG\r\n\x1a\n"


class UndecodableImage(InputError):
    """An image that cannot be read or decoded, or is damaged.

    Attributes:
        name: The file.
        reason: What is wrong with it, in a few words.
    """

    def __init__(self, name: str, reason: str, task: str = "TASK") -> None:
        super().__init__(
            f"{name} could not be read as an image: {sentence(reason)} `lrbench data verify {task}` (and the same "
            "--data-root) lists every such file; replace them from the original archive, or take them out where the data are "
            "your own."
        )
        self.name = name
        self.reason = reason
        self._task = task

    def __reduce__(self) -> tuple[type["UndecodableImage"], tuple[str, str, str]]:
        return UndecodableImage, (self.name, self.reason, self._task)


@dataclass
class Remarks:
    """What decoding notices of an image beside its pixels.

    Attributes:
        damage: Says what is damaged where the image decodes all the same; None where nothing is.
        oriented: The file, where its metadata say that it is to be shown turned or mirrored; else None.
    """

    damage: UndecodableImage | None = None
    oriented: str | None = None


_REMARKS: ContextVar[Remarks | None] = ContextVar("remarks", default=None)


@contextmanager
def noticing() -> Iterator[Remarks]:
    """Collect what decoding one image in this thread notices; without it, a damaged image is refused."""
    remarks = Remarks()
    token = _REMARKS.set(remarks)
    try:
        yield remarks
    finally:
        _REMARKS.reset(token)


def decode(content: bytes, name: str, *, task: str = "TASK", upright: bool = False) -> Bytes:
    """Decode an image file's bytes to RGB.

    Pillow is the reference. The container is told from the bytes (data sets hold GIF, BMP and PNG files called `.jpg`).
    CMYK is converted; transparency is laid on white, because drawings are commonly saved as black on nothing; 16-bit
    grey levels are scaled to 8 bits, not clipped; of several frames the first is taken. What Pillow itself does as it opens a
    file stays: of 16-bit colour the lower byte is cut off, not rounded, and a transparent colour in 16 bits may not be
    recognised. Levels that no standard maps to black and white (floating point, 32 bits) are refused: a guess would give
    black images.

    Args:
        content: The file's bytes.
        name: What the file is called in an error.
        task: The task named in an error's advice.
        upright: Apply the orientation that the metadata (EXIF, or XMP) state, as viewers do. Otherwise pixels are as they
            are stored, in every format; published figures were made so.

    Returns:
        Shape `(H, W, 3)`.

    Raises:
        UndecodableImage: The bytes are no image, or one that is cut off or, where nobody is `noticing`, damaged.
    """
    if not content:
        raise UndecodableImage(name, "the file is empty", task)
    try:
        with c_messages() as messages:
            pixels, damage, orientation = _decoded(content, messages or [])
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage(name, why_unread(content), task) from error
    except Image.DecompressionBombError as error:
        raise UndecodableImage(name, f"it has more than {MOST_PIXELS:,} pixels; make it smaller", task) from error
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of exception on damaged files (OSError, SyntaxError, struct.error, …).
        raise UndecodableImage(name, _own_words(str(error)) or type(error).__name__, task) from error
    remarks = _REMARKS.get()
    if damage is not None:
        refusal = UndecodableImage(name, f"it is damaged: {damage}", task)
        if remarks is None:
            raise refusal
        remarks.damage = refusal
    if remarks is not None and orientation != 1:
        remarks.oriented = name
    return np.ascontiguousarray(_turned(pixels, orientation) if upright else pixels)


def _decoded(content: bytes, messages: Sequence[str]) -> tuple[Bytes, str | None, int]:
    """The stored pixels of an image, its damage as a clause, and the orientation that it states.

    Args:
        content: The file's bytes.
        messages: What C libraries print meanwhile.
    """
    # Pillow looks at the head alone: what kind it is, and how large.
    image = Image.open(io.BytesIO(content), formats=READ_FORMATS)
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise Image.DecompressionBombError
    wait_for_room(width, height)
    pixels, damage = decode_jpeg(content) if image.format in {"JPEG", "MPO"} else (None, None)
    if image.format == "TIFF":
        # TIFF alone is turned by Pillow, which then forgets the orientation.
        orientation = _orientation(image)
        image.load()
        pixels = _turned(rgb_pixels(image), {6: 8, 8: 6}.get(orientation, orientation))
        return pixels, f"its decoder reports {messages[0]!r}" if messages else None, orientation
    if pixels is None or image.mode != "RGB":
        image.load()
        pixels = rgb_pixels(image)
    return pixels, png_damage(content) if image.format == "PNG" else damage, _orientation(image)


def _own_words(message: str) -> str:
    if "MAX_TEXT" in message:
        return f"its metadata hold more than {PngImagePlugin.MAX_TEXT_CHUNK >> 20} MiB of text; save it without them"
    return message


def _orientation(image: Image.Image) -> int:
    """How an image is to be shown, by EXIF's numbers from 1 (as it is stored) to 8."""
    if image.format != "TIFF" and _STATING.isdisjoint(image.info):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Damaged metadata, of which Pillow raises as many kinds of exception as of damaged images.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(pixels: Bytes, orientation: int) -> Bytes:
    """Pixels as they are to be shown. Shape `(H, W, 3)`, or `(W, H, 3)` for orientations from 5."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return pixels


def png_damage(content: bytes) -> str | None:
    """The damage that a PNG file's checksums show, as a clause; Pillow looks at a few of them."""
    place = len(_PNG_START)
    while place < len(content):
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        end = place + 8 + length
        if zlib.crc32(memoryview(content)[place + 4 : end]) != int.from_bytes(content[end : end + 4]):
            return f"the checksum of its {kind.decode(errors='replace')} data does not match"
        if kind == b"IEND":
            return None
        place = end + 4
    return "its end is missing"


def rgb_pixels(image: Image.Image) -> Bytes:
    """The pixels of an image of any mode as RGB, by the rules of `decode`. Shape `(H, W, 3)`.

    Raises:
        ValueError: Its levels do not say what is white.
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
            "its levels are floating-point numbers, which do not say what is white; convert it to 8 or 16 bits"
        )
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Older Pillow opens 16-bit PNGs as 32-bit "I"; its own conversions to 8 bits would clip at 255, the key's pixels too.
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(
                "its levels go beyond 16 bits, so that they do not say what is white; convert it to 8 or 16 bits"
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
