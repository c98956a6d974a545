"""Files of the layout `hub`: images given as paths, class names of each file, and identity of a folder."""

import os

import datasets
import pyarrow.parquet as pq
import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from tests import trees

LOCAL = 'name = "hubbed"\n\n[files]\nlayout = "hub"\nid = "hubset"\n'
ABC = ("ant", "bee", "cat")


def write(home, split, labels, *, names=ABC, images=None, feature=None, folder="hubset", number=0):
    """Write one Parquet file of a split; `images` are paths, None or encoded images."""
    (home / folder).mkdir(exist_ok=True)
    feature = feature or datasets.ClassLabel(names=list(names))
    rows = {
        "image": images
        or [
            trees.image(label if isinstance(label, int) else 0, label_number)
            for label_number, label in enumerate(labels)
        ],
        "label": list(labels),
    }
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    # `to_parquet` would read the files that rows name by path.
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    pq.write_table(table, home / folder / f"{split}-{number}.parquet")


def read(home, toml=LOCAL):
    (home / "hub.toml").write_text(toml)
    return load_task_data(load_task("hub.toml"), [home])


def paths(home, named):
    """Return a data set whose only test image is given as the path `named`, and its image source."""
    write(home, "train", [0, 1])
    write(home, "test", [0, 1], images=[{"bytes": None, "path": str(named)}, trees.image(1, 0)])
    return read(home).splits["test"].images


def test_relative_path_starts_at_data_set_folder(home, monkeypatch):
    trees.save(home / "hubset" / "pictures" / "x.png", trees.image(0, 7, size=(10, 6)), "PNG")
    trees.save(home / "elsewhere" / "pictures" / "x.png", trees.image(0, 7, size=(20, 20)), "PNG")
    images = paths(home, "pictures/x.png")
    monkeypatch.chdir(home / "elsewhere")
    assert images.read(0).shape == (6, 10, 3)


@pytest.mark.parametrize(
    "named", ["/dev/zero", "../secret.png", "inside/../../secret.png", "link.png", "linked/secret.png"]
)
def test_path_outside_data_set_folder_is_rejected(home, named):
    trees.save(home / "secret.png", trees.image(0, 0), "PNG")
    (home / "hubset").mkdir()
    (home / "hubset" / "link.png").symlink_to(home / "secret.png")
    (home / "hubset" / "linked").symlink_to(home)
    with pytest.raises(InputError, match=rf"row 0 of hubbed .* its path '{named}' is outside .*hubset"):
        paths(home, named).read(0)


def test_absolute_path_inside_folder_is_read(home):
    trees.save(home / "hubset" / "x.png", trees.image(0, 7, size=(10, 6)), "PNG")
    assert paths(home, home / "hubset" / "x.png").read(0).shape == (6, 10, 3)


def test_pipe_does_not_block(home):
    (home / "hubset").mkdir()
    os.mkfifo(home / "hubset" / "x.png")
    with pytest.raises(InputError, match=r"row 0 of hubbed .*x\.png is a pipe, not a regular file"):
        paths(home, "x.png").read(0)


def test_oversized_file_is_not_read(home):
    (home / "hubset").mkdir()
    with open(home / "hubset" / "x.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"row 0 of hubbed .*x\.png has 1,099,511,627,776 bytes, more than"):
        paths(home, "x.png").read(0)


@pytest.mark.parametrize("named", ["not there.png", "https://example.org/x.png", "x" * 5000, "a\0b"])
def test_path_without_file_is_a_bad_image(home, named):
    images = paths(home, named)
    with pytest.raises(InputError, match=r"row 0 of hubbed .*could not be read as an image"):
        images.read(0)
    assert len(images.stamp()) == 64 and images.read(1).shape == (48, 64, 3)


def test_verify_names_row_without_image(home, lrbench):
    write(home, "train", [0, 1])
    write(home, "test", [0, 1], images=[None, trees.image(1, 0)])
    read(home)
    outcome = lrbench("data", "verify", "hub.toml", "--data-root", home)
    assert outcome.status == 1 and "row 0 of hubbed (test, image): the row has no image" in outcome.out


def test_column_without_images_is_reported(home):
    write(home, "train", [0, 1])
    write(home, "test", [0, 1])
    with pytest.raises(InputError, match=r"no images in its column 'label', but ClassLabel.*columns are image, label"):
        read(home, LOCAL + 'image = "label"\n')
    for split in ("train", "test"):
        rows = {"image": [[trees.image(0, 0)], [trees.image(1, 0)]], "label": [0, 1]}
        features = datasets.Features(
            {"image": datasets.List(datasets.Image()), "label": datasets.ClassLabel(names=list(ABC))}
        )
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(home / "hubset" / f"{split}-0.parquet"))
    with pytest.raises(InputError, match=r"no images in its column 'image', but List"):
        read(home)


def test_image_next_to_class_folders_explains_missing_labels(home):
    for split in ("train", "test"):
        for label, name in enumerate(ABC):
            trees.save(home / "hubset" / split / name / "1.png", trees.image(label, 0), "PNG")
    assert read(home).classes == ABC
    trees.save(home / "hubset" / "test" / "x.png", trees.image(0, 1), "PNG")
    with pytest.raises(InputError, match=r"no column 'label'; .* only if every image is in a class folder"):
        read(home)


@pytest.mark.parametrize("label", [1 << 62, -(1 << 62)])
def test_labels_too_large_are_rejected(home, label):
    write(home, "train", [0, label], feature=datasets.Value("int64"), images=[trees.image(0, 0)] * 2)
    write(home, "test", [0], feature=datasets.Value("int64"))
    with pytest.raises(InputError, match=f"neither all integers nor all text: {label}"):
        read(home)


def test_sparse_labels_are_accepted(home):
    labels = [0, 1 << 39]
    for split in ("train", "test"):
        write(home, split, labels, feature=datasets.Value("int64"), images=[trees.image(0, 0)] * 2)
    data = read(home)
    assert data.classes == ("0", str(1 << 39)) and data.splits["test"].labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat", "bee", "ant"), r"class 0 is 'ant' in .* and 'cat' in .*test-0\.parquet"),
        (("bee", "cat", "ant"), "class 0 is 'ant' in .* and 'bee'"),
        (("ant", "bee"), "class 2 is 'cat' in .* and missing in"),
        (("ant", "bee", "cat", "dog"), "class 3 is missing in .* and 'dog' in"),
    ],
)
def test_splits_with_different_class_numbers_are_rejected(home, names, message):
    write(home, "train", [0, 1, 2])
    write(home, "test", [0, 1], names=names)
    with pytest.raises(InputError, match=f"task hubbed number their classes differently: {message}"):
        read(home)


def test_files_with_different_class_numbers_are_rejected(home):
    write(home, "train", [0, 1, 2])
    write(home, "train", [0, 1, 2], names=ABC[::-1], number=1)
    write(home, "test", [0, 1])
    with pytest.raises(InputError, match=r"class 0 is 'ant' in .* and 'cat' in .*train-1\.parquet"):
        read(home)


@pytest.mark.parametrize("unnamed", ["train", "test"])
def test_numbers_next_to_a_file_with_names_are_rejected(home, unnamed):
    for split in ("train", "test"):
        write(home, split, [0, 1], feature=datasets.Value("int64") if split == unnamed else None)
    with pytest.raises(InputError, match=r"has class names in .* but not in .*, where numbers may mean other classes"):
        read(home)


@pytest.mark.parametrize("metadata", [b"\xff", b"[", b'{"info": {"features": {"label": "x"}}}', b"{}"])
def test_damaged_column_description_is_reported(home, metadata):
    write(home, "train", [0, 1])
    write(home, "test", [0, 1])
    path = home / "hubset" / "test-0.parquet"
    table = pq.read_table(path).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, path)
    with pytest.raises(
        InputError, match=r"test-0\.parquet is damaged: its description|has class names in .* not in .*test-0"
    ):
        read(home)


def test_text_next_to_named_numbers_means_those_classes(home):
    write(home, "train", [0, 1, 2])
    write(home, "test", ["cat", "ant", "bee"], feature=datasets.Value("string"))
    data = read(home)
    assert [data.classes[label] for label in data.splits["test"].labels] == ["cat", "ant", "bee"]


def test_numeric_text_next_to_named_numbers_is_rejected(home):
    write(home, "train", ["0", "1"], feature=datasets.Value("string"))
    write(home, "test", [0, 1])
    with pytest.raises(InputError, match=r"has class names in .*test-0\.parquet but not in "):
        read(home)


def test_cached_commit_must_have_one_list_of_classes(home, monkeypatch, tmp_path):
    from huggingface_hub import constants

    from lrbench.data.layouts import hub_files

    write(home, "train", [0, 1])
    write(home, "test", [0, 1], names=ABC[::-1])
    snapshot = tmp_path / "cache" / "datasets--owner--name" / "snapshots" / ("1" * 40)
    snapshot.parent.mkdir(parents=True)
    (home / "hubset").rename(snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (home / "hub.toml").write_text(LOCAL.replace('"hubset"', '"owner/name"\nrevision = "main"'))
    task = load_task("hub.toml")
    table = datasets.Dataset.from_parquet(str(snapshot / "train-0.parquet"))
    with pytest.raises(InputError, match=r"class 0 is 'ant' in split train and 'cat' in .*test-0\.parquet"):
        hub_files.reject_other_class_names(datasets, task, task.files, None, "1" * 40, {"train": table, "test": table})


def test_folder_is_identified_by_content_without_revision(home):
    for split in ("train", "test"):
        write(home, split, [0, 1])
        write(home, split, [0, 1], folder="copy")
    first = read(home)
    assert first.fingerprint == read(home, LOCAL.replace("hubset", "copy")).fingerprint
    write(home, "test", [0, 1], images=[trees.image(0, 99, size=(9, 9)), trees.image(1, 0)])
    other = read(home)
    assert other.splits["test"].labels.tolist() == [0, 1] and other.fingerprint != first.fingerprint
    assert other.identity.content != first.identity.content


def test_files_named_by_path_are_content(home):
    def at(size):
        trees.save(home / "hubset" / "x.png", trees.image(0, 7, size=(size, size)), "PNG")
        images = paths(home, "x.png")
        return read(home).fingerprint, images.stamp()

    (small, before), (large, after) = at(6), at(16)
    assert small != large and before != after


def test_hub_data_set_needs_a_revision(home):
    with pytest.raises(InputError, match=r"there is no folder hubset or .*hubset, and files\.revision is not set"):
        read(home)
