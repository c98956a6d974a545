"""Damage that decoders report, and the memory that image headers and texts can request."""

import io
import json
import random
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.data import c_stderr, jpeg
from lrbench.data.decode import UndecodableImage, collect_findings, decode
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.pixels import centre_crop, resize
from lrbench.data.prepare import prepare
from tests import trees
from tests.helpers import Forked

TRANSFORM = EvaluationTransform(size=32, resize=32, interpolation="bilinear")
PHOTOGRAPH = trees.image(0, 0, size=(320, 240))


def encoded(kind, picture=PHOTOGRAPH, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def half_grey(**options):
    """Return a JPEG file whose data ends in the middle, with an end marker."""
    whole = encoded("JPEG", **options)
    return whole[: len(whole) // 2] + b"\xff\xd9"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_libjpeg_damage_is_reported_and_not_printed(capfd, mode, options):
    content = half_grey(picture=PHOTOGRAPH.convert(mode), **options)
    with pytest.raises(
        UndecodableImage, match=r"x\.jpg could .*: it is damaged: its decoder reports 'Corrupt JPEG data"
    ):
        decode(content, "x.jpg")
    with collect_findings() as findings:
        pixels = decode(content, "x.jpg")
    assert pixels.shape == (240, 320, 3) and findings.damage.name == "x.jpg"
    with collect_findings() as findings:
        decode(encoded("JPEG", PHOTOGRAPH.convert(mode), **options), "x.jpg")
    assert findings.damage is None
    assert capfd.readouterr().err == ""


def test_extra_bytes_before_the_end_marker_are_no_damage():
    for options in ({}, {"progressive": True}):
        whole = encoded("JPEG", **options)
        with collect_findings() as findings:
            decode(whole[:-2] + b"abc" + whole[-2:], "x.jpg")
        assert findings.damage is None


def test_libtiff_messages_are_damage(capfd):
    content = encoded("TIFF", compression="tiff_lzw")
    start = Image.open(io.BytesIO(content)).tag_v2[273][0]
    # The data of the first strip is repeated in its middle.
    spoilt = content[: start + 900] + content[start : start + 900] + content[start + 1800 :]
    with pytest.raises(UndecodableImage):
        decode(spoilt, "x.tif")
    assert capfd.readouterr().err == ""


def test_messages_are_captured_per_thread(capfd):
    draw = random.Random(0)
    files = [(half_grey(), True) if draw.random() < 0.5 else (encoded("JPEG"), False) for _ in range(200)]

    def damaged(content):
        with collect_findings() as findings:
            decode(content, "x.jpg")
        return findings.damage is not None

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(damaged, [content for content, _ in files])) == [expected for _, expected in files]
    assert capfd.readouterr().err == ""


def test_other_c_messages_are_printed():
    script = """
import ctypes, threading
from lrbench.data.c_stderr import capture_c_stderr
library = ctypes.CDLL(None)
def say(text):
    library.fputs(text, ctypes.c_void_p.in_dll(library, "stderr"))
with capture_c_stderr() as heard:
    say(b"mine\\n")
    other = threading.Thread(target=say, args=(b"another thread's\\n",))
    other.start(); other.join()
say(b"later\\n")
print(heard)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "['mine']\n" and done.stderr == "another thread's\nlater\n"


def test_without_capture_pillow_decodes_and_nothing_is_printed(monkeypatch, capfd):
    monkeypatch.setattr(c_stderr, "_replacement", lambda: None)
    jpeg.torchvision_decodes_as_pillow.cache_clear()
    try:
        assert decode(half_grey(), "x.jpg").shape == (240, 320, 3)
        assert not jpeg.torchvision_decodes_as_pillow()
    finally:
        jpeg.torchvision_decodes_as_pillow.cache_clear()
    assert capfd.readouterr().err == ""


def with_chunk(content, kind, change):
    """Return a PNG file with one changed byte in a chunk, but its old checksum."""
    place = content.index(kind) + 4 + change
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(("kind", "mode"), [(b"IDAT", "RGB"), (b"PLTE", "P"), (b"IHDR", "RGB")])
def test_png_with_a_wrong_checksum_is_damaged(kind, mode):
    content = encoded("PNG", PHOTOGRAPH.convert(mode))
    # The last byte of the header is the interlacing flag; the last bytes of the data come after all pixels.
    length = int.from_bytes(content[content.index(kind) - 4 : content.index(kind)])
    with pytest.raises(UndecodableImage):
        decode(with_chunk(content, kind, length - 1), "x.png")
    with pytest.raises(UndecodableImage, match="its end is missing"):
        decode(content[:-12], "x.png")


def test_png_with_damaged_transparency_or_text_is_damaged():
    picture = Image.new("P", (4, 4))
    picture.putpalette([9, 9, 9, 200, 10, 20])
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "words")
    content = encoded("PNG", picture, transparency=b"\0\xff", pnginfo=text)
    for kind in (b"tRNS", b"tEXt"):
        with pytest.raises(UndecodableImage):
            decode(with_chunk(content, kind, 0), "x.png")
    assert decode(content, "x.png").shape == (4, 4, 3)


def test_long_png_text_is_accepted_up_to_a_limit():
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a photograph of " * 200_000, zip=True)
    content = encoded("PNG", pnginfo=text)
    assert np.array_equal(decode(content, "x.png"), np.asarray(PHOTOGRAPH))
    data = b"parameters\0\0" + zlib.compress(b"a" * (17 << 20))
    chunk = b"zTXt" + data
    bomb = content[:33] + len(data).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + content[33:]
    with pytest.raises(UndecodableImage, match="its metadata contain more than 16 MiB of text; save it without them"):
        decode(bomb, "x.png")


@pytest.mark.parametrize(("width", "height"), [(20_000, 1), (1, 20_000), (66, 2)])
def test_only_the_middle_of_a_very_long_image_is_resized(width, height):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[:, : width // 4], image[: height // 4] = 0, 0
    resized = resize(image, TRANSFORM)
    assert sorted(resized.shape) == [3, 32, 1024]
    longest = max(width, height)
    start = (longest - 32 * min(width, height)) // 2
    middle = image.take(range(start, start + 32 * min(width, height)), axis=int(width > height))
    assert np.array_equal(resized, resize(np.ascontiguousarray(middle), TRANSFORM))


def test_images_up_to_ratio_32_are_resized_whole():
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 3), dtype=np.uint8)
    assert resize(image, TRANSFORM).shape == (32, 1024, 3)
    assert centre_crop(resize(image, TRANSFORM), 32).shape == (32, 32, 3)


def most_memory():
    """The largest resident memory of this process so far, in MiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) >> 10


def print_peak(mode, width, height, squash):
    """Print by how much decoding and resizing one image raises the largest memory of this process."""
    torch.set_num_threads(1)
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format="PNG", compress_level=1)
    content = buffer.getvalue()
    before = most_memory()
    transform = EvaluationTransform(size=224, resize=256, interpolation="bicubic", squash=squash)
    resize(decode(content, "x.png"), transform)
    print(most_memory() - before, flush=True)


@pytest.mark.parametrize(
    ("mode", "width", "height", "squash"),
    [
        ("L", 200_000, 1, False),
        ("L", 1, 200_000, True),
        ("RGBA", 6_000, 6_000, False),
        ("I;16", 6_000, 6_000, False),
    ],
)
def test_memory_is_bounded_for_extreme_sizes(mode, width, height, squash):
    # A process of its own, whose peak is its own.
    done = Forked(print_peak, mode, width, height, squash).finished()
    assert done.status == 0, done.err
    # Pillow uses up to four bytes per pixel, and the result three.
    assert int(done.out) < 200 + 7.5 * width * height / (1 << 20)


@pytest.fixture
def mine(home):
    for split in ("train", "test"):
        for label in range(2):
            for number in range(4):
                picture = trees.image(label, number + 10 * (split == "test"), size=(320, 240))
                trees.save(home / "data" / "mine" / split / f"c{label}" / f"{number}.jpg", picture)
    (home / "data" / "mine" / "train" / "c1" / "2.jpg").write_bytes(half_grey())
    (home / "mine.toml").write_text('name = "mine"\n[files]\nlayout = "split-folders"\nroot = "mine"\n')
    return home


def test_verify_lists_damaged_images_and_fails(lrbench, mine, capfd):
    outcome = lrbench("data", "verify", "mine.toml")
    assert outcome.status == 1 and "1 images of mine cannot be read or are damaged" in outcome.err
    assert (
        "c1/2.jpg: it is damaged: its decoder reports 'Corrupt JPEG data: premature end of data segment'" in outcome.out
    )
    assert "Corrupt" not in outcome.err


def test_transfer_refuses_damaged_images_or_is_partial(lrbench, mine):
    transfer = ("transfer", "--snapshot", "timm:test_resnet", "--protocol", "knn", "--task", "mine.toml", "--json")
    for caching in ((), ("--no-cache",)):
        refused = lrbench(*transfer, *caching)
        assert refused.status == 2 and "c1/2.jpg could not be read as an image: it is damaged" in refused.err
        assert "(--partial uses the readable part, and marks every result as partial)" in refused.err
    for caching in ((), ("--no-cache",)):
        partial = lrbench(*transfer, *caching, "--partial", "--again")
        assert partial.status == 0 and json.loads(partial.out)["partial"] and json.loads(partial.out)["task"]["partial"]
        assert "1 train images of mine are damaged; their readable part is used (first: " in partial.err
    # Damaged images in the cache are refused, too.
    refused = lrbench(*transfer, "--again")
    assert refused.status == 2 and "c1/2.jpg could not be read as an image: it is damaged" in refused.err


def test_damaged_images_of_a_shipped_task_are_used_and_reported(home):
    root = trees.cub200(home / "data")
    sorted((root / "CUB_200_2011" / "images").rglob("*.jpg"))[0].write_bytes(half_grey())
    data = load_task_data(load_task("cub200"), [root], partial=True)
    messages = []
    control = Control()
    control.say = messages.append
    for _ in range(2):
        assert len(prepare(data, "train", TRANSFORM, cache=home / "cache", control=control)) == 18
    assert len(messages) == 2 and all("1 train images of cub200 are damaged" in line for line in messages)
