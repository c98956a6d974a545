"""Random streams keyed by words such as a seed, a purpose and an epoch.

A stream does not depend on earlier draws. A resumed run, a different number of processes and a branch that starts at a boundary
therefore draw the same numbers.
"""

import hashlib

import numpy as np

from lrbench.core.files import canonical_json


def derive(*words: int | str) -> int:
    """Return a 63-bit integer that depends on every word and on their order.

    Example:
        ``derive(seed, "order", epoch)`` keys the sample order of one epoch.
    """
    digest = hashlib.blake2b(canonical_json(list(words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*words: int | str) -> np.random.Generator:
    """Return a counter-based NumPy generator keyed by `words`."""
    return np.random.Generator(np.random.Philox(key=derive(*words)))
