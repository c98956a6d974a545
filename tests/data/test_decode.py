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


def test_sixteen_bit_levels_are_rounded_to_the_nearest_in_every_channel_and_byte_order():
    levels = np.array([[0, 128, 129, 385, 386, 1000, 65406, 65407]], dtype=np.uint16)
    expected = [0, 0, 1, 1, 2, 4, 254, 255]
    assert np.array_equal(np.rint(levels[0] / 257), expected)
    swapped = Image.frombytes("I;16B", (8, 1), levels.astype(">u2").tobytes())
    for picture, kind in ((Image.fromarray(levels), "PNG"), (Image.fromarray(levels), "TIFF"), (swapped, "TIFF")):
        found = np.asarray(decode(encoded(picture, kind), "deep"))
        assert all(found[0, :, channel].tolist() == expected for channel in range(3))


CMYK = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 255, 0, 0): (255, 0, 255)} | {
    (0, 0, 255, 0): (255, 255, 0),
    (0, 0, 0, 255): (0, 0, 0),
    (0, 0, 0, 155): (100, 100, 100),
}


@pytest.mark.parametrize(("kind", "allowed"), [("TIFF", 0), ("JPEG", 2)])
@pytest.mark.parametrize("inks", sorted(CMYK))
def test_inks_darken_and_no_ink_is_white(kind, allowed, inks):
    pixels = np.asarray(decode(encoded(Image.new("CMYK", (16, 16), inks), kind), "print.jpg")).astype(int)
    assert np.abs(pixels - CMYK[inks]).max() <= allowed


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_a_palettes_colours_are_looked_up(kind):
    colours = [(250, 0, 10), (0, 240, 20), (30, 0, 230), (90, 91, 92)]
    picture = Image.new("P", (4, 1))
    picture.putpalette([level for colour in colours for level in colour])
    picture.putdata([3, 0, 2, 1])
    pixels = np.asarray(decode(encoded(picture, kind), "drawing"))
    assert [tuple(pixel) for pixel in pixels[0].tolist()] == [colours[3], colours[0], colours[2], colours[1]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_orientation_that_a_camera_noted_is_not_applied(kind):
    plain, turned = io.BytesIO(), io.BytesIO()
    COLOUR.save(plain, format=kind)
    exif = Image.Exif()
    # Turned by 90 degrees.
    exif[0x0112] = 6
    COLOUR.save(turned, format=kind, exif=exif)
    assert Image.open(io.BytesIO(turned.getvalue())).getexif()[0x0112] == 6
    found = decode(turned.getvalue(), "turned")
    assert found.size == (10, 12) and np.array_equal(np.asarray(found), np.asarray(decode(plain.getvalue(), "plain")))


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
