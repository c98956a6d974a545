"""The documents on task and suite files name every key, and their examples are read."""

import re
import tomllib
from pathlib import Path

import pytest

from lrbench.config import load_task, splits
from lrbench.config import suite as suites
from lrbench.config import task as tasks

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"
LAYOUTS = (
    tasks.FoldersFiles, tasks.SplitFoldersFiles, tasks.ListsFiles, tasks.TableFiles, tasks.IndexedFiles, tasks.HubFiles,
    tasks.TorchvisionFiles, tasks.SyntheticFiles,
)  # fmt: skip


def keys_of(text):
    """What the first column of a text's tables names."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall(r"`([a-z0-9_.]+)`", cell)}


@pytest.mark.parametrize("files", LAYOUTS)
def test_every_layout_key_is_documented(files):
    (layout,) = files.model_fields["layout"].annotation.__args__
    section = (DOCS / "tasks.md").read_text().split(f'### `layout = "{layout}"`')[1].split("\n##")[0]
    assert keys_of(section) == set(files.model_fields) - {"layout"}


def test_every_task_key_is_documented():
    text = (DOCS / "tasks.md").read_text()
    head, rest = text.split("## `[files]`")
    assert keys_of(head) == {*tasks.Task.model_fields, "like"}
    archives, others = rest.split("## `[[archives]]`")[1].split("## `[prepare]`")
    assert keys_of(archives) == set(tasks.Archive.model_fields)
    wanted = {
        f"{table}.{key}"
        for table in ("prepare", "about")
        for key in tasks.Task.model_fields[table].annotation.model_fields
    }
    assert keys_of(others) == wanted
    for split in (splits.ColumnSplit, splits.FirstSplit, splits.ListedSplit, splits.DrawnSplit):
        assert all(re.search(rf"\b{key} = ", rest) for key in split.model_fields)


def test_every_suite_key_is_documented():
    text = (DOCS / "suites.md").read_text()
    explained = keys_of(text)
    protocols = ("probe", "knn", "finetune", "fewshot", "concat", "source_fit")
    tables = ("model", "input", "schedule", "training", "batchnorm")
    fields = suites.Suite.model_fields
    wanted = set(fields) - {*protocols, *tables}
    wanted |= {key for table in tables for key in fields[table].annotation.model_fields}
    wanted |= {f"{table}.{key}" for table in protocols for key in fields[table].annotation.model_fields}
    assert explained == wanted


def test_documented_task_files_load(home):
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "tasks.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for number, block in enumerate(blocks):
        (home / f"{number}.toml").write_text(block)
        assert load_task(f"{number}.toml").name == tomllib.loads(block)["name"]
