"""Random numbers as pure functions of what they are for.

Every stream is keyed by words (a seed, a purpose, an epoch), so that nothing depends on what was drawn before: a resumed
run, another number of processes or a branch that starts at a boundary all draw the same numbers.
"""

import hashlib

import numpy as np

from lrbench.core.files import canonical_json


def derive(*words: int | str) -> int:
    """A 63-bit integer that depends on every word and their order.

    Example:
        ``derive(seed, "order", epoch)`` keys the sample order of one epoch.
    """
    digest = hashlib.blake2b(canonical_json(list(words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*words: int | str) -> np.random.Generator:
    """A counter-based NumPy generator keyed by `words`."""
    return np.random.Generator(np.random.Philox(key=derive(*words)))
