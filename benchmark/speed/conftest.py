"""Speed ratios: lrbench and a baseline run alternately, and the median ratio of a round is reported.

Run with `pytest benchmark/speed`.
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
    """Time `ours` and `theirs` alternately; return and report the median ratio of a round (below 1: ours is faster)."""

    def measure(
        what: str,
        ours: Callable[[], Any],
        theirs: Callable[[], Any],
        rounds: int = 5,
        between: Callable[[], Any] = bool,
    ) -> float:
        baseline: list[float] = []

        def before() -> None:
            between()
            started = time.perf_counter()
            theirs()
            baseline.append(time.perf_counter() - started)

        benchmark.pedantic(ours, setup=before, rounds=rounds, warmup_rounds=1)
        # The first baseline time belongs to the warm-up round.
        our_seconds, their_seconds = benchmark.stats.stats.data, baseline[1:]
        # A ratio within each round cancels slow changes in the machine's speed.
        ratio = statistics.median(mine / other for mine, other in zip(our_seconds, their_seconds, strict=True))
        benchmark.extra_info["ratio"] = ratio
        _LINES.append(
            f"{what}: {statistics.median(our_seconds):.3f} s against {statistics.median(their_seconds):.3f} s, "
            f"ratio {ratio:.2f} (median of {rounds})"
        )
        return ratio

    return measure


@pytest.fixture
def report() -> Callable[[str], None]:
    """Return a function that adds a line to the summary."""
    return _LINES.append


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """1,000 JPEG files of 500 by 375 pixels, quality 90, about 66 kB each.

    Smooth colours plus noise give about the file size and decoding time of a photograph.
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
    """The same files under 16 names each: an epoch of 16,000 images, four batches for each of 16 loader processes."""
    root = tmp_path_factory.mktemp("many-photographs")
    for path in sorted((tree / "photographs").rglob("*.jpg")):
        for copy in range(16):
            target = root / path.relative_to(tree).with_name(f"{path.stem}-{copy}.jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    return root


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the ratios below the table of pytest-benchmark."""
    for line in _LINES:
        terminalreporter.write_line(line)
