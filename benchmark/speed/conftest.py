"""Speed as a ratio: ours and its yardstick take turns in one run, and their medians are compared.

pytest benchmark/speed
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

_LINES: list[str] = []


@pytest.fixture
def against(benchmark: Any) -> Callable[..., float]:
    """Times `ours` and `theirs` in turn; returns and reports the ratio of their medians (below 1: ours is faster)."""

    def measure(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 5) -> float:
        yardstick: list[float] = []

        def before() -> None:
            started = time.perf_counter()
            theirs()
            yardstick.append(time.perf_counter() - started)

        benchmark.pedantic(ours, setup=before, rounds=rounds, warmup_rounds=1)
        # The first of the yardstick's times is the warm-up's.
        mine, other = benchmark.stats.stats.median, statistics.median(yardstick[1:])
        benchmark.extra_info["ratio"] = mine / other
        _LINES.append(f"{what}: {mine:.3f} s against {other:.3f} s, ratio {mine / other:.2f}")
        return mine / other

    return measure


@pytest.fixture
def report() -> Callable[[str], None]:
    """Adds a line to the summary."""
    return _LINES.append


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The ratios in words, under pytest-benchmark's own table."""
    for line in _LINES:
        terminalreporter.write_line(line)
