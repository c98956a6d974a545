"""The document on task files: rules of splits, and examples that are read."""

import re
import tomllib
from pathlib import Path

from lrbench.config import load_task, splits

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"


def test_every_key_of_a_split_rule_is_documented():
    text = (DOCS / "tasks.md").read_text()
    for split in (splits.ColumnSplit, splits.FirstSplit, splits.ListedSplit, splits.DrawnSplit):
        assert all(re.search(rf"\b{key} = ", text) for key in split.model_fields)


def test_documented_task_files_load(home):
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "tasks.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for number, block in enumerate(blocks):
        (home / f"{number}.toml").write_text(block)
        assert load_task(f"{number}.toml").name == tomllib.loads(block)["name"]
