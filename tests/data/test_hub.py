"""The layout `hub`, on local folders; nothing is downloaded."""

import io
import json
import re

import datasets
import numpy as np
import pytest
from datasets.packaged_modules.parquet.parquet import Parquet

from lrbench.config import find_tasks, load_task
from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.data.examples import EvaluationTransform
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from tests import trees
from tests.data.helpers import counts

CATS_AND_DOGS = datasets.ClassLabel(names=["cat", "dog"])


def hub(home, label=CATS_AND_DOGS, labels=(0, 1), *, column="label", image="image", more=None, extra=(), first=0):
    """Write Parquet files with six training and four test rows; return a task that reads them."""
    features = datasets.Features({image: datasets.Image(), column: label, **{name: kind for name, kind, _ in extra}})
    (home / "hubset").mkdir(exist_ok=True)
    for split, count in (("train", 6), ("test", 4)):
        rows = {
            image: [trees.image(number % 2, first + number) for number in range(count)],
            column: [labels[number % len(labels)] for number in range(count)],
            **{name: [value] * count for name, _, value in extra},
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(home / "hubset" / f"{split}.parquet"))
    keys = {"layout": "hub", "id": "hubset", "revision": "main", **(more or {})}
    (home / "hub.toml").write_text(
        'name = "hubbed"\n\n[files]\n' + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    )
    return load_task("hub.toml")


def test_gated_data_set_error_says_how_to_log_in(tmp_path, monkeypatch):
    def gated(*arguments, **options):
        raise datasets.exceptions.DatasetNotFoundError(
            "Dataset 'ILSVRC/imagenet-1k' is a gated dataset on the Hub. You must be authenticated to access it."
        )

    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(
        InputError, match=r"is a gated dataset.*accept its terms on its page and log in with `hf auth login`"
    ):
        load_task_data(load_task("imagenet1k-hub"), [tmp_path])


def test_shipped_hub_tasks_pin_a_commit():
    revisions = {name: task.files.revision for name in find_tasks() if (task := load_task(name)).files.layout == "hub"}
    assert revisions and all(re.fullmatch("[0-9a-f]{40}", revision) for revision in revisions.values())


def test_local_folder_is_read(home):
    data = load_task_data(hub(home), [home])
    assert data.classes == ("cat", "dog")
    assert counts(data, "train") == {"cat": 3, "dog": 3} and counts(data, "test") == {"cat": 2, "dog": 2}
    assert data.splits["test"].images.read(1).shape == (48, 64, 3)


def test_toml_names_other_columns(home):
    task = hub(home, column="fine", image="picture", more={"label": "fine", "image": "picture"})
    assert load_task_data(task, [home]).classes == ("cat", "dog")
    with pytest.raises(
        InputError, match=r"has no column 'image'; its columns are picture, fine\. Set files\.image and files\.label"
    ):
        load_task_data(hub(home, column="fine", image="picture"), [home])


def test_label_offset_is_subtracted(home):
    numbers = datasets.Value("int64")
    data = load_task_data(hub(home, numbers, (1, 2), more={"label_offset": 1}), [home])
    assert data.classes == ("1", "2") and data.splits["train"].labels.tolist() == [0, 1] * 3
    with pytest.raises(InputError, match=r"has the label 0, which is below 1\. .* or files\.label_offset .* is wrong"):
        load_task_data(hub(home, numbers, (0, 1), more={"label_offset": 1}), [home])


def test_split_without_labels_is_rejected(home):
    with pytest.raises(InputError, match=r"has the label -1, which is below 0\. Either a split has no labels"):
        load_task_data(hub(home, datasets.Value("int64"), (-1,)), [home])


def test_text_labels_are_sorted_classes(home):
    data = load_task_data(hub(home, datasets.Value("string"), ("dog", "ant", "cat")), [home])
    assert data.classes == ("ant", "cat", "dog") and data.splits["train"].labels.tolist() == [2, 0, 1] * 2


@pytest.mark.parametrize(
    ("kind", "labels"), [("float32", (0.5, 1.0)), ("string", ("cat", None)), ("int64", (0, None)), ("list", ([0], [1]))]
)
def test_labels_of_other_types_are_rejected(home, kind, labels):
    feature = datasets.List(datasets.Value("int64")) if kind == "list" else datasets.Value(kind)
    with pytest.raises(
        InputError, match=r"column 'label' that are neither all integers nor all text.*(0\.5|None|\[0\])"
    ):
        load_task_data(hub(home, feature, labels), [home])


def test_damaged_image_in_another_column_is_ignored(home):
    mask = {"bytes": b"broken", "path": None}
    data = load_task_data(hub(home, extra=[("mask", datasets.Image(), mask)]), [home])
    assert data.splits["train"].images.read(0).shape == (48, 64, 3)


def test_damaged_row_is_named_with_working_advice(home, lrbench):
    task = hub(home)
    content = io.BytesIO()
    trees.image(0, 0).save(content, "PNG")
    cut = {"bytes": content.getvalue()[:60], "path": None}
    features = datasets.Features({"image": datasets.Image(), "label": CATS_AND_DOGS})
    datasets.Dataset.from_dict({"image": [cut] * 2, "label": [0, 1]}, features=features).to_parquet(
        str(home / "hubset" / "test.parquet")
    )
    with pytest.raises(InputError, match=r"row 1 of hubbed \(test, image\) .*`lrbench data verify hub\.toml`"):
        load_task_data(task, [home]).splits["test"].images.read(1)
    outcome = lrbench("data", "verify", "hub.toml", "--data-root", home)
    assert outcome.status == 1 and "bad test image row 0 of hubbed (test, image)" in outcome.out


def test_rewritten_file_is_prepared_again(home):
    transform = EvaluationTransform.of(Input(size=32, crop_fraction=0.875))

    def prepared(first):
        data = load_task_data(hub(home, first=first), [home])
        pixels = prepare(data, "test", transform, cache=home / "cache").evaluation(np.arange(4))
        expected = prepare(data, "test", transform, cache=None).evaluation(np.arange(4))
        assert np.array_equal(pixels, expected)
        return data, pixels

    (before, old), (after, new) = prepared(0), prepared(100)
    assert before.splits["test"].labels.tolist() == after.splits["test"].labels.tolist()
    assert before.fingerprint == after.fingerprint and not np.array_equal(old, new)


def test_fingerprint_depends_on_revision(home):
    first = load_task_data(hub(home), [home])
    other = load_task_data(hub(home, more={"revision": "v2"}), [home])
    assert list(first.splits["test"].ids) == list(other.splits["test"].ids) == [f"test/{row}" for row in range(4)]
    assert first.fingerprint == load_task_data(hub(home), [home]).fingerprint != other.fingerprint
    # The location of the folder does not matter.
    elsewhere = load_task_data(hub(home, more={"id": str(home / "hubset")}), [home])
    assert elsewhere.fingerprint == first.fingerprint


def test_revision_and_config_come_from_toml(home, monkeypatch):
    table = datasets.Dataset.from_dict(
        {"image": [trees.image(0, 0), trees.image(1, 0)], "label": [0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": CATS_AND_DOGS}),
    )
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: asked.append((given, options)) or table)
    keys = {"id": "owner/name", "revision": "abc", "config": "full", "splits": {"train": "train", "test": "validation"}}
    task = hub(home)
    task = task.model_copy(update={"files": task.files.model_copy(update=keys)})
    data = load_task_data(task, [home])
    assert asked == [(("owner/name", "full"), {"split": split, "revision": "abc"}) for split in ("train", "validation")]
    assert data.splits["test"].ids == ["validation/0", "validation/1"] and data.edition == "full@abc"


def test_fingerprint_has_the_commit_of_the_revision(home, monkeypatch):
    """`datasets` resolves a revision to a commit, which its builder uses instead of a hash of the files."""
    task = hub(home)
    task = task.model_copy(update={"files": task.files.model_copy(update={"id": "owner/name"})})

    def at(commit):
        files = {split: str(home / "hubset" / f"{split}.parquet") for split in ("train", "test")}
        builder = Parquet(cache_dir=str(home / "cache"), dataset_name="name", hash=commit, data_files=files)
        builder.download_and_prepare()
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: builder.as_dataset(split=split))
        return load_task_data(task, [home])

    first, second, local = at("1" * 40), at("2" * 40), at("0123456789abcdef")
    assert first.edition == "@" + "1" * 40 and second.edition == "@" + "2" * 40 and local.edition == "@main"
    assert len({data.fingerprint for data in (first, second, local)}) == 3


def test_error_for_image_column_as_labels_is_short(home):
    described = hub(home)
    swapped = described.files.model_copy(update={"label": "image"})
    with pytest.raises(InputError, match=r"Set files\.label .* the labels; the columns are image, label") as refused:
        load_task_data(described.model_copy(update={"files": swapped}), [home])
    assert len(str(refused.value)) < 700
