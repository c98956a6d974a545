"""Speed as a ratio: ours and its yardstick take turns in one run, and the median ratio of a turn is told.

pytest benchmark/speed
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

IMAGES = 1000
_LINES: list[str] = []


@pytest.fixture
def against(benchmark: Any) -> Callable[..., float]:
    """Times `ours` and `theirs` in turn; returns and reports the median ratio of a turn (below 1: ours is faster)."""

    def measure(
        what: str,
        ours: Callable[[], Any],
        theirs: Callable[[], Any],
        rounds: int = 5,
        between: Callable[[], Any] = bool,
    ) -> float:
        yardstick: list[float] = []

        def before() -> None:
            between()
            started = time.perf_counter()
            theirs()
            yardstick.append(time.perf_counter() - started)

        benchmark.pedantic(ours, setup=before, rounds=rounds, warmup_rounds=1)
        # The first of the yardstick's times is the warm-up's.
        mine, other = benchmark.stats.stats.data, yardstick[1:]
        # Within a turn, so that a machine that grows slower or faster on the way does not count.
        ratio = statistics.median(one / another for one, another in zip(mine, other, strict=True))
        benchmark.extra_info["ratio"] = ratio
        _LINES.append(
            f"{what}: {statistics.median(mine):.3f} s against {statistics.median(other):.3f} s, ratio {ratio:.2f} "
            f"(median of {rounds})"
        )
        return ratio

    return measure


@pytest.fixture
def report() -> Callable[[str], None]:
    """Adds a line to the summary."""
    return _LINES.append


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """1,000 JPEG files of 500 by 375 pixels, quality 90, some 66 kB each: smooth colours under noise, near a photograph's size
    and cost of decoding.
    """
    root = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        smooth = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
        noisy = np.asarray(smooth).astype(int) + draw.integers(-12, 13, (375, 500, 3))
        path = root / "photographs" / "train" / f"class{number % 10}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return root


@pytest.fixture(scope="session")
def long_tree(tree, tmp_path_factory):
    """The same files, each under 16 names: an epoch of 16,000 images, four batches for each of 16 processes that load them."""
    root = tmp_path_factory.mktemp("many-photographs")
    for path in sorted((tree / "photographs").rglob("*.jpg")):
        for copy in range(16):
            target = root / path.relative_to(tree).with_name(f"{path.stem}-{copy}.jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    return root


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The ratios in words, under pytest-benchmark's own table."""
    for line in _LINES:
        terminalreporter.write_line(line)
