"""Labels of flat test folders: class numbers, and damaged or ambiguous label files."""

import io
import os

import numpy as np
import pytest
import torch
from scipy.io import savemat

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from tests import trees

TOML = 'name = "mine"\n\n[files]\nlayout = "split-folders"\nroot = "mine"\nflat_labels = ["{}"]\n'


def flat(home, classes, labels="labels.txt"):
    """Write two training images and one test image of each class; the latter are `test/<position of the class>.png`."""
    for number, name in enumerate(classes):
        trees.save(home / "mine" / "train" / name / f"{number}.png", trees.image(number, 0), "PNG")
        trees.save(home / "mine" / "test" / f"{number}.png", trees.image(number, 1), "PNG")
    (home / "mine.toml").write_text(TOML.format(labels))
    return home / "mine" / labels


def read(home):
    """Return the class of each test image by name."""
    data = load_task_data(load_task("mine.toml"), [home])
    test = data.splits["test"]
    return {name.rpartition("/")[2]: data.classes[label] for name, label in zip(test.ids, test.labels, strict=True)}


@pytest.mark.parametrize("form", ["{}", "{:02d}"])
def test_number_means_the_class_of_that_name(home, form):
    classes = [form.format(number) for number in range(12)]
    flat(home, classes).write_text("".join(f"{number}.png {number}\n" for number in range(12)))
    assert read(home) == {f"{number}.png": name for number, name in enumerate(classes)}


def test_classes_named_from_one_are_not_counted_from_zero(home):
    labels = flat(home, [str(number) for number in range(1, 13)])
    labels.write_text("".join(f"{number}.png {number + 1}\n" for number in range(12)))
    assert read(home)["1.png"] == "2"
    labels.write_text("".join(f"{number}.png {number}\n" for number in range(12)))
    with pytest.raises(
        InputError, match=r"labels\.txt, line 1: class 0 does not exist; the names of the 12 classes are numbers"
    ):
        read(home)


def test_number_is_position_of_unambiguous_names(home):
    flat(home, ["ant", "bee", "cat"]).write_text("0.png 0\n1.png 1\n2.png 2\n")
    assert read(home) == {"0.png": "ant", "1.png": "bee", "2.png": "cat"}


def test_missing_labelled_image_is_reported(home):
    flat(home, ["ant", "bee"]).write_text("0.png 0\n1.png 1\n2.png 1\n")
    with pytest.raises(InputError, match=r"1 of 3 images in .*labels\.txt are missing from test \('2'\)"):
        read(home)


@pytest.mark.parametrize(
    "classes", [["c1", "c2", "c10"], ["1", "2", "other"], ["apple", "Zebra"], ["0", "1", "10", "2", "other"]]
)
def test_ambiguous_class_number_is_rejected(home, classes):
    flat(home, classes).write_text("".join(f"{number}.png {number}\n" for number in range(len(classes))))
    with pytest.raises(
        InputError, match=r"labels\.txt gives classes as numbers, which are ambiguous: .* CSV file of image"
    ):
        read(home)


def test_two_classes_with_one_number_are_rejected(home):
    flat(home, ["1", "01", "2"]).write_text("0.png 1\n1.png 1\n2.png 2\n")
    with pytest.raises(InputError, match=r"gives classes as numbers, but '0?1' and '0?1' are the same number"):
        read(home)


@pytest.mark.parametrize(
    ("labels", "content"), [("labels.txt", "0.png 0\n0.png 1\n"), ("labels.csv", "i,c\n0,ant\n0,bee\n")]
)
def test_image_with_two_classes_is_rejected(home, labels, content):
    flat(home, ["ant", "bee"], labels).write_text(content)
    with pytest.raises(
        InputError, match=r"labels\.(txt|csv), line [23]: image '0' has class 'bee', but an earlier line has 'ant'"
    ):
        read(home)


@pytest.mark.parametrize("labels", ["labels.txt", "labels.csv"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "0.png café\n".encode("latin-1"),
            r"labels\.\w+ is not a text file in UTF-8: .* Save it (as CSV )?in UTF-8",
        ),
        (
            "0.png 0\n".encode("utf-16"),
            r"labels\.\w+ is not a text file in UTF-8: .*looks like UTF-16\). Save it (as CSV )?in UTF-8",
        ),
    ],
)
def test_labels_in_other_encodings_are_rejected(home, labels, content, message):
    flat(home, ["ant", "bee"], labels).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(home)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0.png " + "1" * 5000, r"line 1: '0\.png 111.*…' is not an image and a class number"),
        ("0.png ²", "is not an image and a class number"),
        ("0" * 9000, "line 1: the line has 9,000 characters, more than the limit of 8,192"),
    ],
)
def test_endless_numbers_and_lines_are_rejected(home, content, message):
    flat(home, ["ant", "bee"]).write_text(content)
    with pytest.raises(InputError, match=message) as refused:
        read(home)
    assert len(str(refused.value)) < 800


def test_huge_line_is_not_printed(home):
    labels = flat(home, ["ant", "bee"])
    labels.write_bytes(b"a" * (200 << 20))
    with pytest.raises(InputError, match="line 1: the line has 209,715,200 characters") as refused:
        read(home)
    assert len(str(refused.value)) < 500
    with labels.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="has 1,099,511,627,776 bytes, more than the"):
        read(home)


@pytest.mark.parametrize("labels", ["labels.txt", "labels.csv", "labels.bin"])
def test_label_pipe_does_not_block(home, labels):
    os.mkfifo(flat(home, ["ant", "bee"], labels))
    with pytest.raises(InputError, match=r"labels\.\w+ is a pipe, not a regular file"):
        read(home)


def kit(home, synsets=None, *, compressed=False):
    folder = flat(home, ["ant", "bee"], "kit") / "data"
    folder.mkdir(parents=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    rows = np.array([(1, "ant"), (2, "bee")], dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": rows.reshape(-1, 1) if synsets is None else synsets}, do_compression=compressed)
    return folder / "meta.mat", buffer.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_development_kit_uses_ilsvrc_class_numbers(home, compressed):
    rows = np.array(
        [(7, "bee", "a word", np.zeros((0, 0))), (3, "ant", "two words", np.arange(3.0))],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("children", object)],
    )
    path, content = kit(home, rows.reshape(-1, 1), compressed=compressed)
    path.write_bytes(content)
    path.with_name("ILSVRC2012_validation_ground_truth.txt").write_text("7\n3\n")
    for number, name in enumerate(("ILSVRC2012_val_00000001.png", "ILSVRC2012_val_00000002.png")):
        (home / "mine" / "test" / f"{number}.png").rename(home / "mine" / "test" / name)
    assert read(home) == {"ILSVRC2012_val_00000001.png": "bee", "ILSVRC2012_val_00000002.png": "ant"}


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_development_kit_is_rejected(home, compressed):
    path, content = kit(home, compressed=compressed)
    for number in range(300):
        random = np.random.default_rng(number)
        damaged = bytearray(content[: random.integers(1, len(content) + 1)] if number % 3 == 0 else content)
        for position in random.integers(0, len(damaged), 1 + number % 4):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read(home)
        except InputError as error:
            assert (
                "meta.mat" in str(error) or "kit labels none of the images" in str(error) or "incomplete" in str(error)
            )


@pytest.mark.parametrize("synsets", [np.zeros((2, 2)), np.array([{"a": 1}], dtype=object)])
def test_development_kit_without_classes_is_rejected(home, synsets):
    path, content = kit(home, synsets)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"meta\.mat is damaged: .*synsets"):
        read(home)


def shared(depth):
    nested = ["x"]
    for _ in range(depth):
        nested = [nested, nested]
    return nested


@pytest.mark.parametrize("second", [shared(40), [["ant"]], "ant", torch.zeros(1), {"ant": 1}, None])
def test_meta_bin_without_class_list_is_rejected(home, second):
    torch.save(({}, second), flat(home, ["ant", "bee"], "meta.bin"))
    with pytest.raises(InputError, match=r"meta\.bin is not torchvision's meta\.bin"):
        read(home)
