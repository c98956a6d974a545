"""Images of every format that is read: decoded and resized; of PNG files, checksums cover all that pixels depend on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz.harness import Target
from tests.fuzz.mutations import mutate_bytes

_OPTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {"quality": 80, "restart_marker_rows": 2}),
    "jpeg-progressive": ("JPEG", "L", {"progressive": True}),
    "jpeg-cmyk": ("JPEG", "CMYK", {}),
    "png": ("PNG", "RGB", {}),
    "png-palette": ("PNG", "P", {"transparency": 3}),
    "webp": ("WEBP", "RGBA", {"quality": 80}),
    "gif": ("GIF", "P", {"transparency": 3}),
    "bmp": ("BMP", "RGB", {}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff-deflate": ("TIFF", "I;16", {"compression": "tiff_deflate"}),
    "tiff-jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "ppm": ("PPM", "RGB", {}),
}


def make_image(folder: Path, kind: str) -> Path:
    import numpy as np
    from PIL import Image

    form, mode, options = _OPTIONS[kind]
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).resize((40, 30))
    picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else picture
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = {"exif": exif} if form in {"JPEG", "PNG", "WEBP", "TIFF"} else {}
    path = folder / f"image.{kind}"
    (picture if mode == "I;16" else picture.convert(mode)).save(path, format=form, **options, **extra)
    return path


def use_image(path: Path) -> object:
    from lrbench.data.decode import collect_findings
    from lrbench.data.examples import EvaluationTransform
    from lrbench.data.layouts.file_images import FileImages
    from lrbench.data.pixels import resize

    images = FileImages(root=path.parent, paths=(path.name,), task="mine", upright=True)
    with collect_findings() as findings:
        pixels = images.read(0)
    if findings.damage is not None:
        raise findings.damage
    return resize(pixels, EvaluationTransform(size=16, resize=16, interpolation="bilinear"))


def _making(kind: str) -> Callable[[Path], Path]:
    return partial(make_image, kind=kind)


TARGETS = [
    Target(name=f"image-{kind}", make=_making(kind), mutate=mutate_bytes, use=use_image, covered=kind.startswith("png"))
    for kind in _OPTIONS
]
