"""JPEG images by torchvision's decoder: faster than Pillow's, and it reports damage."""

import io
import re
import warnings
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from lrbench.data.c_messages import c_messages

Bytes = npt.NDArray[np.uint8]

# Of libjpeg's messages, those that say that the image's own data are damaged. Before 0xd9, the end of the image, some cameras
# write bytes of their own.
_DAMAGE = re.compile(
    r"Corrupt JPEG data(?!: \d+ extraneous bytes before marker 0xd9)|Premature end|Inconsistent progression"
)


def decode_jpeg(content: bytes | Bytes) -> tuple[Bytes | None, str | None]:
    """Decode a JPEG file with torchvision.

    Returns:
        The pixels of a colour image, shape `(H, W, 3)`, or None where Pillow has to decode it; and the damage that the
        decoder reported, as a clause, or None.
    """
    return _decode(content) if torchvision_decodes_as_pillow() else (None, None)


def decode_own_jpeg(content: Bytes, height: int, width: int) -> Bytes:
    """The pixels of a colour JPEG image of known size. Shape `(height, width, 3)`."""
    pixels, _ = decode_jpeg(content)
    if pixels is None:
        # Its form is known, so Pillow need not look for it: that takes a quarter of the time of a small image.
        pixels = np.asarray(Image.frombytes("RGB", (width, height), bytes(content), "jpeg", "RGB", ""))
    return pixels


def _decode(content: bytes | Bytes) -> tuple[Bytes | None, str | None]:
    # Imported here, so that commands that only list images need no torch.
    import torch
    import torchvision

    encoded = torch.from_numpy(np.array(np.frombuffer(content, np.uint8)))
    with c_messages() as messages:
        try:
            pixels = torchvision.io.decode_jpeg(encoded)
        except RuntimeError:
            # Pillow decides what is damaged beyond decoding, and says why.
            return None, None
    damage = next(filter(_DAMAGE.match, messages or ()), None)
    image: Bytes = pixels.permute(1, 2, 0).numpy()
    return image if image.shape[2] == 3 else None, damage and f"its decoder reports {damage!r}"


@cache
def torchvision_decodes_as_pillow() -> bool:
    """Whether this torchvision decodes JPEG, to the bit as Pillow does, and its reports of damage can be read."""
    with c_messages() as messages:
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
