"""Orientations in image metadata: applied if the task says so, an error if a user's task does not set it."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.data.decode import collect_findings, decode
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.transfer.target import open_target
from tests import trees

TRANSFORM = EvaluationTransform(size=32, resize=32, interpolation="bilinear")
MINE = '[files]\nlayout = "split-folders"\nroot = "mine"\n'
# Smooth, so that JPEG and WebP change it little.
PICTURE = Image.fromarray(
    np.array(
        [[[0, 40, 250], [90, 200, 20]], [[250, 120, 60], [10, 10, 10]], [[200, 200, 0], [255, 255, 255]]], np.uint8
    )
).resize((32, 48))


def tagged(orientation, kind, picture=PICTURE):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_and_stored_pixels_in_every_format(kind, orientation):
    content = tagged(orientation, kind)
    stored = decode(tagged(1, kind), "plain")
    assert np.abs(stored.astype(int) - np.asarray(PICTURE)).mean() < 8
    with collect_findings() as findings:
        assert np.array_equal(decode(content, "photo"), stored)
    assert (findings.oriented == "photo") == (orientation != 1) and findings.damage is None
    shown = Image.fromarray(stored)
    shown.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(shown))
    upright = decode(content, "photo", upright=True)
    assert np.array_equal(upright, expected) and upright.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_invalid_orientation_is_ignored(value):
    with collect_findings() as findings:
        decode(tagged(value, "JPEG"), "photo", upright=True)
    assert findings.oriented is None


@pytest.fixture
def mine(home):
    """Writes a task; 2 of its 8 images, of class c0 in train, state an orientation."""
    for split in ("train", "test"):
        for label in range(2):
            for number in range(2):
                turned = (split, label) == ("train", 0)
                path = home / "data" / "mine" / split / f"c{label}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(
                    tagged(6 if turned else 1, "JPEG", trees.image(label, number + 10 * (split == "test")))
                )

    def write(line):
        # A new process has no prepared target in memory.
        open_target.cache_clear()
        (home / "mine.toml").write_text(f'name = "mine"\n{line}\n{MINE}')
        return load_task_data(load_task("mine.toml"), [home / "data"])

    return write


@pytest.mark.parametrize("cached", [True, False])
def test_user_task_must_set_orientation(home, mine, cached):
    cache = home / "cache" if cached else None
    with pytest.raises(InputError, match=r'0\.jpg: .*mine\.toml does not set .*orientation = "upright".*data verify'):
        prepare(mine(""), "train", TRANSFORM, cache=cache)
    shape = prepare(mine('orientation = "stored"'), "train", TRANSFORM, cache=cache).resized(0).shape
    assert shape == (32, 42, 3)
    # Also if the cache already exists.
    with pytest.raises(InputError, match=r"mine\.toml does not set"):
        prepare(mine(""), "train", TRANSFORM, cache=cache)
    turned = prepare(mine('orientation = "upright"'), "train", TRANSFORM, cache=cache)
    assert turned.resized(0).shape == (42, 32, 3) and turned.resized(2).shape == (32, 42, 3)
    # Without an orientation in any image, the task need not set it.
    assert len(prepare(mine(""), "test", TRANSFORM, cache=cache)) == 4


def test_shipped_task_uses_stored_pixels(home):
    root = trees.cub200(home / "data")
    path = sorted((root / "CUB_200_2011" / "images").rglob("*.jpg"))[0]
    path.write_bytes(tagged(6, "JPEG", trees.image(0, 0)))
    data = load_task_data(load_task("cub200"), [root], partial=True)
    pixels = prepare(data, "train", TRANSFORM, cache=None, control=Control())
    assert {pixels.resized(index).shape for index in range(len(pixels))} == {(32, 42, 3)}


def test_verify_counts_images_with_an_orientation(lrbench, mine):
    mine("")
    asked = lrbench("data", "verify", "mine.toml")
    assert asked.status == 0
    assert "2 train images have an orientation in their metadata and are used as stored" in asked.out
    assert "(first: train/c0/0.jpg)" in asked.out and 'Add orientation = "upright"' in asked.err
    mine('orientation = "upright"')
    outcome = lrbench("data", "verify", "mine.toml", "--json")
    record = json.loads(outcome.out)
    assert record["oriented"] == {"train": 2} and record["orientation"] == "upright"
    assert "Add orientation" not in outcome.err


def test_orientation_is_part_of_the_preprocessing(lrbench, mine):
    transfer = ("transfer", "--snapshot", "timm:test_resnet", "--protocol", "knn", "--task", "mine.toml", "--json")
    mine("")
    refused = lrbench(*transfer)
    assert refused.status == 2 and "does not set `orientation`" in refused.err
    mine('orientation = "stored"')
    stored = json.loads(lrbench(*transfer).out)
    assert "orientation" not in stored["preprocessing"]
    mine('orientation = "upright"')
    assert lrbench(*transfer).status == 2
    upright = json.loads(lrbench(*transfer, "--again").out)
    assert upright["preprocessing"] == {**stored["preprocessing"], "orientation": "upright"}
    assert upright["settings"]["task_sha256"] != stored["settings"]["task_sha256"]
