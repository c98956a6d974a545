"""Write docs/ps10.png: patterns and images of task `ps10-k4` by class.

python benchmark/ps10_examples.py
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from lrbench.config import load_task
from lrbench.config.files import SyntheticFiles
from lrbench.data.synthetic.generator import Request
from lrbench.data.synthetic.ps10 import CLASSES, PS10, SETS, code_book, complexity_bits

TEMPLATES = 4
ROWS = {"simple": "simple only", "complex": "complex only", "both": "both", "conflict": "conflict"}


def render(split):
    """Return a few images of a split of the task."""
    files = load_task(f"ps10-k{TEMPLATES}").files
    assert isinstance(files, SyntheticFiles)
    options = PS10.complete(files.options, "ps10")
    return PS10.render(Request(seed=files.seed, split=split, count=200, size=files.size, options=options))


def example(rendered, name, label):
    """Return the first image of an evaluation set and class."""
    index = np.flatnonzero((rendered.annotations["set"] == SETS.index(name)) & (rendered.labels == label))[0]
    return rendered.pixels[index]


def main():
    """Draw one column for each class: its patterns, and an image of each evaluation set."""
    test, conflict, book = render("test"), render("conflict"), code_book(0, 0)
    rows = ["simple pattern\n(0 bits)", *(f"template {index}" for index in range(TEMPLATES)), *ROWS.values()]
    rows[1] = f"template 0\n({complexity_bits(TEMPLATES):g} bits)"
    heights = [0.45] * (1 + TEMPLATES) + [1] * len(ROWS)
    canvas, panels = plt.subplots(len(rows), CLASSES, figsize=(10, 6.6), layout="constrained", height_ratios=heights)
    for label in range(CLASSES):
        column = panels[:, label]
        column[0].set_title(f"class {label}", fontsize=9)
        for panel, code in zip(column, book[: 1 + TEMPLATES, label], strict=False):
            panel.imshow(code, cmap="gray", vmin=-1.4, vmax=1.4, extent=(0, 25, 0, 25))
            panel.set(xlim=(-20, 45), ylim=(-2, 27))
        for panel, name in zip(column[1 + TEMPLATES :], ROWS, strict=True):
            panel.imshow(example(conflict if name == "conflict" else test, name, label))
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for panel, text in zip(panels[:, 0], rows, strict=True):
        panel.set_ylabel(text, fontsize=9, rotation=0, ha="right", va="center")
    buffer = io.BytesIO()
    canvas.savefig(buffer, dpi=100)
    # Noise compresses badly: a palette halves the file.
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(Path(__file__).resolve().parent.parent / "docs" / "ps10.png", optimize=True)


if __name__ == "__main__":
    main()
