"""Memory of images that threads decode at the same time is bounded."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from lrbench.config import load_task
from lrbench.data import memory_budget
from lrbench.data.decode import UndecodableImage, decode
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.memory_budget import DecodingBudget, reserve_memory
from lrbench.data.prepare import prepare
from tests import trees


def most_at_once(budget, sizes, threads=8):
    """Return the largest number of bytes and of images in work at one time."""
    lock, in_work, most = threading.Lock(), [], [0, 0]

    def work(size):
        with budget.one_image():
            reserve_memory(size, 1)
            with lock:
                in_work.append(4 * size)
                most[0], most[1] = max(most[0], sum(in_work)), max(most[1], len(in_work))
            time.sleep(0.002)
            with lock:
                in_work.remove(4 * size)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, sizes))
    return most


def test_images_in_work_stay_within_the_budget():
    most_bytes, most_images = most_at_once(DecodingBudget(4000), [300] * 60)
    assert most_bytes <= 4000 and most_images == 3


def test_image_larger_than_the_budget_is_decoded_alone():
    most_bytes, _ = most_at_once(DecodingBudget(4000), [5000, 10, 10, 5000, 10, 10] * 4)
    assert most_bytes == 20000


def test_without_a_budget_nothing_waits():
    for _ in range(3):
        reserve_memory(10**6, 10**6)


def test_failed_decoding_releases_its_memory():
    budget, buffer = DecodingBudget(100), io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(buffer, format="PNG")
    for _ in range(3):
        with pytest.raises(UndecodableImage), budget.one_image():
            decode(buffer.getvalue()[:-30], "cut.png")
    with budget.one_image():
        assert decode(buffer.getvalue(), "whole.png").shape == (40, 40, 3)


def test_prepare_uses_the_budget(tmp_path, monkeypatch):
    data = load_task_data(load_task("cub200"), [trees.cub200(tmp_path)], partial=True)
    claimed = []
    take = DecodingBudget._acquire
    monkeypatch.setattr(DecodingBudget, "_acquire", lambda self, count: (claimed.append(count), take(self, count))[1])
    monkeypatch.setattr(memory_budget, "_DEFAULT_BYTES", 1)
    transform = EvaluationTransform(size=32, resize=32, interpolation="bilinear")
    assert len(prepare(data, "train", transform, cache=tmp_path / "cache", workers=4)) == 18
    assert claimed == [4 * 64 * 48] * 18
