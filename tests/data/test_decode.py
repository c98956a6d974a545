import io
import os

import numpy as np
import pytest
from PIL import Image

import lrbench.data.decode as module
from lrbench.core.errors import InputError
from lrbench.data import jpeg
from lrbench.data.decode import UndecodableImage, collect_findings, decode
from lrbench.data.image_formats import READ_FORMATS
from lrbench.data.layouts.file_images import FileImages


def encoded(picture, kind):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_format_is_detected_from_bytes(kind, mode):
    if (kind, mode) == ("JPEG", "P"):
        mode = "CMYK"
    picture = decode(encoded(COLOUR.convert(mode), kind), "wrong.jpg")
    assert picture.shape == (12, 10, 3) and picture.dtype == np.uint8


def test_16_bit_grey_is_scaled_not_clipped():
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    picture = decode(encoded(Image.fromarray(levels), "PNG"), "deep.png")
    assert picture[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_levels_are_rounded_in_every_channel_and_byte_order():
    levels = np.array([[0, 128, 129, 385, 386, 1000, 65406, 65407]], dtype=np.uint16)
    expected = [0, 0, 1, 1, 2, 4, 254, 255]
    assert np.array_equal(np.rint(levels[0] / 257), expected)
    swapped = Image.frombytes("I;16B", (8, 1), levels.astype(">u2").tobytes())
    for picture, kind in ((Image.fromarray(levels), "PNG"), (Image.fromarray(levels), "TIFF"), (swapped, "TIFF")):
        pixels = decode(encoded(picture, kind), "deep")
        assert all(pixels[0, :, channel].tolist() == expected for channel in range(3))


CMYK = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 255, 0, 0): (255, 0, 255)} | {
    (0, 0, 255, 0): (255, 255, 0),
    (0, 0, 0, 255): (0, 0, 0),
    (0, 0, 0, 155): (100, 100, 100),
}


@pytest.mark.parametrize(("kind", "allowed"), [("TIFF", 0), ("JPEG", 2)])
@pytest.mark.parametrize("inks", sorted(CMYK))
def test_cmyk_without_ink_is_white(kind, allowed, inks):
    pixels = decode(encoded(Image.new("CMYK", (16, 16), inks), kind), "print.jpg").astype(int)
    assert np.abs(pixels - CMYK[inks]).max() <= allowed


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palette_colours_are_looked_up(kind):
    colours = [(250, 0, 10), (0, 240, 20), (30, 0, 230), (90, 91, 92)]
    picture = Image.new("P", (4, 1))
    picture.putpalette([level for colour in colours for level in colour])
    picture.putdata([3, 0, 2, 1])
    pixels = decode(encoded(picture, kind), "drawing")
    assert [tuple(pixel) for pixel in pixels[0].tolist()] == [colours[3], colours[0], colours[2], colours[1]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_not_applied_by_default(kind):
    plain, turned = io.BytesIO(), io.BytesIO()
    COLOUR.save(plain, format=kind)
    exif = Image.Exif()
    # Rotated by 90 degrees.
    exif[0x0112] = 6
    COLOUR.save(turned, format=kind, exif=exif)
    assert Image.open(io.BytesIO(turned.getvalue())).getexif()[0x0112] == 6
    pixels = decode(turned.getvalue(), "turned")
    assert pixels.shape == (12, 10, 3) and np.array_equal(pixels, decode(plain.getvalue(), "plain"))


def test_transparency_is_composed_on_white():
    drawing = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert decode(encoded(drawing, "PNG"), "sketch.png").min() == 255


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"not an image at all", "it is not an image"),
        (
            encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
            "floating-point .* convert it to 8 or 16 bits",
        ),
        (encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), "exceed 16 bits"),
        (encoded(COLOUR, "JPEG")[:200], ""),
        (encoded(COLOUR, "PNG")[:60], ""),
    ],
)
def test_undecodable_image_names_file_and_reason(content, reason):
    with pytest.raises(InputError, match=rf"some/file\.jpg could not be read as an image: .*{reason}"):
        decode(content, "some/file.jpg")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program named `gs`, first in the path, and the folder that it writes to when it is started."""
    program = tmp_path / "gs"
    program.write_text(f'#!/bin/sh\ntouch "{tmp_path}/started"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_eps_file_starts_no_program(ghostscript):
    # IPTC files can contain an image of any format.
    fields = [
        b"\x1c\x03\x3c\0\x02\x01\0",
        b"\x1c\x03\x14\0\x01\x08",
        b"\x1c\x03\x1e\0\x01\x08",
        b"\x1c\x03\x78\0\x01\x01",
    ]
    for content in (EPS, b"".join(fields) + b"\x1c\x08\x0a" + len(EPS).to_bytes(2) + EPS):
        with pytest.raises(UndecodableImage):
            decode(content, "x.jpg")
    # Libraries such as torchvision open files themselves.
    with pytest.raises(OSError, match="Ghostscript"):
        Image.open(io.BytesIO(EPS)).load()
    assert not (ghostscript / "started").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (EPS, "it is an EPS file, .* convert it .lrbench reads JPEG, "),
        (b"%PDF-1.7", "it is a PDF file, .* convert it"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "it is a HEIC image, .* convert it"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "it starts like an AVIF image, but its header is damaged|it is an AVIF image"),
        (b"\0\0\0\x1cftypisom\0\0\0\0", "it is a video"),
        (b"\xff\x0a\xfa\x1f", "it is a JPEG XL image, .* convert it"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "it is a JPEG XL image, .* convert it"),
        (b'<?xml version="1.0"?>\n<svg width="9">', "it is an SVG drawing, .* convert it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a Git LFS pointer, .*git lfs pull"),
        (b"\n<HTML lang=en>", "it is a web page"),
        (b"PK\x03\x04", "it is a ZIP archive"),
        (b"\x89PNG\r\n\x1a\n\0\0", "it starts like a PNG image, but its header is damaged"),
    ],
)
def test_other_file_types_are_named_in_the_error(content, reason):
    with pytest.raises(UndecodableImage, match=reason):
        decode(content, "x.jpg")


def test_only_listed_formats_are_read():
    for kind in READ_FORMATS:
        assert decode(encoded(COLOUR, kind), "x").shape == (12, 10, 3)
    for kind in ("ICO", "JPEG2000", "PCX", "SGI", "TGA"):
        with pytest.raises(UndecodableImage, match="JPEG, PNG, WebP, GIF, BMP, TIFF"):
            decode(encoded(COLOUR, kind), "x")


@pytest.mark.skipif("AVIF" not in READ_FORMATS, reason="this Pillow was built without AVIF")
def test_avif_is_decoded_checked_and_oriented():
    photo = Image.fromarray(np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photo.save(buffer, format="AVIF", quality=100, subsampling="4:4:4", exif=exif)
    content = buffer.getvalue()
    stored = decode(content, "photo.avif")
    assert stored.shape == (16, 24, 3) and decode(content, "photo.avif", upright=True).shape == (24, 16, 3)
    assert np.array_equal(stored, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    for damaged in (content[:-40], content[: len(content) // 2]):
        with pytest.raises(UndecodableImage, match=r"photo\.avif"):
            decode(damaged, "photo.avif")


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    images = FileImages(root=tmp_path, paths=("pipe.jpg", "missing.jpg", "/dev/zero"), task="mine")
    for index, reason in enumerate(["it is a pipe", "no such file", "it is a device"]):
        with pytest.raises(UndecodableImage, match=reason):
            images.read(index)


def photographs():
    """Yield JPEG files of many sizes, with and without subsampling, progressive coding and restart markers."""
    draw = np.random.default_rng(0)
    for number in range(24):
        height, width = (1, 1) if number == 0 else draw.integers(1, 90, 2)
        smooth = Image.fromarray(draw.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((int(width), int(height)))
        kind = {"quality": int(draw.integers(5, 100)), "subsampling": number % 3, "progressive": number % 4 == 3}
        buffer = io.BytesIO()
        smooth.save(buffer, format="JPEG", restart_marker_rows=number % 2, **kind)
        yield buffer.getvalue()


def outcome(content):
    try:
        with collect_findings():
            return decode(content, "file").tobytes()
    except UndecodableImage as error:
        return error.reason


@pytest.fixture
def by_pillow(monkeypatch):
    def run(content):
        with monkeypatch.context() as without:
            without.setattr(jpeg, "torchvision_decodes_as_pillow", lambda: False)
            return outcome(content)

    return run


def test_torchvision_decoder_gives_pillows_pixels_and_errors(by_pillow):
    draw = np.random.default_rng(1)
    refused = 0
    for content in photographs():
        harmed = [content, content[: len(content) // 2], content[:-1], content[:-30], content + b"more"]
        for _ in range(8):
            flipped = bytearray(content)
            flipped[int(draw.integers(0, len(flipped)))] = int(draw.integers(0, 256))
            harmed.append(bytes(flipped))
        for content in harmed:
            expected = by_pillow(content)
            assert outcome(content) == expected
            refused += isinstance(expected, str)
    assert refused > 40


def test_torchvision_decoder_is_used_if_available():
    assert jpeg.torchvision_decodes_as_pillow()
    assert jpeg.decode_jpeg(encoded(COLOUR, "JPEG"))[0] is not None
    assert jpeg.decode_jpeg(encoded(COLOUR.convert("L"), "JPEG")) == (None, None)


@pytest.mark.parametrize("given", ["other pixels", "nothing"])
def test_missing_or_different_decoder_is_not_used(monkeypatch, given):
    theirs = jpeg._decoder()

    def missing():
        raise AttributeError("decode_jpeg")

    different = {"nothing": missing, "other pixels": lambda: lambda *arguments: theirs(*arguments) ^ 1}
    jpeg.torchvision_decodes_as_pillow.cache_clear()
    monkeypatch.setattr(jpeg, "_decoder", different[given])
    try:
        assert not jpeg.torchvision_decodes_as_pillow()
        expected = np.asarray(Image.open(io.BytesIO(encoded(COLOUR, "JPEG"))))
        assert np.array_equal(decode(encoded(COLOUR, "JPEG"), "a.jpg"), expected)
    finally:
        jpeg.torchvision_decodes_as_pillow.cache_clear()


def test_huge_image_is_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    monkeypatch.setattr(module, "decode_jpeg", lambda content: pytest.fail("decoded"))
    with pytest.raises(
        InputError, match=r"it has more than 178,956,970 pixels; reduce its size\. .*`lrbench data verify"
    ):
        decode(encoded(COLOUR, "JPEG"), "huge.jpg")


def keyed(mode, pixels, key, kind="PNG", palette=None):
    """Return the decoded row of an image that is transparent where a pixel has the key value."""
    picture = Image.new(mode, (len(pixels), 1))
    if palette:
        picture.putpalette([level for colour in palette for level in colour])
    picture.putdata(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, transparency=key)
    assert "transparency" in Image.open(io.BytesIO(buffer.getvalue())).info
    return decode(buffer.getvalue(), "keyed")[0].tolist()


WHITE = [255, 255, 255]
RED, BLACK, BLUE = (200, 10, 20), (0, 0, 0), (1, 2, 210)


@pytest.mark.parametrize("key", [0, 257, 1000, 65535])
def test_16_bit_grey_with_transparency_is_scaled_first(key):
    levels = [0, 257, 999, 1000, 32896, 65535]
    picture = Image.fromarray(np.array([levels], dtype=np.uint16))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", transparency=key)
    assert Image.open(io.BytesIO(buffer.getvalue())).info["transparency"] == key
    expected = [255 if level == key else grey for level, grey in zip(levels, [0, 1, 4, 4, 128, 255], strict=True)]
    assert decode(buffer.getvalue(), "deep.png")[0].tolist() == [[grey] * 3 for grey in expected]


def test_transparent_grey_or_colour_becomes_white():
    assert keyed("L", [0, 7, 200], 0) == [WHITE, [7] * 3, [200] * 3]
    assert keyed("RGB", [BLACK, RED, BLUE], BLACK) == [WHITE, list(RED), list(BLUE)]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_colour_becomes_white(kind):
    assert keyed("P", [1, 0, 2, 1], 1, kind, [RED, BLACK, BLUE]) == [WHITE, list(RED), list(BLUE), WHITE]


def test_half_transparent_palette_colours_mix_with_white():
    row = keyed("P", [0, 1, 2], bytes([255, 0, 127]), palette=[RED, BLACK, BLACK])
    assert row == [list(RED), WHITE, [128] * 3]
