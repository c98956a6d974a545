"""`lrbench.core.files.read_json`, through which other readers of JSON go. A simple target, to copy for others."""

from pathlib import Path

from tests.fuzz.harness import Target
from tests.fuzz.mutations import mutate_json


# Heavy imports (torch, timm, pandas, pyarrow) belong into the functions: every target's module is imported to list them.
def make_json(folder: Path) -> Path:
    from lrbench.core.files import write_json

    path = folder / "some.json"
    write_json(path, {"text": "é", "numbers": [1, 2.5, -3], "table": {"a": {"b": [True, None]}, "c": "\U0001f600"}})
    return path


def use_json(path: Path) -> object:
    from lrbench.core.files import read_json

    value = read_json(path, "Delete it.")
    # What was read can be written again.
    str(value).encode()
    return value


TARGETS = [Target(name="json-file", make=make_json, mutate=mutate_json, use=use_json)]
