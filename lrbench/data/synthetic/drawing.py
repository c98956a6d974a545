"""Drawing batches of small images with exact arithmetic.

Only `+ - * /`, comparisons and integer operations are used. They give the same bits on every machine; sines, powers and sums
do not. All functions work on batches of `B` images of `S × S` pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrbench.data.synthetic.stream import Stream

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SHAPES = ("disc", "square", "diamond", "triangle", "cross", "ring", "bar", "hourglass")
TEXTURES = ("solid", "rows", "columns", "diagonals", "checks", "dots")
# Saturated colours that differ in hue.
HUES = np.array(
    [
        [226, 58, 52], [240, 150, 40], [222, 214, 58], [72, 188, 76],
        [58, 196, 206], [64, 96, 224], [150, 74, 208], [230, 96, 176],
    ],
    dtype=np.float64,
)  # fmt: skip
_FINISHED_TOGETHER = 16
# Cosine and sine of small rotations from Pythagorean triples, which are the same bits on every machine.
_TURNS = np.array([[1.0, 0.0], [24 / 25, 7 / 25], [24 / 25, -7 / 25], [40 / 41, 9 / 41], [40 / 41, -9 / 41]])


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Position of each image's object.

    Attributes:
        x, y: Centre in pixels. Shape `(B,)`.
        radius: Half the object's extent in pixels. Shape `(B,)`.
        turn: Index of a small rotation. Shape `(B,)`.
    """

    x: Floats
    y: Floats
    radius: Floats
    turn: Integers


def place(stream: Stream, count: int, size: int, low: float, high: float) -> Placement:
    """Return random placements inside the image; `low` and `high` bound the radius as fractions of the side."""
    radius = stream.between(low, high, count) * size
    room = size - 2 * radius
    return Placement(
        x=radius + room * stream.uniform(count),
        y=radius + room * stream.uniform(count),
        radius=radius,
        turn=stream.integers(len(_TURNS), count),
    )


def local_coordinates(placement: Placement, size: int) -> tuple[Floats, Floats]:
    """Return pixel centres in object coordinates, in which the object spans [-1, 1]. Shapes `(B, S, S)`."""
    axis = np.arange(size, dtype=np.float64) + 0.5
    across = (axis[None, None, :] - placement.x[:, None, None]) / placement.radius[:, None, None]
    down = (axis[None, :, None] - placement.y[:, None, None]) / placement.radius[:, None, None]
    cosine, sine = (_TURNS[placement.turn][:, part][:, None, None] for part in (0, 1))
    return cosine * across + sine * down, cosine * down - sine * across


def shape_mask(kind: int, u: Floats, v: Floats) -> Mask:
    """Return the mask of shape `kind`, an index into `SHAPES`, in object coordinates."""
    wide, high = np.abs(u), np.abs(v)
    squared = u * u + v * v
    masks = {
        "disc": lambda: squared <= 0.9,
        "square": lambda: np.maximum(wide, high) <= 0.8,
        "diamond": lambda: wide + high <= 1.05,
        "triangle": lambda: (v <= 0.75) & (wide * 1.7 <= v + 0.95),
        "cross": lambda: (np.minimum(wide, high) <= 0.3) & (np.maximum(wide, high) <= 0.95),
        "ring": lambda: (squared <= 0.95) & (squared >= 0.3),
        "bar": lambda: (wide <= 0.98) & (high <= 0.36),
        "hourglass": lambda: (wide <= high + 0.08) & (high <= 0.9),
    }
    inside: Mask = masks[SHAPES[kind]]()
    return inside


def shape_masks(kinds: Integers, u: Floats, v: Floats) -> Mask:
    """Return one mask for each image. Shape `(B, S, S)`."""
    result = np.zeros(u.shape, dtype=np.bool_)
    for kind in np.unique(kinds):
        chosen = kinds == kind
        result[chosen] = shape_mask(int(kind), u[chosen], v[chosen])
    return result


def texture_levels(kinds: Integers, width: Integers, phase_x: Integers, phase_y: Integers, size: int) -> Mask:
    """Return where each image's texture is bright, from integer pixel positions. Shape `(B, S, S)`.

    Args:
        kinds: Indices into `TEXTURES`. Shape `(B,)`.
        width: Width of a stripe or a check in pixels. Shape `(B,)`.
        phase_x: Horizontal shift in pixels. Shape `(B,)`.
        phase_y: Vertical shift in pixels. Shape `(B,)`.
        size: Side of the images.
    """

    def stripes(phase: Integers, length: int) -> Mask:
        positions = np.arange(length, dtype=np.int64) + phase[:, None]
        bright: Mask = (positions // width[:, None]) % 2 == 1
        return bright

    columns = stripes(phase_x, size)[:, None, :]
    rows = stripes(phase_y, size)[:, :, None]
    # Pixel (y, x) of a diagonal stripe has position x + y.
    diagonals = np.lib.stride_tricks.sliding_window_view(stripes(phase_x, 2 * size - 1), size, axis=1)
    patterns: dict[str, Callable[[Mask], Mask]] = {
        "rows": lambda chosen: rows[chosen],
        "columns": lambda chosen: columns[chosen],
        "diagonals": lambda chosen: diagonals[chosen],
        "checks": lambda chosen: columns[chosen] ^ rows[chosen],
        "dots": lambda chosen: columns[chosen] & rows[chosen],
    }
    # Solid textures are bright everywhere.
    levels = np.ones((len(kinds), size, size), dtype=np.bool_)
    for name, pattern in patterns.items():
        chosen = kinds == TEXTURES.index(name)
        levels[chosen] = pattern(chosen)
    return levels


def outline(mask: Mask, thickness: int = 1) -> Mask:
    """Return the inner border of each mask, `thickness` pixels wide."""
    inner = mask
    for _ in range(thickness):
        shrunk = inner.copy()
        shrunk[:, 1:] &= inner[:, :-1]
        shrunk[:, :-1] &= inner[:, 1:]
        shrunk[:, :, 1:] &= inner[:, :, :-1]
        shrunk[:, :, :-1] &= inner[:, :, 1:]
        shrunk[:, 0] = shrunk[:, -1] = shrunk[:, :, 0] = shrunk[:, :, -1] = False
        inner = shrunk
    return mask & ~inner


def background(stream: Stream, count: int, size: int, *, low: float = 60, high: float = 180) -> Floats:
    """Return smooth random colours in [`low`, `high`), bilinear between 4 × 4 random ones. Shape `(B, S, S, 3)`."""
    knots = 4
    grid = stream.between(low, high, count, knots, knots, 3)
    position = (np.arange(size, dtype=np.float64) + 0.5) / size * (knots - 1)
    lower = np.minimum(np.floor(position).astype(np.int64), knots - 2)
    share = position - lower
    rows = grid[:, lower] + (grid[:, lower + 1] - grid[:, lower]) * share[None, :, None, None]
    # Columns and channels are one axis, which makes the loops over it long.
    steps = (rows[:, :, 1:] - rows[:, :, :-1]).reshape(count, size, -1)
    taken = (3 * lower[:, None] + np.arange(3)).ravel()
    columns = steps.take(taken, axis=2)
    columns *= share.repeat(3)
    columns += rows.reshape(count, size, -1).take(taken, axis=2)
    return columns.reshape(count, size, size, 3)


def paint(image: Floats, mask: Mask, colour: Floats) -> None:
    """Set the image to `colour`, of shape `(B, S, S, 3)` or broadcast to it, where `mask` is True; in place."""
    np.copyto(image, colour, where=mask[..., None])


def paint_texture(image: Floats, mask: Mask, levels: Mask, dark: Floats, bright: Floats) -> None:
    """Paint two colours in place where `mask` is True: `bright` where `levels` is True, and `dark` elsewhere.

    Args:
        image: Shape `(B, S, S, 3)`.
        mask: Shape `(B, S, S)`.
        levels: Shape `(B, S, S)`.
        dark: Shape `(B, 3)`.
        bright: Shape `(B, 3)`.
    """
    colours = np.stack([dark, bright], axis=1)
    image[mask] = colours[np.nonzero(mask)[0], levels[mask].astype(np.intp)]


def finish(image: Floats, stream: Stream, noise: int) -> npt.NDArray[np.uint8]:
    """Add uniform noise of up to ±`noise` levels to each channel and round to 8 bits. Shape `(B, S, S, 3)`."""
    if not noise:
        return to_bytes(image)
    finished = np.empty(image.shape, dtype=np.uint8)
    # A few images at a time stay in the processor's cache.
    for start in range(0, len(image), _FINISHED_TOGETHER):
        part = slice(start, start + _FINISHED_TOGETHER)
        levels = stream.uniform(*image[part].shape)
        levels *= 2 * noise + 1
        np.floor(levels, out=levels)
        levels -= noise
        levels += image[part]
        finished[part] = to_bytes(levels)
    return finished


def to_bytes(image: Floats) -> npt.NDArray[np.uint8]:
    """Round levels down to 8 bits, and clip those outside."""
    return np.clip(np.floor(image), 0, 255).astype(np.uint8)
