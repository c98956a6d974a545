"""Descriptions of the keys of TOML files, and the reference pages that are generated from them."""

import importlib.util
from pathlib import Path
from typing import get_args

import pytest

from lrbench.config import Suite, Task
from lrbench.config.strict import Strict, attribute_descriptions

ROOT = Path(__file__).resolve().parents[2]


def _records(kind, known):
    if isinstance(kind, type) and issubclass(kind, Strict):
        if kind not in known:
            known.append(kind)
            for field in kind.model_fields.values():
                _records(field.annotation, known)
    else:
        for inner in get_args(kind):
            _records(inner, known)
    return known


RECORDS = _records(Suite, _records(Task, []))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_key_is_described(record):
    undescribed = [name for name, field in record.model_fields.items() if not field.description]
    assert undescribed == [] and set(attribute_descriptions(record.__doc__)) <= set(record.model_fields)


def test_reference_pages_have_the_tables_of_the_records():
    spec = importlib.util.spec_from_file_location("keys", ROOT / "docs" / "site" / "keys.py")
    keys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(keys)
    shown = ""
    for name in ("tasks", "suites"):
        text = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
        assert keys.with_tables(text) == text, "run `python docs/site/keys.py`"
        shown += text
    missing = [record.__name__ for record in RECORDS if f"keys: {record.__name__}" not in shown]
    # Rules of splits have examples instead.
    assert set(missing) == {"FirstSplit", "ListedSplit", "Group", "DrawnSplit", "ColumnSplit"}
