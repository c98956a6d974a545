"""Placement of labels next to points, so that no two overlap."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

# Distances from a point in typographic points, and directions as (horizontal, vertical).
_DISTANCES = (6, 14, 26, 40, 56)
_DIRECTIONS = ((1, 0), (1, 1), (0, 1), (1, -1), (0, -1), (-1, 1), (-1, 0), (-1, -1))
_LEADER = 20
_FONT = 8


Point = tuple[float, float]


def place_labels(
    panel: Any, points: Sequence[Point], texts: Sequence[Sequence[str]], line: Sequence[Point] = ()
) -> list[str]:
    """Label points of a panel. Earlier labels are placed first; one without room is left out.

    Args:
        panel: The panel, with its final scales; layout and size of its figure must be final, too.
        points: The points to label and to keep clear of labels, in data units.
        texts: Texts of each point, of which the first that has room is placed; none for no label.
        line: Corners of a step line that labels do not cross: from each point first across, then up to the next.

    Returns:
        The first texts of the points that have no label.
    """
    canvas = panel.get_figure()
    canvas.draw_without_rendering()
    pixel = canvas.dpi / 72
    inside = panel.get_window_extent()
    place = panel.transData.transform
    marks = [_around([place(point)], 4 * pixel) for point in points]
    for (x, y), (next_x, next_y) in pairwise(line):
        corner = place((next_x, y))
        marks += [_around([place((x, y)), corner], pixel), _around([corner, place((next_x, next_y))], pixel)]
    taken: list[Any] = []
    left_out = []
    for point, alternatives in zip(points, texts, strict=True):
        if alternatives and not any(
            _place(panel, point, text, inside, [*marks, *taken], taken, pixel) for text in alternatives
        ):
            left_out.append(alternatives[0])
    return left_out


def _place(
    panel: Any,
    point: tuple[float, float],
    text: str,
    inside: Any,
    occupied: Sequence[Any],
    taken: list[Any],
    pixel: float,
) -> bool:
    for distance in _DISTANCES:
        for across, up in _DIRECTIONS:
            label = panel.annotate(
                text,
                point,
                xytext=(across * distance, up * distance),
                textcoords="offset points",
                ha={1: "left", 0: "center", -1: "right"}[across],
                va={1: "bottom", 0: "center", -1: "top"}[up],
                fontsize=_FONT,
                arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": "0.5"} if distance > _LEADER else None,
            )
            label.set_in_layout(False)
            box = label.get_window_extent().padded(pixel) if distance <= _LEADER else _text_box(label).padded(pixel)
            is_inside = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if is_inside and box.count_overlaps(occupied) == 0:
                taken.append(box)
                return True
            label.remove()
    return False


def _text_box(label: Any) -> Any:
    """Return the extent of an annotation's text without its line."""
    from matplotlib.text import Text

    label.update_positions(label.get_figure()._get_renderer())
    return Text.get_window_extent(label)


def _around(positions: Sequence[Any], radius: float) -> Any:
    """Return the box around positions with a margin."""
    from matplotlib.transforms import Bbox

    xs, ys = zip(*positions, strict=True)
    return Bbox([[min(xs) - radius, min(ys) - radius], [max(xs) + radius, max(ys) + radius]])
