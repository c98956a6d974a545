"""The one place where a file's bytes become an image: by content, never by the file's name."""

import io
import warnings
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from lrbench.data.decoding_room import wait_for_room
from lrbench.data.image_kinds import READ_FORMATS, why_unread
from lrbench.errors import InputError, sentence

# Libraries that open images themselves (torchvision's data sets) must not have Pillow start Ghostscript either.
EpsImagePlugin.gs_binary = False

# Sixteen-bit grey levels 0..65535 onto 0..255: 65535 / 255 is exactly 257.
_LEVELS_16_TO_8 = 257
# Largest file that is read as an image: 179 million pixels of 16-bit colour, uncompressed.
MOST_IMAGE_BYTES = 1 << 30

Bytes = npt.NDArray[np.uint8]


class UndecodableImage(InputError):
    """An image that cannot be read or decoded.

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


def decode(content: bytes, name: str, *, task: str = "TASK") -> Bytes:
    """Decode an image file's bytes to RGB.

    Pillow is the reference. The container is told from the bytes (data sets hold GIF, BMP and PNG files called `.jpg`).
    CMYK is converted; transparency is laid on white, because drawings are commonly saved as black on nothing; 16-bit
    grey levels are scaled to 8 bits, not clipped; of several frames the first is taken. The EXIF orientation is not
    applied, as in torchvision's loaders, with which published figures were made. What Pillow itself does as it opens a file
    stays: of 16-bit colour the lower byte is cut off, not rounded, and a transparent colour in 16 bits may not be recognised.
    Levels that no standard maps to black and white (floating point, 32 bits) are refused: a guess would give black images.

    Args:
        content: The file's bytes.
        name: What the file is called in an error.
        task: The task named in an error's advice.

    Returns:
        Shape `(H, W, 3)`.

    Raises:
        UndecodableImage: The bytes are no image, or one that is cut off or damaged (an `InputError`).
    """
    if not content:
        raise UndecodableImage(name, "the file is empty", task)
    try:
        # Pillow looks at the head alone: what kind it is, and whether it is of a size that nobody means.
        image = Image.open(io.BytesIO(content), formats=READ_FORMATS)
        wait_for_room(*image.size)
        if image.format in {"JPEG", "MPO"} and image.mode == "RGB" and (pixels := _jpeg(content)) is not None:
            return pixels
        image.load()
        return rgb_pixels(image)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableImage(name, why_unread(content), task) from error
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of exception on damaged files (OSError, SyntaxError, struct.error, …).
        raise UndecodableImage(name, str(error) or type(error).__name__, task) from error


def decode_own_jpeg(content: Bytes, height: int, width: int) -> Bytes:
    """The pixels of a colour JPEG image of known size. Shape `(height, width, 3)`."""
    pixels = _jpeg(content)
    if pixels is None:
        # Its form is known, so Pillow need not look for it: that takes a quarter of the time of a small image.
        pixels = np.asarray(Image.frombytes("RGB", (width, height), bytes(content), "jpeg", "RGB", ""))
    return pixels


def _jpeg(content: bytes | Bytes) -> Bytes | None:
    """The pixels of a colour JPEG image, in two thirds of Pillow's time; None where only Pillow is to be asked.

    torchvision has the same decoder under it, and needs no copy of the pixels. It means to give this up, and its build
    may have another version of the decoder: then Pillow does it.
    """
    return _decoded_by_torchvision(content) if _torchvision_decodes_as_pillow() else None


def _decoded_by_torchvision(content: bytes | Bytes) -> Bytes | None:
    # Here, so that what only lists images needs no torch.
    import torch
    import torchvision

    try:
        pixels = torchvision.io.decode_jpeg(torch.from_numpy(np.array(np.frombuffer(content, np.uint8))))
    except RuntimeError:
        # Pillow decides on what is damaged, and finds the words.
        return None
    found: Bytes = pixels.permute(1, 2, 0).numpy()
    return found if found.shape[2] == 3 else None


@cache
def _torchvision_decodes_as_pillow() -> bool:
    """Whether this torchvision decodes JPEG at all, and to the bit as Pillow does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for number, (subsampling, progressive) in enumerate([(0, False), (1, False), (2, False), (2, True)]):
            noise = np.random.default_rng(number).integers(0, 256, (37, 45, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            image = Image.fromarray(noise)
            image.save(buffer, format="JPEG", quality=80, subsampling=subsampling, progressive=progressive)
            try:
                theirs = _decoded_by_torchvision(buffer.getvalue())
            except (AttributeError, OSError):
                return False
            if theirs is None or not np.array_equal(theirs, np.asarray(Image.open(buffer))):
                return False
    return True


def rgb_pixels(image: Image.Image) -> Bytes:
    """The pixels of an image of any mode as RGB, by the rules of `decode`. Shape `(H, W, 3)`.

    Raises:
        ValueError: Its levels do not say what is white.
    """
    return np.array(_to_rgb(image))


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
