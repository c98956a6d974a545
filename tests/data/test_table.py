"""The layout `table`: CSV files whose columns name images and classes."""

import json

import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_file
from lrbench.data.loading import load_task_data
from tests import trees
from tests.data.helpers import counts

NAMES = [f"{kind}-{number}.jpg" for kind in ("cat", "dog") for number in range(5)]
ROWS = [f"{name},{name[:3]},{'test' if name[4] in '34' else 'train'}" for name in NAMES]
HEADER = "file,animal,use"
SPLIT = 'split = { kind = "column", name = "use" }\n'


@pytest.fixture
def read(home):
    """Write a task and its tables, and read it."""

    def read(keys=SPLIT, partial=False, pictures=NAMES, **tables):
        for number, name in enumerate(pictures):
            trees.save(home / "data" / "animals" / "photos" / name, trees.image(number % 2, number))
        for table, content in (tables or {"labels": [HEADER, *ROWS]}).items():
            text = content if isinstance(content, bytes) else "".join(f"{line}\n" for line in content).encode()
            (home / "data" / "animals" / f"{table}.csv").write_bytes(text)
        named = "" if keys.startswith("train") else 'file = "labels.csv"\n'
        (home / "mine.toml").write_text(
            f'name = "mine"\n[files]\nlayout = "table"\nroot = "animals"\nimages = "photos"\n{named}{keys}'
        )
        return load_task_data(load_task("mine.toml"), [home / "data"], partial=partial)

    return read


def test_column_assigns_images_to_splits(read):
    data = read()
    assert data.classes == ("cat", "dog") and not data.partial
    assert counts(data, "train") == {"cat": 3, "dog": 3} and counts(data, "test") == {"cat": 2, "dog": 2}
    assert data.splits["test"].ids == ("cat-3.jpg", "cat-4.jpg", "dog-3.jpg", "dog-4.jpg")
    assert data.splits["test"].images.read(0).shape == (48, 64, 3)


def test_split_column_may_have_folds_and_validation(read):
    rows = [f"{name},{name[:3]},{name[4]}" for name in NAMES]
    keys = 'split = { kind = "column", name = "use", train = ["0", "1", "2"], val = "3", test = "4" }\n'
    data = read(keys, labels=[HEADER, *rows])
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [6, 2, 2]
    with pytest.raises(
        InputError, match=r"labels.csv, line 5: column 'use' has the value '3', which is no split of mine"
    ):
        read(keys.replace('val = "3", ', ""), labels=[HEADER, *rows])
    with pytest.raises(
        InputError, match=r"never has the value 'five', so .* has no val images\. Its values are '0', '1'"
    ):
        read(keys.replace('val = "3"', 'val = "five"').replace('"2"', '"2", "3"'), labels=[HEADER, *rows])


def test_table_without_split_gets_a_drawn_split(read, home):
    data = read("", labels=["file,animal", *(row.rpartition(",")[0] for row in ROWS)])
    assert counts(data, "test") == {"cat": 1, "dog": 1} and len(data.drawn) == 2
    (home / "drawn.txt").write_text(data.drawn_list)
    digest = sha256_file(home / "drawn.txt")
    pinned = read(f'split = {{ kind = "listed", test = "drawn.txt", sha256 = "{digest}" }}\n')
    assert pinned.splits["test"].ids == data.splits["test"].ids == data.drawn
    first = read('split = { kind = "first", train = 2, test_images = 1 }\n')
    assert first.splits["train"].ids == ("cat-0.jpg", "cat-1.jpg", "dog-0.jpg", "dog-1.jpg")
    assert first.splits["test"].ids == ("cat-2.jpg", "dog-2.jpg")


def test_each_split_may_have_a_table(read):
    train, test = ([row for row in ROWS if row.endswith(word)] for word in ("train", "test"))
    data = read('train = "a.csv"\ntest = "b.csv"\n', a=[HEADER, *train], b=[HEADER, *test])
    assert counts(data, "train") == {"cat": 3, "dog": 3} and counts(data, "test") == {"cat": 2, "dog": 2}
    with pytest.raises(InputError, match=r"name 1 image for both train and test \('photos/cat-0\.jpg'\)"):
        read('train = "a.csv"\ntest = "b.csv"\n', a=[HEADER, *train], b=[HEADER, *test, train[0]])


def test_each_table_may_have_an_image_folder(read, home):
    for folder in ("seen", "unseen"):
        for number in range(4):
            trees.save(home / "data" / "animals" / folder / f"{number}.jpg", trees.image(number % 2, number))
    rows = [f"{number}.jpg,{number % 2}" for number in range(4)]
    trees.save(home / "data" / "animals" / "seen" / "4.jpg", trees.image(0, 4))
    keys = 'train = "a.csv"\ntest = "b.csv"\n'
    with pytest.raises(InputError, match=r"none of the 5 images in .*a\.csv exists"):
        read(keys, a=["file,class", *rows, "4.jpg,0"], b=["file,class", *rows])
    toml = (home / "mine.toml").read_text()
    (home / "mine.toml").write_text(toml.replace('images = "photos"', 'images = ["seen", "unseen"]'))
    with pytest.raises(InputError, match="for both train and test"):
        load_task_data(load_task("mine.toml"), [home / "data"])
    (home / "data" / "animals" / "unseen" / "5.jpg").write_bytes((home / "data/animals/seen/4.jpg").read_bytes())
    (home / "data" / "animals" / "b.csv").write_text("file,class\n5.jpg,0\n")
    data = load_task_data(load_task("mine.toml"), [home / "data"], partial=True)
    assert data.splits["test"].images.paths == ("unseen/5.jpg",) and len(data.splits["train"]) == 5


def test_columns_are_found_by_name_and_ending_can_be_added(read):
    rows = [f'"{name[:3]}, small";{name[:-4]}' for name in NAMES]
    keys = 'separator = ";"\nimage = "id"\nlabel = "breed"\nending = ".jpg"\n'
    data = read(keys, labels=("\ufeffbreed;id\r\n" + "\r\n".join(rows)).encode())
    assert data.classes == ("cat, small", "dog, small") and data.splits["train"].ids[0].endswith(".jpg")
    with pytest.raises(InputError, match=r"has no column 'breeds', which task mine needs \(files\.label\).*'breed'"):
        read(keys.replace("breed", "breeds"), labels=("breed;id\n" + "\n".join(rows)).encode())
    with pytest.raises(
        InputError, match=r'none of the 10 images .* cat-0\.jpg exists: set ending = "\.jpg" under \[files\]'
    ):
        read(keys.replace('ending = ".jpg"\n', ""), labels=("breed;id\n" + "\n".join(rows)).encode())


def test_numeric_classes_are_sorted_by_number(read):
    data = read(labels=[HEADER, *(row.replace(",cat,", ",10,").replace(",dog,", ",9,") for row in ROWS)])
    assert data.classes == ("9", "10")


def test_missing_images_leave_the_split_unchanged(read, home):
    whole = read("")
    lost = home / "data" / "animals" / "photos" / whole.splits["train"].ids[0]
    lost.unlink()
    with pytest.raises(InputError, match=r"incomplete: 1 of 8 listed train images are missing"):
        read("", pictures=[])
    assert read("", pictures=[], partial=True).splits["test"].ids == whole.splits["test"].ids


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [HEADER, "cat-0.jpg"],
            r"labels\.csv, line 2: 1 entry, but the first line names 3 columns\. Correct that line\.$",
        ),
        (
            [HEADER, "cat-0.jpg,cat,small,train"],
            "line 2: 4 entries, .* Put an entry that contains ',' in double quotes",
        ),
        ([HEADER, "cat-0.jpg,cat"], r"labels\.csv, line 2: 2 entries, but the first line names 3 columns"),
        ([HEADER, *ROWS[:2], ",cat,train"], "line 4: the image is missing"),
        ([HEADER, *ROWS[:2], "cat-2.jpg, ,train"], "line 4: the class is missing"),
        ([HEADER, *ROWS, ROWS[0]], "names the image 'cat-0.jpg' in lines 2 and 12. Delete one of them"),
        ([HEADER, *ROWS, "./x/..//cat-0.jpg,dog,test"], "is outside the image folder"),
        ([HEADER, *ROWS, "././cat-0.jpg,dog,test"], "lines 2 and 12, with the classes 'cat' and 'dog'"),
        ([HEADER, "../cat-0.jpg,cat,train"], r"line 2, names .* is outside the image folder"),
        ([HEADER, "/photos/cat-0.jpg,cat,train"], r"line 2, names .* an absolute path\. Make it relative"),
        ([HEADER, "C:\\photos\\cat-0.jpg,cat,train"], "an absolute path"),
        (["gone.jpg,cat,train", *ROWS[1:]], "the first line of .*labels.csv names an image, 'gone.jpg'"),
        ([HEADER], "has columns but no rows"),
        (ROWS, "the first line of .*labels.csv names an image, 'cat-0.jpg'"),
        (["file;animal", "cat-0.jpg;cat"], "separator is ';', set separator = \";\" under"),
        (b"", "is empty"),
        ("file,animal\ncat-0.jpg,ch\xe4t\n".encode("latin-1"), "not a text file in UTF-8: .* Save it as CSV in UTF-8"),
        ([HEADER, '"cat-0.jpg,cat,train'], r"line 2: unexpected end of data"),
    ],
)
def test_invalid_table_error_names_the_line(read, content, message):
    with pytest.raises(InputError, match=message):
        read(labels=content)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('train = "a.csv"\n', "name one table of all images"),
        ('file = "labels.csv"\ntrain = "a.csv"\ntest = "b.csv"\n', "not both"),
        (
            'file = "x.csv"\nsplit = { kind = "column", name = "use", train = ["0", "1"], test = "1" }\n',
            "the value '1' names more than one split",
        ),
        ('file = "x.csv"\nseparator = "\\n"\n', "separator"),
        ('train = "a.csv"\ntest = "b.csv"\n' + SPLIT, "split divides one table of all images"),
        ('file = "labels.csv"\nsplit = { kind = "column", nam = "use" }\n', "`files.split.nam`.* Did you mean 'name'"),
    ],
)
def test_contradictory_settings_are_rejected(home, keys, message):
    (home / "mine.toml").write_text(f'name = "mine"\n[files]\nlayout = "table"\n{keys}')
    with pytest.raises(InputError, match=message):
        load_task("mine.toml")


def test_spaces_backslashes_and_row_numbers_are_accepted(read, home):
    rows = [
        f"{number}, .\\{row.split(',')[0]}, {row.split(',')[1]} , {row.split(',')[2]}"
        for number, row in enumerate(ROWS)
    ]
    data = read(labels=[", file , animal , use", *rows])
    assert data.classes == ("cat", "dog") and data.splits["test"].ids[0] == "cat-3.jpg"


def test_only_one_column_needs_a_name(read):
    rows = [f"{row.split(',')[1]},{row.split(',')[0]},{row.split(',')[2]}" for row in ROWS]
    for key in ('image = "file"\n', 'label = "animal"\n'):
        assert read(SPLIT + key, labels=["animal,file,use", *rows]).classes == ("cat", "dog")


def test_tsv_columns_are_separated_by_tabs(read, home):
    read()
    (home / "data" / "animals" / "labels.tsv").write_text("\n".join([HEADER, *ROWS]).replace(",", "\t"))
    toml = (home / "mine.toml").read_text()
    (home / "mine.toml").write_text(toml.replace("labels.csv", "labels.tsv"))
    assert load_task_data(load_task("mine.toml"), [home / "data"]).classes == ("cat", "dog")


def test_split_list_with_images_not_in_table_is_reported(read, home):
    for lines, message in (
        ("cat-0\ndog-0\n", "none of the 2 test images in drawn.txt is in"),
        ("cat-0.jpg\nold.jpg\n", None),
    ):
        (home / "drawn.txt").write_text(lines)
        pinned = f'split = {{ kind = "listed", test = "drawn.txt", sha256 = "{sha256_file(home / "drawn.txt")}" }}\n'
        if message:
            with pytest.raises(InputError, match=message):
                read(pinned)
        else:
            with pytest.raises(InputError, match=r"1 of 2 test images in the split list are not in .*'old\.jpg'"):
                read(pinned)


def test_validation_and_test_images_must_differ(read):
    train, test = ([row for row in ROWS if row.endswith(word)] for word in ("train", "test"))
    with pytest.raises(InputError, match="name 4 images for both test and val"):
        read(
            'train = "a.csv"\ntest = "b.csv"\nval = "c.csv"\n', a=[HEADER, *train], b=[HEADER, *test], c=[HEADER, *test]
        )


def test_single_class_is_rejected(read):
    with pytest.raises(InputError, match=r"has only one class, '0\.3'.*correct the folder or the column"):
        read("", labels=["id,cat,dog", *(f"{name},0.3,0.7" for name in NAMES)])


def test_superfluous_ending_is_reported(read):
    with pytest.raises(InputError, match=r"cat-0\.jpg exists: remove ending under \[files\]"):
        read(SPLIT + 'ending = ".jpg"\n')


def test_table_given_as_list_is_reported(home):
    trees.save(home / "data" / "a.jpg", trees.image(0, 0))
    for split in ("train", "test"):
        (home / "data" / f"{split}.csv").write_text("file,animal\na.jpg,cat\n")
    (home / "mine.toml").write_text(
        'name = "mine"\n[files]\nlayout = "lists"\ntrain = "train.csv"\ntest = "test.csv"\n'
    )
    with pytest.raises(InputError, match='use layout = "table"'):
        load_task_data(load_task("mine.toml"), [home / "data"])


def test_table_can_be_transferred_to(lrbench, read, home):
    read()
    done = lrbench("transfer", "--snapshot", "timm:test_resnet", "--task", "mine.toml", "--protocol", "knn", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["test_count"] == 4
    shown = lrbench("data", "verify", "mine.toml")
    assert shown.status == 0 and "2 classes, 6 train, 4 test images" in shown.out


def test_data_root_that_is_the_folder_gets_a_hint(read, home):
    read()
    inside = home / "data" / "animals"
    with pytest.raises(InputError, match=r'animals is that folder, set root = "\."'):
        load_task_data(load_task("mine.toml"), [inside])
    with pytest.raises(InputError) as caught:
        load_task_data(load_task("mine.toml"), [home])
    assert "set root =" not in str(caught.value)
