"""TOML files of tasks and suites, up to the data and the cells that they name."""

from pathlib import Path

from tests.fuzz.harness import Target
from tests.fuzz.mutations import mutate_toml
from tests.helpers import tiny_suite_toml

REMOTE = """
name = "fuzzed"
title = "A task"
metric = "mean_per_class"
classes = 100
counts = { train = 3334, val = 3333, test = 3333 }
least = { train = 30 }
most = { train = 40 }
manual = "By hand."

[files]
layout = "torchvision"
dataset = "FGVCAircraft"
root = ["aircraft", "."]
splits = { train = { split = "train" }, val = { split = "val" }, test = { split = "test", annotation_level = "variant" } }

[[archives]]
url = "https://example.org/data.tar.gz?download=1"
mirrors = ["https://example.com/data.tar.gz"]
md5 = "d4acdd33327262359767eeaa97a4f732"
bytes = 1000
unpacks_to = "aircraft"
inner = "inner.zip"
images = 10000
into = "deep/er"

[prepare]
format = "jpeg"
quality = 80

[about]
homepage = "https://example.org"
notes = ["One.", "Two."]
sanity = { probe = [0.5, 0.67] }
"""
TABLE = """
name = "fuzzed"
counts = { train = 4, test = 2 }

[files]
layout = "table"
root = ["photos", "."]
images = ["images", "."]
file = ["labels.csv", "other.csv"]
image = "file"
label = "class"
ending = ".png"
separator = ","
split = { kind = "column", name = "use", train = ["train", "more"], test = "test" }
"""
SYNTHETIC = """
name = "fuzzed"

[files]
layout = "synthetic"
generator = "source"
size = 16
seed = 3
train = 8
test = 8
options = { classes = 4, templates = 2, complex = 0.5, wrong = 0.1 }
"""
SUITE = tiny_suite_toml(
    name="fuzzed",
    title="A suite",
    source="toy-source",
    targets=["toy-objects", "digits"],
    arms=["step", "hold", "constant", "average", "constant-average", "trail", "late"],
    transfer_seeds=[0],
    validation=0.25,
    protocol_arms={"knn": ["step", "hold"]},
    input={"interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    schedule={"epochs": 9, "boundaries": [4, 7], "trail": 6, "warmup": 1, "shift": 1},
    training={"precision": "float32", "micro_batch": 16},
    probe={"weakest": 1e-3, "strongest": 1e3},
    knn={"neighbours": [1, 5]},
)


def task_file(content: str):
    def make(folder: Path) -> Path:
        path = folder / "fuzzed.toml"
        path.write_text(content)
        return path

    return make


def make_table_task(folder: Path) -> Path:
    from PIL import Image

    images = folder / "data" / "photos" / "images"
    images.mkdir(parents=True)
    rows = ["file,class,use"]
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(images / f"{number}.png")
        rows.append(f"{number},{'ab'[number % 2]},{'train' if number < 4 else 'test'}")
    (images.parent / "labels.csv").write_text("\n".join(rows) + "\n")
    return task_file(TABLE)(folder)


def use_task(path: Path) -> object:
    """What `lrbench tasks FILE` prints."""
    import tomli_w

    from lrbench.config import load_task
    from lrbench.core.files import sha256_json

    record = load_task(str(path)).model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    tomli_w.dumps(record).encode()
    return sha256_json(record)


def use_task_and_data(path: Path) -> object:
    """The images of a task: their names, labels and places."""
    from lrbench.config import load_task
    from lrbench.data.loading import load_task_data

    data = load_task_data(load_task(str(path)), [path.parent / "data"], partial=True)
    return [use_task(path), data.fingerprint, data.classes, data.problems]


def use_suite(path: Path) -> object:
    """The cells of a suite."""
    from lrbench.config import load_suite
    from lrbench.core.files import sha256_json
    from lrbench.core.workspace import Place, Workspace
    from lrbench.jobs.plan import make_plan

    suite = load_suite(str(path))
    plan = make_plan(suite, Place(workspace=Workspace(root=path.parent), roots=(path.parent / "data",)))
    return [sha256_json(suite.model_dump(mode="json")), len(plan.cells)]


TARGETS = [
    Target(name="task-toml", make=task_file(REMOTE), mutate=mutate_toml, use=use_task),
    Target(name="task-toml-table", make=make_table_task, mutate=mutate_toml, use=use_task_and_data),
    Target(name="task-toml-synthetic", make=task_file(SYNTHETIC), mutate=mutate_toml, use=use_task_and_data),
    Target(name="suite-toml", make=task_file(SUITE), mutate=mutate_toml, use=use_suite),
]
