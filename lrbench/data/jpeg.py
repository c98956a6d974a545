"""Decoding JPEG with torchvision, which is faster than Pillow and reports damage."""

import io
import re
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lrbench.data.c_stderr import capture_c_stderr

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]

# Messages of libjpeg about damaged image data. Some cameras write additional bytes before 0xd9, the end of the image.
_DAMAGE = re.compile(
    r"Corrupt JPEG data(?!: \d+ extraneous bytes before marker 0xd9)|Premature end|Inconsistent progression"
)
# Value of `torchvision.io.ImageReadMode.UNCHANGED`.
_UNCHANGED = 0


def decode_jpeg(content: bytes | Bytes) -> tuple[Bytes | None, str | None]:
    """Decode a JPEG file with torchvision.

    Returns:
        The pixels of a colour image, shape `(H, W, 3)`, or None if Pillow has to decode it; and the damage that the decoder
        reported as a clause, or None.
    """
    return _decode(content) if torchvision_decodes_as_pillow() else (None, None)


def decode_known_jpeg(encoded: "torch.Tensor", height: int, width: int) -> Bytes:
    """Decode a colour JPEG that lrbench encoded, as stored in the pixel cache, without the report of damage.

    Many threads decode at the same time, so little of this holds the interpreter lock.

    Args:
        encoded: Bytes of the file, uint8.
        height, width: Size of the image.

    Returns:
        Shape `(height, width, 3)`.
    """
    if torchvision_decodes_as_pillow():
        try:
            pixels: Bytes = _decoder()(encoded, _UNCHANGED, False).permute(1, 2, 0).numpy()
            return pixels
        except RuntimeError:
            # Pillow decodes it or raises an error with the reason.
            pass
    # `frombytes` skips the detection of the format, a quarter of the time for a small image.
    return np.asarray(Image.frombytes("RGB", (width, height), encoded.numpy().tobytes(), "jpeg", "RGB", ""))


def _decode(content: bytes | Bytes) -> tuple[Bytes | None, str | None]:
    # Imported late, because commands that only list images do not need torch.
    import torch

    encoded = torch.from_numpy(np.array(np.frombuffer(content, np.uint8)))
    with capture_c_stderr() as messages:
        try:
            pixels = _decoder()(encoded, _UNCHANGED, False)
        except RuntimeError:
            # Pillow decodes it or raises an error with the reason.
            return None, None
    damage = next(filter(_DAMAGE.match, messages or ()), None)
    image: Bytes = pixels.permute(1, 2, 0).numpy()
    return image if image.shape[2] == 3 else None, damage and f"its decoder reports {damage!r}"


@cache
def _decoder() -> Any:
    """Return torchvision's operator, without the Python of its wrapper, which runs under the interpreter lock.

    Raises:
        AttributeError: This torchvision has no such operator.
    """
    import torch
    import torchvision  # noqa: F401  (registers the operator)

    return torch.ops.image.decode_jpeg.default


@cache
def torchvision_decodes_as_pillow() -> bool:
    """Return whether this torchvision decodes JPEG bit-identically to Pillow and its damage reports can be captured."""
    with capture_c_stderr() as messages:
        if messages is None:
            return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for number, (subsampling, progressive) in enumerate([(0, False), (1, False), (2, False), (2, True)]):
            noise = np.random.default_rng(number).integers(0, 256, (37, 45, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            image = Image.fromarray(noise)
            image.save(buffer, format="JPEG", quality=80, subsampling=subsampling, progressive=progressive)
            whole = buffer.getvalue()
            try:
                theirs, _ = _decode(whole)
                _, damage = _decode(whole[: len(whole) // 2] + b"\xff\xd9")
            except (AttributeError, OSError):
                return False
            if theirs is None or damage is None or not np.array_equal(theirs, np.asarray(Image.open(buffer))):
                return False
    return True
