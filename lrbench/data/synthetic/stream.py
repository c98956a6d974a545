"""Random numbers that are the same on every machine and NumPy release.

NumPy guarantees a fixed stream only for a bit generator's raw integers, so all numbers are computed from those by exact
operations.
"""

import numpy as np
import numpy.typing as npt

from lrbench.core.seeds import derive


class Stream:
    """A stream of random numbers keyed by words."""

    def __init__(self, *words: int | str) -> None:
        self._bits = np.random.Philox(key=derive(*words))

    def uniform(self, *shape: int) -> npt.NDArray[np.float64]:
        """Return uniform numbers in [0, 1), multiples of 2^-53."""
        count = int(np.prod(shape, dtype=np.int64))
        raw = np.asarray(self._bits.random_raw(count), dtype=np.uint64)
        return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def between(self, low: float, high: float, *shape: int) -> npt.NDArray[np.float64]:
        """Return uniform numbers in [low, high)."""
        return low + (high - low) * self.uniform(*shape)

    def integers(self, high: int, *shape: int) -> npt.NDArray[np.int64]:
        """Return uniform integers from 0 to `high - 1`."""
        return np.floor(self.uniform(*shape) * high).astype(np.int64)

    def bell(self, *shape: int) -> npt.NDArray[np.int16]:
        """Return sums of four random bytes minus their mean: nearly Gaussian integers in [-510, 510] of variance 21,845."""
        count = int(np.prod(shape, dtype=np.int64))
        words = -(-count // 4)
        raw = np.asarray(self._bits.random_raw(2 * words), dtype=np.uint64)
        # Each word holds eight bytes; their sums in pairs do not overflow 16 bits.
        low_bytes = np.uint64(0x00FF00FF00FF00FF)
        pairs = (raw & low_bytes) + ((raw >> np.uint64(8)) & low_bytes)
        sums = (pairs[:words] + pairs[words:]).astype("<u8").view("<u2")[:count]
        return sums.reshape(shape).astype(np.int16) - np.int16(510)

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """Return a random order of `0 … count - 1`."""
        return np.argsort(self.uniform(count), kind="stable")

    def balanced_labels(self, count: int, classes: int) -> npt.NDArray[np.int64]:
        """Return labels in random order; class counts differ by at most one. Shape `(count,)`."""
        return (np.arange(count, dtype=np.int64) % classes)[self.permutation(count)]
