import io

import numpy as np
import pytest
from PIL import Image

from lrbench.data.decode import decode
from lrbench.errors import InputError


def encoded(picture, kind):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_the_container_is_told_from_the_bytes(kind, mode):
    if (kind, mode) == ("JPEG", "P"):
        mode = "CMYK"
    picture = decode(encoded(COLOUR.convert(mode), kind), "wrong.jpg")
    assert picture.mode == "RGB" and picture.size == (10, 12)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    picture = decode(encoded(Image.fromarray(levels), "PNG"), "deep.png")
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_laid_on_white():
    drawing = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.asarray(decode(encoded(drawing, "PNG"), "sketch.png")).min() == 255


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"not an image at all", "it is not an image"),
        (encoded(COLOUR, "JPEG")[:200], ""),
        (encoded(COLOUR, "PNG")[:60], ""),
    ],
)
def test_what_does_not_decode_is_named_with_the_reason(content, said):
    with pytest.raises(InputError, match=rf"some/file\.jpg could not be read as an image: .*{said}"):
        decode(content, "some/file.jpg")
