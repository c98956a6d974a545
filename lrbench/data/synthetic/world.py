"""The embedded world: images whose evidence is known to be simple or complex.

Complexity is the class-conditional entropy of a pattern. *Simple* evidence is one combination of shape, texture and hue for
each class, at a random position: entropy 0 in those factors. *Complex* evidence is one of K random templates for each class:
entropy log K. Each source image has one of the two. Targets share the simple factors but not the templates.
"""

import numpy as np
import numpy.typing as npt

from lrbench.data.synthetic import drawing
from lrbench.data.synthetic.drawing import HUES, SHAPES, TEXTURES
from lrbench.data.synthetic.generator import Generator, Integers, Option, Rendered, Request
from lrbench.data.synthetic.stream import Stream

# Noise amplitude in grey levels; sketches have none.
_NOISE = 14
# Peak memory of rendering, measured on all generators.
_BYTES_PER_PIXEL = 95
# Increased when the same seed gives different images: prepared pixels and results of another version do not apply.
WORLD_VERSION = "1"


def combinations(seed: int) -> Integers:
    """Return all (shape, texture, hue) combinations in the order of the seed. Shape `(384, 3)`.

    The source takes its classes from the front and `objects` from the back, so that they share no class.
    """
    every = np.array(
        [(shape, texture, hue) for shape in range(len(SHAPES)) for texture in range(len(TEXTURES)) for hue in range(8)]
    )
    return every[Stream("world", seed, "combinations").permutation(len(every))]


def _combination_names(rows: Integers) -> list[str]:
    return [f"{SHAPES[shape]}-{TEXTURES[texture]}-hue{hue}" for shape, texture, hue in rows]


def _paint_texture(
    image: drawing.Floats,
    mask: drawing.Mask,
    stream: Stream,
    textures: Integers,
    colours: drawing.Floats,
    width: Integers,
) -> None:
    """Paint textured colour in place where `mask`, of shape `(B, S, S)`, is True; `colours` has shape `(B, 3)`."""
    count, size = len(textures), image.shape[1]
    phases = stream.integers(size, 2, count)
    levels = drawing.texture_levels(textures, width, phases[0], phases[1], size)
    # Brightness varies between images, so that hue is the evidence and not one RGB value.
    shade = stream.between(0.8, 1.1, count)[:, None]
    dark, bright = (colours * (0.35 + 0.65 * level) * shade for level in (0.0, 1.0))
    drawing.paint_texture(image, mask, levels, dark, bright)


def _draw_objects(stream: Stream, rows: Integers, size: int) -> drawing.Floats:
    """Draw objects of the given (shape, texture, hue) over random backgrounds. Shape `(B, S, S, 3)`."""
    image = drawing.background(stream, len(rows), size)
    placement = drawing.place(stream, len(rows), size, 0.22, 0.36)
    u, v = drawing.local_coordinates(placement, size)
    width = np.full(len(rows), max(2, size // 16))
    _paint_texture(image, drawing.shape_masks(rows[:, 0], u, v), stream, rows[:, 1], HUES[rows[:, 2]], width)
    return image


def _draw_templates(stream: Stream, templates: npt.NDArray[np.float64], size: int) -> drawing.Floats:
    """Draw templates, of shape `(B, G, G)` in {-1, 1}, at random positions over random backgrounds. Shape `(B, S, S, 3)`."""
    count, cells, _ = templates.shape
    image = drawing.background(stream, count, size)
    cell = max(2, size // 12)
    extent = cells * cell
    corner = stream.integers(size - extent + 1, 2, count)
    contrast = stream.between(50, 80, count)
    pattern = np.repeat(np.repeat(templates, cell, axis=1), cell, axis=2) * contrast[:, None, None]
    for index in range(count):
        y, x = corner[:, index]
        image[index, y : y + extent, x : x + extent] += pattern[index][..., None]
    return image


def _source(request: Request) -> Rendered:
    classes, templates = request.whole("classes"), request.whole("templates")
    cells = 6
    wrong_share = float(request.options["wrong"]) if request.split == "train" else 0.0
    book = np.where(
        Stream("world", request.seed, "templates").uniform(classes, templates, cells, cells) < 0.5, -1.0, 1.0
    )
    stream = request.stream("source")
    truth = stream.balanced_labels(request.count, classes)
    is_complex = stream.uniform(request.count) < float(request.options["complex"])
    template = np.where(is_complex, stream.integers(templates, request.count), -1)
    wrong = stream.uniform(request.count) < wrong_share
    labels = np.where(wrong, (truth + 1 + stream.integers(classes - 1, request.count)) % classes, truth)
    image = np.empty((request.count, request.size, request.size, 3))
    rows = combinations(request.seed)[:classes]
    image[~is_complex] = _draw_objects(stream, rows[truth[~is_complex]], request.size)
    image[is_complex] = _draw_templates(stream, book[truth[is_complex], template[is_complex]], request.size)
    return Rendered(
        pixels=drawing.finish(image, stream, _NOISE),
        labels=labels,
        annotations={
            "complex": is_complex.astype(np.int64),
            "template": template,
            "wrong": wrong.astype(np.int64),
            "truth": truth,
        },
    )


def _objects(request: Request) -> Rendered:
    """Render new combinations of the source's factors, as a stand-in for Caltech-256."""
    classes = request.whole("classes")
    stream = request.stream("objects")
    labels = stream.balanced_labels(request.count, classes)
    image = _draw_objects(stream, combinations(request.seed)[::-1][:classes][labels], request.size)
    return Rendered(pixels=drawing.finish(image, stream, _NOISE), labels=labels)


# Classes of birds: position of the mark, width of the stripes, and one of two similar shades.
_BIRDS = [(mark, stripe, shade) for mark in range(3) for stripe in range(2) for shade in range(2)]
_MARKS = np.array([[-0.4, -0.35], [0.4, -0.35], [0.0, 0.45]])
_PLUMAGE = np.array([[76.0, 172.0, 84.0], [76.0, 164.0, 132.0]])


def _birds(request: Request) -> Rendered:
    """Render one shape with fine differences, as a stand-in for CUB-200."""
    stream = request.stream("birds")
    labels = stream.balanced_labels(request.count, len(_BIRDS))
    mark, stripe, shade = np.array(_BIRDS)[labels].T
    size, count = request.size, request.count
    image = drawing.background(stream, count, size)
    u, v = drawing.local_coordinates(drawing.place(stream, count, size, 0.28, 0.38), size)
    body = drawing.shape_masks(np.zeros(count, dtype=np.int64), u, v)
    width = np.where(stripe == 0, max(2, size // 16), max(3, size // 9))
    _paint_texture(image, body, stream, np.full(count, TEXTURES.index("rows")), _PLUMAGE[shade], width)
    across, down = (_MARKS[mark][:, part][:, None, None] for part in (0, 1))
    spot = (u - across) * (u - across) + (v - down) * (v - down) <= 0.07
    drawing.paint(image, spot & body, np.array([250, 250, 245], dtype=np.float64))
    return Rendered(pixels=drawing.finish(image, stream, _NOISE), labels=labels)


def _indoor_arrangements(seed: int) -> Integers:
    """Return ten arrangements of four different textures in a room's four corners. Shape `(10, 4)`."""
    stream = Stream("world", seed, "arrangements")
    chosen: list[tuple[int, ...]] = []
    while len(chosen) < 10:
        # `solid` (index 0) is left out, since it does not show its corner.
        arrangement = tuple(int(texture) + 1 for texture in stream.permutation(len(TEXTURES) - 1)[:4])
        if arrangement not in chosen:
            chosen.append(arrangement)
    return np.array(chosen)


def _indoor(request: Request) -> Rendered:
    """Render layouts of textures in any colours, as a stand-in for MIT Indoor."""
    stream = request.stream("indoor")
    arrangements = _indoor_arrangements(request.seed)
    labels = stream.balanced_labels(request.count, len(arrangements))
    size, count = request.size, request.count
    image = np.empty((count, size, size, 3))
    axis = np.arange(size)
    split_x = stream.between(0.35, 0.65, count) * size
    split_y = stream.between(0.35, 0.65, count) * size
    right = np.broadcast_to(axis[None, None, :] >= split_x[:, None, None], (count, size, size))
    low = np.broadcast_to(axis[None, :, None] >= split_y[:, None, None], (count, size, size))
    width = np.full(count, max(2, size // 12))
    for corner, mask in enumerate((~right & ~low, right & ~low, ~right & low, right & low)):
        textures = arrangements[labels, corner]
        _paint_texture(image, mask, stream, textures, HUES[stream.integers(len(HUES), count)], width)
    return Rendered(pixels=drawing.finish(image, stream, _NOISE), labels=labels)


# Outer and inner shape of each sketch; nothing fits into a ring or an hourglass.
_SKETCHES = [(outer, inner) for outer in range(4) for inner in (0, 1, 4)]


def _sketch(request: Request) -> Rendered:
    """Render outlines without colour or texture, as a stand-in for Sketch."""
    stream = request.stream("sketch")
    labels = stream.balanced_labels(request.count, len(_SKETCHES))
    outer, inner = np.array(_SKETCHES)[labels].T
    size, count = request.size, request.count
    image = np.full((count, size, size, 3), 255.0)
    placement = drawing.place(stream, count, size, 0.34, 0.46)
    u, v = drawing.local_coordinates(placement, size)
    thickness = max(1, size // 32)
    drawing.paint(
        image, drawing.outline(drawing.shape_masks(outer, u, v), thickness), np.array([20, 20, 20], dtype=np.float64)
    )
    # The centre of a triangle is below the centre of its box.
    drop = np.where(outer == SHAPES.index("triangle"), 0.25, 0.0)[:, None, None]
    inside = drawing.shape_masks(inner, u / 0.42, (v - drop) / 0.42)
    drawing.paint(image, drawing.outline(inside, thickness), np.array([20, 20, 20], dtype=np.float64))
    return Rendered(pixels=drawing.finish(image, stream, 0), labels=labels)


def _numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{index:02d}" for index in range(count)]


WORLD: dict[str, Generator] = {
    "source": Generator(
        classes=lambda options: _numbered("source", int(options["classes"])),
        options={
            "classes": Option(20, 2, 192, whole=True),
            "templates": Option(4, 1, 10_000, whole=True),
            "wrong": Option(0.1, 0, 0.9),
            "complex": Option(0.5, 0, 1),
        },
        render=_source,
        version=WORLD_VERSION,
        bytes_per_pixel=_BYTES_PER_PIXEL,
    ),
    "objects": Generator(
        classes=lambda options: _numbered("object", int(options["classes"])),
        options={"classes": Option(15, 2, 192, whole=True)},
        render=_objects,
        version=WORLD_VERSION,
        bytes_per_pixel=_BYTES_PER_PIXEL,
    ),
    "birds": Generator(
        classes=lambda _: [f"mark{mark}-stripe{stripe}-shade{shade}" for mark, stripe, shade in _BIRDS],
        render=_birds,
        version=WORLD_VERSION,
        bytes_per_pixel=_BYTES_PER_PIXEL,
    ),
    "indoor": Generator(
        classes=lambda _: _numbered("room", 10), render=_indoor, version=WORLD_VERSION, bytes_per_pixel=_BYTES_PER_PIXEL
    ),
    "sketch": Generator(
        classes=lambda _: [f"{SHAPES[outer]}-with-{SHAPES[inner]}" for outer, inner in _SKETCHES],
        render=_sketch,
        version=WORLD_VERSION,
        bytes_per_pixel=_BYTES_PER_PIXEL,
    ),
}
