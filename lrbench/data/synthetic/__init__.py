"""The embedded world and handwritten digits: tasks that need no download.

The digits are the 1,797 real images that scikit-learn includes.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from lrbench.config.task import SyntheticFiles, Task
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_bytes
from lrbench.core.machine import total_memory
from lrbench.data.examples import Split, SplitName, TaskData
from lrbench.data.jpeg import Bytes
from lrbench.data.synthetic.stream import Stream
from lrbench.data.synthetic.world import Rendered, Request, check_options

__all__ = ["load_synthetic"]

# Peak memory of rendering for each pixel of a split, measured on all generators; digits are not rendered.
_BYTES_PER_PIXEL, _BYTES_PER_DIGITS_PIXEL = 150, 12
# Increased when the same seed gives different images: prepared pixels and results of another version do not apply.
WORLD_VERSION = 1


@dataclass(frozen=True)
class RenderedImages:
    """An `ImageSource` over images that are rendered at the first access."""

    files: SyntheticFiles
    split: str
    kind: str = field(default="synthetic")

    @cached_property
    def _rendered(self) -> Rendered:
        return _render(self.files.model_dump_json(), self.split)

    def read(self, index: int) -> Bytes:
        """Return image `index` as RGB. Shape `(H, W, 3)`."""
        image: Bytes = self._rendered.pixels[index]
        return image

    def stamp(self) -> str:
        """Return the SHA-256 of all pixels of the split."""
        return sha256_bytes(self._rendered.pixels.tobytes())

    def content(self) -> None:
        """Return None: the task's options determine every pixel."""
        return


def load_synthetic(task: Task) -> TaskData:
    """Return the splits of a synthetic task, which are the same bits from the same seed on every machine.

    Raises:
        InputError: The generator or an option is unknown, or rendering needs more memory than this machine has.
    """
    files = task.files
    assert isinstance(files, SyntheticFiles)
    where = f"task {task.name}"
    if files.generator == "digits":
        names = [str(digit) for digit in range(10)]
        if files.train + files.test > 1797:
            raise InputError(
                f"{where}: files.train + files.test is {files.train + files.test}, but there are only 1,797 digits. Lower them."
            )
    else:
        names = check_options(files.generator, files.options, where).classes(files.options)
    if files.train < len(names):
        raise InputError(f"{where}: files.train is {files.train}, less than the {len(names)} classes. Raise it.")
    pixels = max(files.train, files.test) * files.size**2
    needed = pixels * (_BYTES_PER_DIGITS_PIXEL if files.generator == "digits" else _BYTES_PER_PIXEL)
    if needed > (memory := total_memory()):
        raise InputError(
            f"{where}: rendering {max(files.train, files.test):,} images of {files.size:,} px needs {needed / 2**30:,.0f} GiB "
            f"of memory, but this machine has {memory / 2**30:,.0f} GiB. Lower files.train, files.test or files.size."
        )
    key = files.model_dump_json()
    splits: dict[SplitName, Split] = {}
    for name in ("train", "test"):
        rendered = _render(key, name)
        splits[name] = Split(
            ids=[
                f"{files.generator}{WORLD_VERSION}-{files.size}px-seed{files.seed}/{name}/{i:06d}"
                for i in range(len(rendered.labels))
            ],
            labels=rendered.labels,
            images=RenderedImages(files, name),
            annotations=rendered.annotations,
        )
    return TaskData(task=task, classes=tuple(names), splits=splits)


@lru_cache(maxsize=16)
def _render(key: str, split: str) -> Rendered:
    files = SyntheticFiles.model_validate_json(key)
    count = files.train if split == "train" else files.test
    if files.generator == "digits":
        return _digits(files, split)
    request = Request(seed=files.seed, split=split, count=count, size=files.size, options=files.options)
    generator = check_options(files.generator, files.options, "the embedded world")
    return generator.render(request)


def _digits(files: SyntheticFiles, split: str) -> Rendered:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels: npt.NDArray[np.uint8] = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    order = Stream("digits", files.seed).permutation(len(levels))
    chosen = order[: files.train] if split == "train" else order[files.train : files.train + files.test]
    enlarged = [
        np.asarray(Image.fromarray(levels[index]).resize((files.size, files.size), Image.Resampling.BILINEAR))
        for index in chosen
    ]
    pixels = np.repeat(np.stack(enlarged)[..., None], 3, axis=3)
    return Rendered(pixels=pixels, labels=bunch.target[chosen].astype(np.int64))
