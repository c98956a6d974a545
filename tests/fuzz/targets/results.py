"""Results: records, predictions, the index of them, the suite next to them, and its registration."""

import io
import random
import shutil
from pathlib import Path
from typing import Any

from tests.fuzz.harness import ROOT, Target
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_toml, one_of

CELL = "step-seed0-stage1.tiny-objects.probe.seed0"


def make_results(folder: Path) -> Path:
    """Three results of a suite in a workspace; the record of the first."""
    from lrbench.config import load_suite
    from lrbench.core.workspace import Workspace
    from tests.leaderboard.fake import put

    suite = load_suite("quick").model_copy(update={"name": "tiny", "targets": ("tiny-objects",), "seeds": (0,)})
    workspace = Workspace(root=folder)
    for stage in (3, 2, 1):
        path = put(workspace, suite, stage=stage, wrong=3 * stage)
    return path


def make_old_results(folder: Path) -> Path:
    """The same kind of results in schema 1, whose records have no hash."""
    shutil.copytree(ROOT / "tests" / "fixtures" / "results-schema1", folder / "leaderboard" / "results")
    return folder / "leaderboard" / "results" / "tiny" / f"{CELL}.json"


def make_index(folder: Path) -> Path:
    use_index(make_results(folder))
    return folder / "cache" / "results" / "tiny.arrow"


def make_predictions(folder: Path) -> Path:
    return make_results(folder).with_suffix(".parquet")


def make_suite(folder: Path) -> Path:
    return make_results(folder).with_name("suite.json")


def make_effective(folder: Path) -> Path:
    from lrbench.config import load_suite
    from lrbench.core.workspace import Workspace
    from lrbench.store.suites import effective_path, write_effective

    write_effective(Workspace(root=folder), load_suite("quick"))
    return effective_path(Workspace(root=folder), "quick")


def make_registration(folder: Path) -> Path:
    from lrbench.config import load_suite
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard.registration import register

    make_results(folder)
    suite = load_suite("quick").model_copy(update={"name": "tiny"})
    registration, _ = register(Workspace(root=folder), suite)
    return folder / "leaderboard" / registration.file


def mutate_columns(numbers: random.Random, content: bytes) -> bytes:
    """Other columns, types, values or lengths: still Parquet."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = parquet.read_table(io.BytesIO(content))
    name = numbers.choice(table.column_names)
    position = table.column_names.index(name)
    values: list[Any] = table.column(name).to_pylist()
    kind = numbers.choice(["drop", "null", "value", "type", "order", "cut", "rename", "repeat", "none"])
    if kind in ("cut", "none"):
        table = table.slice(0, 0 if kind == "none" else numbers.randrange(len(values)))
    elif kind == "repeat":
        table = arrow.concat_tables([table, table])
    elif kind == "rename":
        table = table.rename_columns([f"{column}x" if column == name else column for column in table.column_names])
    else:
        table = table.remove_column(position)
        place = numbers.randrange(len(values))
        if kind == "null":
            values[place] = None
        elif kind == "value" and name != "image":
            values[place] = numbers.choice([0, 1, 3, 4, -1, 2**31, -(2**63), 2**63 - 1])
        elif kind == "order":
            numbers.shuffle(values)
        elif kind == "type":
            values = numbers.choice(
                [[str(value) for value in values], [[value] for value in values], [1.5] * len(values)]
            )
        if kind != "drop":
            table = table.add_column(position, name, arrow.array(values))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def use_record(path: Path) -> object:
    from lrbench.store.results import load_result

    stored = load_result(path, "tiny")
    predictions = stored.read_predictions(names=True)
    return stored.result.model_dump(), vars(predictions)


def use_predictions(path: Path) -> object:
    return use_record(path.with_suffix(".json"))


def use_signed_predictions(path: Path) -> object:
    """Predictions whose record names them by their hash."""
    from lrbench.core.files import sha256_file
    from tests.leaderboard.fake import rewrite

    record = path.with_suffix(".json")
    rewrite(record, lambda content: content.update(predictions_sha256=sha256_file(path)))
    return use_record(record)


def use_index(path: Path) -> object:
    from lrbench.core.workspace import Workspace
    from lrbench.store.index import load_index

    workspace = Workspace(root=path.parents[2] if path.suffix == ".arrow" else path.parents[3])
    index = load_index(workspace.results, "tiny", workspace.cache)
    return index.entries, index.labels, index.problems


def use_pages(path: Path) -> object:
    """Everything that the leaderboard writes but drawings."""
    from lrbench.core.workspace import Workspace
    from lrbench.leaderboard import page

    built = page.build(Workspace(root=path.parents[3]), ["tiny"], draw=False, indexed=False)
    return built.files, built.problems


def use_suite(path: Path) -> object:
    from lrbench.leaderboard.gathering import gather, read_suite

    suite = read_suite(path.parents[1], path.parent.name)
    return suite, [(body.rows, body.columns) for body in gather(path.parents[1], suite)]


def use_registration(path: Path) -> object:
    from lrbench.leaderboard.registration import read_registration

    return read_registration(path.parents[1], "tiny")


def use_effective(path: Path) -> object:
    from lrbench.store.suites import read_effective, recipe

    suite = read_effective(path)
    return suite, recipe(suite)


TARGETS = [
    Target(
        name="result-record",
        make=make_results,
        mutate=one_of(mutate_bytes, mutate_json),
        use=use_record,
        covered=True,
    ),
    Target(name="result-record-schema-1", make=make_old_results, mutate=mutate_json, use=use_pages),
    Target(name="result-predictions", make=make_predictions, mutate=mutate_bytes, use=use_predictions, covered=True),
    Target(name="result-predictions-signed", make=make_predictions, mutate=mutate_columns, use=use_signed_predictions),
    Target(name="result-index", make=make_index, mutate=mutate_bytes, use=use_index, covered=True),
    Target(name="result-suite", make=make_suite, mutate=mutate_json, use=use_suite),
    Target(
        name="registration",
        make=make_registration,
        mutate=one_of(mutate_bytes, mutate_json),
        use=use_registration,
        covered=True,
    ),
    Target(name="suite-in-use", make=make_effective, mutate=mutate_toml, use=use_effective),
]
