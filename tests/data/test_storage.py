"""Comparison of plain pixels and JPEG."""

import numpy as np
import pytest

from lrbench.data import storage
from lrbench.data.pixels import Shard, StoredPixels
from lrbench.data.storage import Storage, measure_storage


def pixels(count, side=48):
    content = np.random.default_rng(0).integers(0, 256, count * side * side * 3, np.uint8)
    length = side * side * 3
    index = np.array([[number * length, length, side, side] for number in range(count)])
    return StoredPixels([Shard(content=content, index=index)], side, encoded=False)


def test_sizes_are_of_the_whole_split_and_nothing_stays_on_disk(tmp_path):
    measured = measure_storage(pixels(400), tmp_path / "cache", quality=90, cores=4, memory=1 << 40)
    assert measured.plain_bytes == 400 * 48 * 48 * 3 and 0 < measured.jpeg_bytes < measured.plain_bytes
    assert measured.plain_rate > 0 and measured.jpeg_rate > 0 and measured.fits
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("read", "fits", "form", "words"),
    [
        (1e-3, False, "jpeg", "jpeg would feed training faster here: this disk gives 1,000 images/s"),
        (1e-3, True, "jpeg", "pixels would feed training faster here, since they stay in memory"),
        (1e-6, False, "jpeg", 'it stays jpeg: set prepare.format = "pixels" in a task of your own'),
        (1e-6, False, "pixels", "The task's prepare.format decides; it is pixels."),
    ],
)
def test_the_faster_form_is_named_and_the_tasks_stays(tmp_path, monkeypatch, read, fits, form, words):
    monkeypatch.setattr(storage, "_cold_read", lambda images, folder: read)
    measured = measure_storage(pixels(300), tmp_path, quality=90, cores=1, memory=1 << (40 if fits else 10))
    # A core decodes between a thousand and a hundred thousand images of 48 px a second.
    measured = Storage(**{**vars(measured), "jpeg_rate": 20_000.0})
    assert words in measured.words(form)
