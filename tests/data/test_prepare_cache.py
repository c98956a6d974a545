"""The pixel cache with changed files, damage, several processes and little memory."""

import io
import json
import os
import time
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image, features

from lrbench.config import load_task
from lrbench.config.suite import Input
from lrbench.config.task import Task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InterruptedWork
from lrbench.data import pixel_cache, resized_images, shards
from lrbench.data import prepare as module
from lrbench.data.examples import EvaluationTransform, Split, TaskData
from lrbench.data.layouts.file_images import FileImages
from lrbench.data.loading import load_task_data
from lrbench.data.pixels import StoredPixels, resize
from lrbench.data.prepare import prepare
from tests import trees
from tests.helpers import Forked

TRANSFORM = EvaluationTransform.of(Input(size=32, crop_fraction=0.875))
MINE = 'name = "mine"\n\n[files]\nlayout = "folders"\nroot = "mine"\n'


@pytest.fixture
def data(home):
    for label in range(2):
        for number in range(8):
            path = home / "data" / "mine" / f"c{label}" / f"{number}.png"
            trees.save(path, trees.image(label, number), "PNG")
    (home / "mine.toml").write_text(MINE)
    return load_task_data(load_task("mine.toml"), [home / "data"])


@pytest.fixture
def small_shards(monkeypatch):
    """Two of the test images per shard."""
    monkeypatch.setattr(resized_images, "_SHARD_BYTES", 13_000)


def everything(pixels):
    return pixels.evaluation(np.arange(len(pixels)))


def whole_cache(home):
    (folder,) = (home / "cache" / "pixels").glob("mine-*")
    return folder


def test_changed_image_of_the_same_size_is_prepared_again(home, data):
    before = everything(prepare(data, "train", TRANSFORM, cache=home / "cache"))
    path = home / "data" / "mine" / data.splits["train"].ids[0]
    size, buffer = path.stat().st_size, io.BytesIO()
    Image.new("RGB", (64, 48), (255, 0, 0)).save(buffer, "PNG")
    # Decoders ignore bytes after the image.
    path.write_bytes(buffer.getvalue().ljust(size, b"\0"))
    os.utime(path, ns=(1, 1))
    assert path.stat().st_size == size
    after = everything(prepare(data, "train", TRANSFORM, cache=home / "cache"))
    assert after[0, 0, 0].tolist() == [255, 0, 0] and np.array_equal(before[1:], after[1:])


def test_shard_of_a_different_size_is_written_again(home, data, small_shards):
    expected = everything(prepare(data, "train", TRANSFORM, cache=home / "cache"))
    folder = whole_cache(home)
    content = (folder / "shard-00001.arrow").read_bytes()
    # Arrow reads it nevertheless.
    (folder / "shard-00001.arrow").write_bytes(content + b"more")
    assert np.array_equal(everything(prepare(data, "train", TRANSFORM, cache=home / "cache")), expected)
    assert (folder / "shard-00001.arrow").read_bytes() == content


def test_cache_with_fewer_images_is_completed(home, data, small_shards):
    expected = everything(prepare(data, "train", TRANSFORM, cache=home / "cache"))
    folder = whole_cache(home)
    about = json.loads((folder / "about.json").read_text())
    last = folder / f"shard-{len(about['shards']) - 1:05d}.arrow"
    last.unlink()
    (folder / "about.json").write_text(json.dumps({**about, "shards": about["shards"][:-1]}))
    assert np.array_equal(everything(prepare(data, "train", TRANSFORM, cache=home / "cache")), expected)
    assert last.is_file()


def flipped(path, place, bit=0):
    """Flip one bit of a file without changing its size and times."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def recording():
    lines = []
    control = Control()
    control.say = lines.append
    return control, lines


@pytest.mark.parametrize("where", [0, 0.3, 0.6, 1])
def test_shard_with_a_flipped_bit_is_written_again(home, data, small_shards, recording, where):
    control, lines = recording
    expected = everything(prepare(data, "train", TRANSFORM, cache=home / "cache"))
    folder = whole_cache(home)
    paths = sorted(folder.glob("shard-*.arrow"))
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in paths}
    about = (folder / "about.json").read_bytes()
    assert len(paths) > 3
    flipped(paths[1], int(where * (paths[1].stat().st_size - 1)))
    again = prepare(data, "train", TRANSFORM, cache=home / "cache", control=control)
    assert np.array_equal(everything(again), expected)
    assert len(lines) == 1 and f"{paths[1]} is damaged (wrong checksum)" in lines[0]
    # The other shards are unchanged, and the damaged one is replaced, so that existing maps of it stay valid.
    for path in paths:
        content, inode = before[path]
        assert path.read_bytes() == content and (path.stat().st_ino == inode) == (path != paths[1])
    assert (folder / "about.json").read_bytes() == about
    assert np.array_equal(
        everything(prepare(data, "train", TRANSFORM, cache=home / "cache", control=control)), expected
    )
    assert len(lines) == 1


def test_checksum_covers_every_bit_of_about_json(home, data, small_shards, recording):
    control, lines = recording
    expected = everything(prepare(data, "train", TRANSFORM, cache=home / "cache"))
    folder = whole_cache(home)
    size = (folder / "about.json").stat().st_size
    for count, place in enumerate(range(0, size, size // 12), 1):
        flipped(folder / "about.json", place, place % 7)
        again = prepare(data, "train", TRANSFORM, cache=home / "cache", control=control)
        assert np.array_equal(everything(again), expected) and len(lines) == count
        assert "about.json is damaged" in lines[-1]


def test_damaged_finished_shard_is_not_resumed(home, data, small_shards):
    expected = everything(prepare(data, "train", TRANSFORM, cache=None))
    control = Control()
    control.progress = lambda done, total, unit: control.stop() if done == 8 else None
    with pytest.raises(InterruptedWork):
        prepare(data, "train", TRANSFORM, cache=home / "cache", control=control)
    (part,) = (home / "cache" / "pixels").glob(".*.part")
    flipped(part / "shard-00000.arrow", 5_000)
    assert np.array_equal(everything(prepare(data, "train", TRANSFORM, cache=home / "cache")), expected)


def test_cache_without_checksums_is_written_again(home, data, recording):
    control, lines = recording
    expected = everything(prepare(data, "train", TRANSFORM, cache=home / "cache"))
    folder = whole_cache(home)
    about = json.loads((folder / "about.json").read_text())
    sizes = [record["bytes"] for record in about["shards"]]
    old = {key: value for key, value in about.items() if key not in {"shards", "sha256"}}
    (folder / "about.json").write_text(json.dumps({**old, "sizes": sizes}))
    assert np.array_equal(
        everything(prepare(data, "train", TRANSFORM, cache=home / "cache", control=control)), expected
    )
    assert len(lines) == 1 and "of an old version; its images are prepared again" in lines[0]
    assert json.loads((folder / "about.json").read_text()) == about


def test_checksum_is_computed_once_per_process(home, data, monkeypatch):
    prepare(data, "train", TRANSFORM, cache=home / "cache")
    monkeypatch.setattr(shards, "_crc32", lambda file: pytest.fail("read again"))
    prepare(data, "train", TRANSFORM, cache=home / "cache")
    monkeypatch.setattr(shards, "_VERIFIED", set())
    with pytest.raises(pytest.fail.Exception, match="read again"):
        prepare(data, "train", TRANSFORM, cache=home / "cache", workers=1)


def test_cache_damaged_right_after_writing_is_an_error(home, data, monkeypatch):
    monkeypatch.setattr(pixel_cache, "is_whole", lambda path, record: False)
    with pytest.raises(FailureError, match=r"is damaged immediately after it was written\. Check the disk"):
        prepare(data, "train", TRANSFORM, cache=home / "cache")


@pytest.mark.parametrize("quality", [20, 95])
def test_jpeg_cache_uses_the_tasks_quality(home, data, quality):
    (home / "mine.toml").write_text(MINE + f'\n[prepare]\nformat = "jpeg"\nquality = {quality}\n')
    data = load_task_data(load_task("mine.toml"), [home / "data"])
    pixels = prepare(data, "train", TRANSFORM, cache=home / "cache")
    assert isinstance(pixels, StoredPixels)
    shard = pixels._shards[0]
    for index, (offset, length, *_) in enumerate(shard.index.tolist()):
        buffer = io.BytesIO()
        resized = resize(data.splits["train"].images.read(index), TRANSFORM)
        Image.fromarray(resized).save(buffer, format="JPEG", quality=quality)
        assert shard.content[offset : offset + length].tobytes() == buffer.getvalue()


def test_decoder_version_is_part_of_the_key(home, data):
    prepare(data, "train", TRANSFORM, cache=home / "cache")
    about = json.loads((whole_cache(home) / "about.json").read_text())
    assert about["libjpeg"] == (features.version_feature("libjpeg_turbo") or features.version("jpg"))
    assert {"torch", "torchvision", "pillow", "arithmetic", "version"} <= set(about)


def prepare_slowly(home):
    """Prepare a task, and note each image that is read."""
    read = FileImages.read

    def noted(self, index):
        with open(home / "read", "a") as file:
            file.write(f"{index}\n")
        time.sleep(0.1)
        return read(self, index)

    FileImages.read = noted
    data = load_task_data(load_task("mine.toml"), [home / "data"])
    print(len(prepare(data, "train", TRANSFORM, cache=home / "cache", workers=1)))


def test_concurrent_processes_decode_once(home, data):
    running = [Forked(prepare_slowly, home) for _ in range(2)]
    count = len(data.splits["train"])
    for process in running:
        done = process.finished()
        assert done.out == f"{count}\n", done.err
    read = sorted(map(int, (home / "read").read_text().split()))
    assert read == list(range(count))


@pytest.fixture
def no_locks(monkeypatch):
    def refuse(handle, operation):
        raise OSError("locks are not supported")

    monkeypatch.setattr("lrbench.core.locks.fcntl.flock", refuse)


def test_without_locks_other_processes_files_are_kept(home, data, no_locks, small_shards):
    expected = everything(prepare(data, "train", TRANSFORM, cache=None))
    images = resized_images.ResizedImages(data, "train", TRANSFORM, 1, Control())
    name = pixel_cache.PixelCache(images, home / "cache" / "pixels").folder.name
    theirs = home / "cache" / "pixels" / f".{name}.part" / ".shard-00000.arrow.x.part"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"being written")
    assert np.array_equal(everything(prepare(data, "train", TRANSFORM, cache=home / "cache")), expected)
    assert theirs.read_bytes() == b"being written"
    assert {path.name for path in theirs.parent.parent.iterdir() if path.is_dir()} == {name, theirs.parent.name}


def test_after_a_lost_lease_the_first_finished_cache_is_used(home, data, monkeypatch):
    # `locked` creates it.
    (home / "cache" / "pixels").mkdir(parents=True)
    monkeypatch.setattr(pixel_cache, "locked", lambda *arguments: nullcontext(False))
    fill = pixel_cache.PixelCache._write_missing
    seen = []

    def overtaken(self, part):
        fill(self, part)
        if not seen:
            seen.append(part)
            prepare(data, "train", TRANSFORM, cache=home / "cache")
            seen.append(whole_cache(home).stat().st_ino)

    monkeypatch.setattr(pixel_cache.PixelCache, "_write_missing", overtaken)
    pixels = prepare(data, "train", TRANSFORM, cache=home / "cache")
    assert len(pixels) == len(data.splits["train"]) and whole_cache(home).stat().st_ino == seen[1]


def test_stop_message_mentions_shards_only_if_kept(home, data, no_locks):
    control = Control()
    control.stop()
    for cache in (None, home / "cache"):
        with pytest.raises(InterruptedWork, match=r"images were prepared\. Run the same command again\.$"):
            prepare(data, "train", TRANSFORM, cache=cache, control=control)


class GeneratedImages:
    """Generated images; counts the reads."""

    def __init__(self, sides):
        self.sides, self.reads = sides, 0

    def read(self, index):
        self.reads += 1
        return np.zeros((*self.sides[::-1], 3), np.uint8)

    def stamp(self):
        return "drawn"


@pytest.mark.parametrize(("room", "expected"), [(10, 10), (100, 100), (10**6, 4 * 16 * 8)])
def test_memory_of_images_decoded_ahead_is_bounded(monkeypatch, room, expected):
    count, images = 2000, GeneratedImages((48, 36))
    split = Split(ids=list(map(str, range(count))), labels=np.arange(count) % 2, images=images)
    task = Task.model_validate({"name": "drawn", "files": {"layout": "folders"}})
    data = TaskData(task=task, classes=("a", "b"), splits={"train": split, "test": split})
    monkeypatch.setattr(resized_images, "_AHEAD_BYTES", room * 3 * 48 * 36)
    transform = EvaluationTransform(size=32, resize=36, interpolation="bilinear")
    work = resized_images.ResizedImages(data, "train", transform, 16, Control())
    most = taken = 0
    for _ in work.stream(0, count):
        if taken % 50 == 0:
            # A slow consumer, so that as much as allowed is decoded ahead.
            time.sleep(0.02)
        most, taken = max(most, images.reads - taken), taken + 1
    assert taken == images.reads == count
    # The estimate before the first image, and one task in work, allow a deviation.
    assert expected / 2 <= most <= expected * 4 / 3 + 8


def test_one_decoding_thread_per_available_core(home, data, monkeypatch):
    workers = []
    make = resized_images.ResizedImages.__init__

    def record(self, *arguments):
        workers.append(arguments[3])
        make(self, *arguments)

    monkeypatch.setattr(resized_images.ResizedImages, "__init__", record)
    monkeypatch.setattr(module, "available_cores", lambda: 3)
    prepare(data, "train", TRANSFORM, cache=None)
    prepare(data, "train", TRANSFORM, cache=None, workers=2)
    assert workers == [3, 2]


def test_complete_cache_is_read_without_a_lock(home, data, monkeypatch):
    """A cache on a read-only disk can be used, because no lock is requested."""
    expected = everything(prepare(data, "train", TRANSFORM, cache=home / "cache"))
    monkeypatch.setattr(pixel_cache, "locked", lambda *arguments: pytest.fail("a lock was asked for"))
    assert np.array_equal(everything(prepare(data, "train", TRANSFORM, cache=home / "cache")), expected)
