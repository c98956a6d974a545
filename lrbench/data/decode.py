"""The one place where a file's bytes become an image: by content, never by the file's name."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from lrbench.errors import InputError

# Sixteen-bit grey levels 0..65535 onto 0..255: 65535 / 255 is exactly 257.
_LEVELS_16_TO_8 = 257


class UndecodableImage(InputError):
    """An image that cannot be read or decoded.

    Attributes:
        name: The file.
        reason: What is wrong with it, in a few words.
    """

    def __init__(self, name: str, reason: str, task: str = "TASK") -> None:
        super().__init__(
            f"{name} could not be read as an image: {reason}. `lrbench data verify {task}` lists every such file; "
            "replace them from the original archive."
        )
        self.name = name
        self.reason = reason
        self._task = task

    def __reduce__(self) -> tuple[type["UndecodableImage"], tuple[str, str, str]]:
        return UndecodableImage, (self.name, self.reason, self._task)


def decode(content: bytes, name: str, *, task: str = "TASK") -> Image.Image:
    """Decode an image file's bytes to RGB.

    Pillow is the reference. The container is told from the bytes (data sets hold GIF, BMP and PNG files called `.jpg`).
    CMYK is converted; transparency is laid on white, because drawings are commonly saved as black on nothing; 16-bit
    grey levels are scaled to 8 bits, not clipped; of several frames the first is taken. The EXIF orientation is not
    applied, as in torchvision's loaders, with which published figures were made.

    Args:
        content: The file's bytes.
        name: What the file is called in an error.
        task: The task named in an error's advice.

    Returns:
        An image of mode RGB.

    Raises:
        UndecodableImage: The bytes are no image, or one that is cut off or damaged (an `InputError`).
    """
    if not content:
        raise UndecodableImage(name, "the file is empty", task)
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
        return to_rgb(image)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        page = content[:512].lstrip().lower().startswith((b"<!doctype", b"<html"))
        raise UndecodableImage(name, "it is a web page" if page else "it is not an image", task) from error
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of exception on damaged files (OSError, SyntaxError, struct.error, …).
        raise UndecodableImage(name, str(error) or type(error).__name__, task) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB by the rules of `decode`."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Older Pillow opens 16-bit PNGs as 32-bit "I"; its own conversion to 8 bits would clip at 255.
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((levels + _LEVELS_16_TO_8 // 2) // _LEVELS_16_TO_8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
