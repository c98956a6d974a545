"""A pixel cache: whatever a shard or `about.json` says, the pixels are those of the images."""

from pathlib import Path
from typing import Any

from tests.fuzz.harness import Target
from tests.fuzz.mutations import mutate_bytes, mutate_json, one_of


class _Drawn:
    """Images that are made on the spot, of the same pixels each time."""

    def read(self, index: int) -> Any:
        import numpy as np

        return np.random.default_rng(index).integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)

    def stamp(self) -> str:
        return "drawn"

    def content(self) -> None:
        return


def prepared(folder: Path) -> Any:
    import numpy as np

    from lrbench.config.task import Task
    from lrbench.data.examples import EvaluationTransform, Split, TaskData
    from lrbench.data.prepare import prepare

    labels = np.arange(12) % 2
    split = Split(ids=[str(number) for number in range(12)], labels=labels, images=_Drawn())
    task = Task.model_validate({"name": "drawn", "files": {"layout": "folders"}})
    data = TaskData(task=task, classes=("a", "b"), splits={"train": split, "test": split})
    transform = EvaluationTransform(size=16, resize=18, interpolation="bilinear")
    return prepare(data, "train", transform, cache=folder, workers=1)


def make_cache(folder: Path, name: str) -> Path:
    import lrbench.data.resized_images as module

    # Four images to a shard.
    module._SHARD_BYTES = 6_000
    prepared(folder)
    (path,) = folder.glob(f"pixels/drawn-*/{name}")
    return path


def use_cache(path: Path) -> object:
    import numpy as np

    pixels = prepared(path.parents[2])
    return [pixels.evaluation(np.arange(12)), *(pixels.resized(index) for index in range(12))]


TARGETS = [
    Target(
        name="pixel-cache-shard",
        make=lambda folder: make_cache(folder, "shard-00001.arrow"),
        mutate=mutate_bytes,
        use=use_cache,
        covered=True,
    ),
    Target(
        name="pixel-cache-about",
        make=lambda folder: make_cache(folder, "about.json"),
        mutate=one_of(mutate_bytes, mutate_json),
        use=use_cache,
        covered=True,
    ),
]
