"""Files that name a task's images and classes: lists, tables, joined text files, labels of a flat folder, Hub Parquet."""

import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.fuzz.harness import Target
from tests.fuzz.mutations import NUMBERS, TEXTS, Mutation, mutate_bytes, mutate_csv, mutate_text

_CLASSES = ("ant", "bee", "cat")
_NAMES = {
    "train": [f"train/{k}/{n}.png" for k in _CLASSES for n in range(2)],
    "test": [f"test/{k}/0.png" for k in _CLASSES],
}
_EVERY = [*_NAMES["train"], *_NAMES["test"]]
_TOML = 'name = "mine"\n[files]\nroot = "mine"\n{}\n'
_FLAT = 'layout = "split-folders"\nflat_labels = ["labels/{}"]'


def _label(name: str) -> int:
    return _CLASSES.index(name.split("/")[1])


def _images(folder: Path, flat: bool) -> None:
    from PIL import Image

    for name in _EVERY:
        path = folder / name
        if flat and name.startswith("test"):
            path = folder / "test" / f"ILSVRC2012_val_{_label(name) + 1:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (_label(name), 0, 0)).save(path)


def _make(folder: Path, files: str, contents: dict[str, bytes], *, mutated: str, flat: bool = False) -> Path:
    """A small data set, its TOML, and the files that name its images; gives the one that is mutated."""
    _images(folder / "mine", flat)
    (folder / "mine.toml").write_text(_TOML.format(files))
    for name, content in contents.items():
        path = folder / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "mine" / mutated


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def make_lists(folder: Path, *, column: bool = False, pinned: bool = False) -> Path:
    import hashlib

    contents = {
        f"{split}.txt": _lines([f"{name} {_label(name)}" if column else name for name in names])
        for split, names in _NAMES.items()
    }
    files = 'layout = "lists"\ntrain = "train.txt"\ntest = "test.txt"\n' + ('label = "column"\n' if column else "")
    if pinned:
        files += f'hashes = {{ train = "sha256:{hashlib.sha256(contents["train.txt"]).hexdigest()}" }}\n'
    return _make(folder, files, contents, mutated="train.txt")


def make_table(folder: Path) -> Path:
    rows = [f"{name},{_CLASSES[_label(name)]},{name.split('/')[0]}" for name in _EVERY]
    files = 'layout = "table"\nfile = "all.csv"\nsplit = { kind = "column", name = "use" }'
    return _make(folder, files, {"all.csv": _lines(["image,label,use", *rows])}, mutated="all.csv")


def make_indexed(folder: Path, *, mutated: str) -> Path:
    contents = {
        "images.txt": _lines([f"{n} {name}" for n, name in enumerate(_EVERY)]),
        "image_class_labels.txt": _lines([f"{n} {_label(name)}" for n, name in enumerate(_EVERY)]),
        "train_test_split.txt": _lines([f"{n} {int(name.startswith('train'))}" for n, name in enumerate(_EVERY)]),
        "classes.txt": _lines([f"{n} {name}" for n, name in enumerate(_CLASSES)]),
    }
    return _make(folder, 'layout = "indexed"\nfolder = "."', contents, mutated=mutated)


def make_listed(folder: Path) -> Path:
    import hashlib

    content = _lines(["# The test images."] + [f"{k}/0.png" for k in _CLASSES])
    digest = hashlib.sha256(content).hexdigest()
    files = f'layout = "folders"\nsplit = {{ kind = "listed", test = "tests.txt", sha256 = "{digest}" }}'
    path = _make(folder, files.replace('root = "mine"', ""), {"train/tests.txt": content}, mutated="train/tests.txt")
    (folder / "mine.toml").write_text(_TOML.format(files).replace('root = "mine"', 'root = "mine/train"'))
    return path


def make_flat(folder: Path, *, kind: str) -> Path:
    import io

    names = [f"ILSVRC2012_val_{number + 1:08d}" for number in range(len(_CLASSES))]
    if kind == "labels.txt":
        contents = {kind: _lines([f"{name}.png {n}" for n, name in enumerate(names)])}
    elif kind == "labels.csv":
        contents = {
            kind: _lines(["ImageId,PredictionString", *(f"{name},{_CLASSES[n]} 1 2" for n, name in enumerate(names))])
        }
    elif kind == "meta.bin":
        import torch

        buffer = io.BytesIO()
        torch.save((dict.fromkeys(_CLASSES, ("a name",)), list(_CLASSES)), buffer)
        contents = {kind: buffer.getvalue()}
    else:
        import numpy as np
        from scipy.io import savemat

        buffer = io.BytesIO()
        rows = [(3 - n, name, "some words", np.arange(3.0)) for n, name in enumerate(_CLASSES)]
        kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("children", object)]
        savemat(
            buffer, {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)}, do_compression=kind.endswith("compressed")
        )
        truth = _lines(["3", "2", "1"])
        contents = {"kit/data/meta.mat": buffer.getvalue(), "kit/data/ILSVRC2012_validation_ground_truth.txt": truth}
        kind = "kit"
    files = _FLAT.format(kind)
    path = _make(
        folder,
        files,
        {f"labels/{name}": content for name, content in contents.items()},
        mutated=f"labels/{kind}",
        flat=True,
    )
    return path / "data" / "meta.mat" if kind == "kit" else path


def make_parquet(folder: Path) -> Path:
    # The library keeps a copy of what it reads; `use_hub` removes it.
    os.environ["HF_HOME"] = str(folder.parent / "hub-cache")
    import datasets

    datasets.disable_progress_bars()
    (folder / "mine.toml").write_text(f'name = "mine"\n[files]\nlayout = "hub"\nid = "{folder / "mine"}"\n')
    (folder / "mine").mkdir()
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(_CLASSES))})
    for split, names in _NAMES.items():
        pictures = [Image.new("RGB", (4, 4), (_label(name), 0, 0)) for name in names]
        table = datasets.Dataset.from_dict({"image": pictures, "label": list(map(_label, names))}, features=features)
        table.to_parquet(str(folder / "mine" / f"{split}.parquet"))
    return folder / "mine" / "test.parquet"


def mutate_parquet(numbers: random.Random, content: bytes) -> bytes:
    """Other values, names of classes, kinds of columns or none of a column; one time in three, bytes."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    if numbers.random() < 1 / 3:
        return mutate_bytes(numbers, content)
    table = pq.read_table(io.BytesIO(content))
    kind = numbers.choice(["path", "bytes", "null", "label", "words", "list", "names", "metadata", "drop", "empty"])
    rows = table.to_pydict()
    row = numbers.randrange(table.num_rows)
    metadata = dict(table.schema.metadata or {})
    if kind == "path":
        paths = [
            *TEXTS,
            "../test.parquet",
            "/dev/stdin",
            "//dev/zero",
            "https://example.org/x.png",
            "file:///etc/passwd",
            "x" * 300,
        ]
        rows["image"][row] = {
            "bytes": None,
            "path": numbers.choice([p for p in paths if p.isprintable() and p.isascii()]),
        }
    elif kind == "bytes":
        rows["image"][row] = {"bytes": mutate_bytes(numbers, rows["image"][row]["bytes"]), "path": None}
    elif kind == "null":
        rows[numbers.choice(["image", "label"])][row] = None
    elif kind in ("label", "words", "list"):
        values = {
            "label": [n for n in NUMBERS if type(n) is int and abs(n) < 2**63],
            "words": [text for text in TEXTS if text.isascii()],
            "list": [[], [1], [0, 1]],
        }[kind]
        rows["label"] = [numbers.choice(values) for _ in rows["label"]]
        metadata = metadata if kind == "label" else {}
    elif kind == "names":
        metadata = {
            key: value.replace(b'"ant"', b'"bee"').replace(b'"bee", "bee"', b'"bee", "ant"')
            for key, value in metadata.items()
        }
    elif kind == "metadata":
        metadata = {key: mutate_text(numbers, value) for key, value in metadata.items()}
    elif kind == "drop":
        del rows[numbers.choice(["image", "label"])]
    else:
        rows = {name: [] for name in rows}
    image = table.schema.field("image").type
    buffer = io.BytesIO()
    columns = {name: pa.array(values, type=image if name == "image" else None) for name, values in rows.items()}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), buffer)
    return buffer.getvalue()


def use_task(path: Path) -> object:
    """Classes, names and labels of the images, and the pixels of each."""
    from lrbench.config import load_task
    from lrbench.core.errors import InputError
    from lrbench.data.loading import describe_unused, load_task_data

    home = next(folder for folder in path.parents if (folder / "mine.toml").is_file())
    task = load_task(str(home / "mine.toml"))
    try:
        data = load_task_data(task, [home])
    except InputError:
        # What is not whole is refused late; with --partial more is looked at.
        load_task_data(task, [home], partial=True)
        raise
    str(describe_unused(data)).encode(errors="surrogateescape")
    return data.classes, [
        (
            name,
            list(split.ids),
            split.labels.tolist(),
            [split.images.read(index).tolist() for index in range(len(split))],
        )
        for name, split in sorted(data.splits.items())
    ]


def use_hub(path: Path) -> object:
    try:
        return use_task(path)
    finally:
        shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


def _target(name: str, make: Callable[[Path], Path], mutate: Mutation, *, covered: bool = False) -> Target:
    return Target(
        name=name, make=make, mutate=mutate, use=use_hub if mutate is mutate_parquet else use_task, covered=covered
    )


TARGETS = [
    _target("list", make_lists, mutate_text),
    _target("list-numbers", partial(make_lists, column=True), mutate_text),
    _target("list-pinned", partial(make_lists, pinned=True), mutate_text, covered=True),
    _target("list-test-images", make_listed, mutate_text, covered=True),
    _target("table", make_table, mutate_csv),
    _target("indexed-images", partial(make_indexed, mutated="images.txt"), mutate_text),
    _target("indexed-labels", partial(make_indexed, mutated="image_class_labels.txt"), mutate_text),
    _target("indexed-split", partial(make_indexed, mutated="train_test_split.txt"), mutate_text),
    _target("indexed-classes", partial(make_indexed, mutated="classes.txt"), mutate_text),
    _target("flat-list", partial(make_flat, kind="labels.txt"), mutate_text),
    _target("flat-csv", partial(make_flat, kind="labels.csv"), mutate_csv),
    _target("flat-meta-bin", partial(make_flat, kind="meta.bin"), mutate_bytes),
    _target("flat-meta-mat", partial(make_flat, kind="kit"), mutate_bytes),
    _target("flat-meta-mat-compressed", partial(make_flat, kind="kit-compressed"), mutate_bytes),
    _target("hub-parquet", make_parquet, mutate_parquet),
]
