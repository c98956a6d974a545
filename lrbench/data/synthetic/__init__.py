"""Generated images and handwritten digits: tasks that need no download.

The digits are the 1,797 real images that scikit-learn includes.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from lrbench.config.files import SyntheticFiles
from lrbench.config.task import Task
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_bytes
from lrbench.core.machine import total_memory
from lrbench.data.examples import Split, SplitName, TaskData
from lrbench.data.jpeg import Bytes
from lrbench.data.synthetic.generator import Rendered, Request
from lrbench.data.synthetic.generators import find_generator
from lrbench.data.synthetic.stream import Stream

__all__ = ["load_synthetic"]

# Memory for each pixel of the digits, which are not rendered.
_BYTES_PER_DIGITS_PIXEL = 12


@dataclass(frozen=True)
class RenderedImages:
    """An `ImageSource` over images that are rendered at the first access."""

    files: SyntheticFiles
    split: str
    count: int
    kind: str = field(default="synthetic")

    @cached_property
    def _rendered(self) -> Rendered:
        return _render(self.files.model_dump_json(), self.split, self.count)

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
    counts: dict[SplitName, int] = {"train": files.train, "test": files.test}
    version, edition, bytes_per_pixel = "1", "", _BYTES_PER_DIGITS_PIXEL
    if files.generator == "digits":
        names = [str(digit) for digit in range(10)]
        if files.train + files.test > 1797:
            raise InputError(
                f"{where}: files.train + files.test is {files.train + files.test}, but there are only 1,797 digits. Lower them."
            )
    else:
        generator = find_generator(files.generator, where)
        options = generator.complete(files.options, where)
        names, edition = generator.classes(options), generator.edition(options)
        version, bytes_per_pixel = generator.version, generator.bytes_per_pixel
        counts |= generator.further_splits(options, files.test)
    if files.train < len(names):
        raise InputError(f"{where}: files.train is {files.train}, less than the {len(names)} classes. Raise it.")
    needed = max(files.train, files.test) * files.size**2 * bytes_per_pixel
    if needed > (memory := total_memory()):
        raise InputError(
            f"{where}: rendering {max(files.train, files.test):,} images of {files.size:,} px needs {needed / 2**30:,.0f} GiB "
            f"of memory, but this machine has {memory / 2**30:,.0f} GiB. Lower files.train, files.test or files.size."
        )
    key = files.model_dump_json()
    splits: dict[SplitName, Split] = {}
    for name, count in counts.items():
        rendered = _render(key, name, count)
        splits[name] = Split(
            ids=[
                f"{files.generator}{version}-{files.size}px-seed{files.seed}/{name}/{i:06d}"
                for i in range(len(rendered.labels))
            ],
            labels=rendered.labels,
            images=RenderedImages(files, name, count),
            annotations=rendered.annotations,
        )
    return TaskData(task=task, classes=tuple(names), splits=splits, edition=edition)


@lru_cache(maxsize=16)
def _render(key: str, split: str, count: int) -> Rendered:
    files = SyntheticFiles.model_validate_json(key)
    if files.generator == "digits":
        return _digits(files, split)
    where = f"generator {files.generator}"
    generator = find_generator(files.generator, where)
    options = generator.complete(files.options, where)
    return generator.render(Request(seed=files.seed, split=split, count=count, size=files.size, options=options))


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
