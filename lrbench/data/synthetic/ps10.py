"""The task family PS10: ten classes whose patterns have a known entropy.

Each class has one *simple* pattern and K *complex* ones, its templates. All of them are 5 × 5 cells of ±1 from one code book,
in which every code is equally likely to be any pattern. K is the only difference between the kinds, and at K = 1 there is none.

An image of class y has a random background, pixel noise, and a pattern of one or both kinds, each at a random place in its own
half; which half is random. The complex pattern is template k of the class, where k is drawn independently of everything else.
The complexity of a kind is the entropy of its pattern in an image of a known class, E_y[H(P(x | y))]: 0 bits for simple, log2 K
for complex. The entropy of places, backgrounds and noise is the same for both kinds and all classes.

Splits: `train` mixes the kinds by shares, and some labels are wrong. `test` shows simple, complex and both in turn, with right
labels. `conflict` shows the simple pattern of the label and a complex pattern of another class.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lrbench.core.files import canonical_json
from lrbench.core.machine import available_cores
from lrbench.data.examples import SplitName
from lrbench.data.synthetic import drawing
from lrbench.data.synthetic.generator import Generator, Integers, Option, Options, Rendered, Request
from lrbench.data.synthetic.stream import Stream

CLASSES = 10
MOST_TEMPLATES = 64
KINDS = ("simple", "complex", "both")
"""What an image shows, in the order of the annotation `carries`."""
SETS = (*KINDS, "conflict")
"""Evaluation sets, in the order of the annotation `set`."""

_SIMPLE, _COMPLEX, _BOTH = range(3)
_CELLS = 5
# Bounds on a code's sum and on the Hamming distance of any two codes: no code is mostly light or dark, or nearly another.
_LARGEST_SUM, _SMALLEST_DISTANCE = 7, 5
# Images that share a random stream. It is a multiple of the number of classes.
_CHUNK = 20
_LEVELS = 255
_BACKGROUND = (0.35 * _LEVELS, 0.65 * _LEVELS)
_BELL_DEVIATION = math.sqrt(21_845)

Codes = npt.NDArray[np.float64]


@lru_cache(maxsize=16)
def code_book(seed: int, book: int) -> Codes:
    """Return the patterns of a book: entry 0 holds the simple pattern of each class, entry 1 + k template k.

    Codes are drawn until enough of them keep the bounds, and then assigned at random, so that all entries have the same
    distribution.

    Returns:
        Shape `(1 + MOST_TEMPLATES, CLASSES, 5, 5)`, in {-1, 1}. Read-only.
    """
    stream = Stream("ps10", seed, "book", book)
    codes = np.empty(((1 + MOST_TEMPLATES) * CLASSES, _CELLS**2))
    count = 0
    while count < len(codes):
        code = np.where(stream.uniform(_CELLS**2) < 0.5, -1.0, 1.0)
        # The inner product of two codes is their length minus twice their Hamming distance.
        is_far = (codes[:count] @ code <= _CELLS**2 - 2 * _SMALLEST_DISTANCE).all()
        if is_far and abs(code.sum()) <= _LARGEST_SUM:
            codes[count] = code
            count += 1
    assigned = codes[stream.permutation(len(codes))].reshape(1 + MOST_TEMPLATES, CLASSES, _CELLS, _CELLS)
    assigned.flags.writeable = False
    return assigned


def template_probabilities(templates: int, skew: float = 0) -> npt.NDArray[np.float64]:
    """Return the probability of each template of a class, proportional to 1 / (1 + skew · k) for template k. Shape `(K,)`."""
    weights = [1 / (1 + skew * template) for template in range(templates)]
    total = math.fsum(weights)
    return np.array([weight / total for weight in weights])


def complexity_bits(templates: int, skew: float = 0) -> float:
    """Return the entropy in bits of the complex pattern of a known class: log2 K without skew."""
    probabilities = template_probabilities(templates, skew)
    return float((probabilities * np.log2(1 / probabilities)).sum())


def images_per_pattern(images: int, options: Options) -> tuple[float, float]:
    """Return the expected numbers of training images that show one simple pattern, and one template.

    Args:
        images: Number of training images.
        options: All options of the task. With `skew`, the second number is the mean over templates.
    """
    simple, complex_, both = _shares(options)
    return images * (simple + both) / CLASSES, images * (complex_ + both) / (CLASSES * options["templates"])


def evaluation_sets(options: Options, count: int) -> Integers | None:
    """Return the evaluation set of each of `count` test images, an index of `KINDS`; None without evaluation sets."""
    return np.arange(count) % len(KINDS) if options["sets"] else None


def _shares(options: Options) -> tuple[float, float, float]:
    """Return the shares of training images by kind."""
    weights = [options[name] for name in ("simple_only", "complex_only", "both")]
    total = math.fsum(weights)
    return weights[0] / total, weights[1] / total, weights[2] / total


def _render(request: Request) -> Rendered:
    pixels = np.empty((request.count, request.size, request.size, 3), dtype=np.uint8)

    def render(first: int) -> dict[str, Integers]:
        chunk, annotations = _render_chunk(request, first)
        pixels[first : first + _CHUNK] = chunk[: request.count - first]
        return annotations

    with ThreadPoolExecutor(available_cores()) as pool:
        parts = list(pool.map(render, range(0, request.count, _CHUNK)))
    annotations = {name: np.concatenate([part[name] for part in parts])[: request.count] for name in parts[0]}
    return Rendered(pixels=pixels, labels=annotations.pop("label"), annotations=annotations)


def _render_chunk(request: Request, first: int) -> tuple[npt.NDArray[np.uint8], dict[str, Integers]]:
    """Return the pixels of the chunk that begins with image `first`, and its labels and annotations.

    The same numbers are drawn whatever the options: tasks of one book have equal classes, places, backgrounds and noise.
    """
    options, size = request.options, request.size
    stream = Stream("ps10", request.seed, "images", request.whole("book"), request.split, first)
    # Every ten images in a row show every class once.
    truth = stream.uniform(_CHUNK // CLASSES, CLASSES).argsort(axis=1, kind="stable").reshape(_CHUNK)
    kind, template, wrong = stream.uniform(3, _CHUNK)
    other = (truth + 1 + stream.integers(CLASSES - 1, _CHUNK)) % CLASSES
    side = stream.integers(2, _CHUNK)
    places = stream.uniform(2, 2, _CHUNK)
    image = drawing.background(stream, _CHUNK, size, low=_BACKGROUND[0], high=_BACKGROUND[1])

    simple, complex_, _ = _shares(options)
    if request.split == "conflict":
        carries = np.full(_CHUNK, _BOTH)
    elif request.split == "test" and options["sets"]:
        carries = np.arange(first, first + _CHUNK) % len(KINDS)
    else:
        carries = (kind >= simple).astype(np.int64) + (kind >= simple + complex_)
    is_wrong = (wrong < options["wrong"]) & (request.split == "train")
    complex_class = other if request.split == "conflict" else truth
    bounds = np.cumsum(template_probabilities(request.whole("templates"), options["skew"]))[:-1]
    templates = np.searchsorted(bounds, template, side="right")

    book = code_book(request.seed, request.whole("book"))
    # A pattern alone is in the same place whatever its kind.
    is_second = carries == _BOTH
    second_half, second_place = np.where(is_second, 1 - side, side), np.where(is_second, places[1], places[0])
    for absent, codes, half, place, contrast in (
        (_COMPLEX, book[0, truth], side, places[0], options["contrast_simple"]),
        (_SIMPLE, book[1 + templates, complex_class], second_half, second_place, options["contrast_complex"]),
    ):
        shown = np.flatnonzero(carries != absent)
        _add_patterns(image, shown, codes[shown] * (_LEVELS * contrast), half[shown], place[:, shown])
    image += stream.bell(*image.shape) * (options["noise"] * _LEVELS / _BELL_DEVIATION)

    annotations = {
        "label": np.where(is_wrong, other, truth),
        "truth": truth,
        "wrong": is_wrong.astype(np.int64),
        "carries": carries,
        "template": np.where(carries == _SIMPLE, -1, templates),
    }
    if request.split == "conflict":
        annotations |= {"set": np.full(_CHUNK, SETS.index("conflict")), "complex_class": complex_class}
    elif request.split == "test" and options["sets"]:
        annotations["set"] = carries
    return drawing.to_bytes(image), annotations


def _add_patterns(
    image: drawing.Floats, shown: Integers, patterns: Codes, half: Integers, place: npt.NDArray[np.float64]
) -> None:
    """Add patterns to images `shown`, in place.

    Args:
        image: Shape `(B, S, S, 3)`.
        shown: Indices of images. Shape `(N,)`.
        patterns: Levels to add. Shape `(N, 5, 5)`.
        half: 0 for the left half of the image, 1 for the right one. Shape `(N,)`.
        place: Vertical and horizontal position in the half, in [0, 1). Shape `(2, N)`.
    """
    size = image.shape[1]
    cell = size // 12
    extent = _CELLS * cell
    top = np.floor(place[0] * (size - extent + 1)).astype(np.int64)
    left = half * (size // 2) + np.floor(place[1] * (size // 2 - extent + 1)).astype(np.int64)
    enlarged = patterns.repeat(cell, axis=1).repeat(cell, axis=2)[..., None]
    for index, y, x, pattern in zip(shown.tolist(), top.tolist(), left.tolist(), enlarged, strict=True):
        image[index, y : y + extent, x : x + extent] += pattern


def _check(options: Options) -> str | None:
    if options["simple_only"] + options["complex_only"] + options["both"] == 0:
        return "files.options.simple_only, complex_only and both are all 0. Set at least one of them above 0."
    return None


def _further_splits(options: Options, test: int) -> dict[SplitName, int]:
    return {"conflict": test // len(KINDS)} if options["sets"] and test >= len(KINDS) else {}


PS10 = Generator(
    classes=lambda options: [f"book{int(options['book'])}-class{index}" for index in range(CLASSES)],
    options={
        "templates": Option(1, 1, MOST_TEMPLATES, whole=True),
        "skew": Option(0, 0, 1_000),
        "book": Option(0, 0, 1_000_000, whole=True),
        "simple_only": Option(1, 0, 1_000),
        "complex_only": Option(1, 0, 1_000),
        "both": Option(0, 0, 1_000),
        "wrong": Option(0, 0, 0.9),
        "contrast_simple": Option(0.2, 0, 0.5),
        "contrast_complex": Option(0.2, 0, 0.5),
        "noise": Option(0.1, 0, 0.5),
        "sets": Option(1, 0, 1, whole=True),
    },
    check=_check,
    render=_render,
    further_splits=_further_splits,
    edition=lambda options: canonical_json({name: float(value) for name, value in options.items()}),
    version="v1",
    bytes_per_pixel=12,
)
