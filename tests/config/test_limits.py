"""Task and suite files that would take all time, memory or patience are refused by key, value and limit."""

import os

import pytest

from lrbench.config import broken_tasks, load_suite, load_task
from lrbench.config.strict import arguments_problem
from lrbench.config.toml_files import apply_changes
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from tests.helpers import TINY_SUITE


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("schedule.trail=1000000000000", "`schedule.trail` must be 100 or less, not 1000000000000."),
        ("schedule.epochs=1000000000000", "`schedule.epochs` must be 100,000 or less"),
        ("schedule.batch=10000000000", "`schedule.batch` must be 1,048,576 or less"),
        ("schedule.raised=1000000", "`schedule.raised` must be 100,000 or less"),
        ("schedule.boundaries=[" + ",".join(map(str, range(1, 200))) + "]", "`schedule.boundaries` must have no more than 100"),
        ("training.micro_batch=10000000000", "`training.micro_batch` must be 1,048,576 or less"),
        ("input.size=1000000", "`input.size` must be 8,192 or less"),
        ("input.crop_fraction=1e-6", "`input.crop_fraction` must be 0.1 or more"),
        ("input.mean=[nan,nan,nan]", "`input.mean.0` must be "),
        ("input.std=[inf,1.0,1.0]", "`input.std.0` must be "),
        ("probe.strengths=100000000", "`probe.strengths` must be 1,000 or less"),
        ("probe.iterations=1000000000000", "`probe.iterations` must be 1,000,000 or less"),
        ("finetune.updates=1000000000000", "`finetune.updates` must be 10,000,000 or less"),
        (f"finetune.rates={[0.1] * 200}", "`finetune.rates` must have no more than 100 items"),
        (f"knn.neighbours={[1] * 200}", "`knn.neighbours` must have no more than 100 items"),
        (f"seeds={list(range(2000))}", "`seeds` must have no more than 1000 items"),
        (f"seeds={list(range(1000))}\0transfer_seeds={list(range(1000))}", "make 64,000,000 cells, more than 1,000,000"),
        (f"seeds=[{10**300}]", "`seeds.0` must be 9,223,372,036,854,775,807 or less, not 1000"),
        (f"name={'a' * 5000}", "`name` must have no more than 100 characters, not 'aaa"),
        (f"title={'a' * 5000}", "`title` must have no more than 500 characters"),
        ("training.threads=1000000", "`training.threads` must be 4,096 or less"),
        ("model.arguments.width=[nan]", "`model.arguments`: width must be a finite number up to 9,223,372,036,854,775,807"),
        (f"model.arguments.width={[1] * 2000}", "`model.arguments`: it holds 2,010 values, more than 2,000"),
        (f"model.arguments.width={'[' * 20}{']' * 20}", "`model.arguments`: width is nested more than 8 levels deep"),
        (f"seeds={'1' * 5000}", "--set seeds: a number has thousands of digits"),
        (f"seeds=0x{'f' * 5000}", "(after --set): a number has thousands of digits"),
        (f"seeds={'[' * 5000}", "--set seeds: lists or tables are nested too deeply"),
        (f"seeds={'[' * 400}{']' * 400}", "(after --set): lists or tables are nested too deeply"),
        (f"{'a.' * 5000}b=1", "(after --set): lists or tables are nested too deeply"),
        ("name=\udcff", "half of a surrogate pair"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_unbounded_suite_values_are_refused_quickly(home, change, expected):
    with pytest.raises(InputError) as refused:
        load_suite("tiny.toml", change.split("\0"))
    assert expected in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("arguments", "fine"),
    [
        ({"layers": [3, 4, 23, 3], "block": "bottleneck"}, True),
        ({"cfg": {"depths": [3, 3, 27, 3], "dims": [128, 256, 512, 1024]}}, True),
        ({"img_size": 518, "drop_path_rate": 0.1, "num_classes": 21_841}, True),
        ({"rate": float("inf")}, False),
        ({"rate": -(10**400)}, False),
    ],
)
def test_network_arguments_are_bounded(arguments, fine):
    assert (arguments_problem(arguments) is None) == fine


SYNTHETIC = 'name = "mine"\n[files]\nlayout = "synthetic"\ngenerator = "objects"\nsize = 48\ntrain = 100\ntest = 50\n'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("size = 48", "size = 1000000", "`files.size` must be 1,024 or less, not 1000000."),
        ("train = 100", "train = 1000000000", "`files.train` must be 10,000,000 or less"),
        ("test = 50", "test = 50\noptions = { classes = nan }", "`files.options.classes` must be"),
        ("[files]", "classes = 1000000000000\n[files]", "`classes` must be 10,000,000 or less"),
        ("[files]", "counts = { train = 10000000000 }\n[files]", "`counts.train` must be 1,000,000,000 or less"),
        ('"mine"', f'"{"m" * 101}"', "`name` must have no more than 100 characters"),
        ("size = 48", f"size = {'9' * 5000}", "a number has thousands of digits"),
        ("size = 48", f"size = {'[' * 5000}{']' * 5000}", "lists or tables are nested too deeply"),
        ("size = 48", f"{'a.' * 5000}size = 48", "lists or tables are nested too deeply"),
        ("size = 48", "\n".join(f"key{number} = 1" for number in range(500)), "and 490 more problems."),
        ("size = 48", f"{'k' * 5000} = 1", f"`files.{'k' * 80}…` is not a known key"),
        ("size = 48", "#" * (1 << 20), "more than the 1,048,576 that lrbench reads"),
    ],
    ids=lambda value: value[:30],
)
def test_unbounded_task_values_are_refused_quickly(home, old, new, expected):
    (home / "mine.toml").write_text(SYNTHETIC.replace(old, new, 1))
    with pytest.raises(InputError) as refused:
        load_task("mine.toml")
    assert expected in str(refused.value) and "mine.toml" in str(refused.value)


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "endless link", "directory link"])
def test_toml_that_is_not_a_file_is_skipped(home, tmp_path, kind):
    path = tmp_path / "tasks" / "odd.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        target = {"dangling link": "nowhere", "endless link": "odd.toml", "directory link": "."}[kind]
        path.symlink_to(target)
    assert load_task("cub200").name == "cub200"
    [problem] = broken_tasks()
    assert "odd.toml" in problem
    with pytest.raises(InputError, match=r"odd\.toml"):
        load_task(str(path))


@pytest.mark.parametrize("name", ["a/b.toml", "My Data", "m" * 101, "", "../x"])
def test_unusable_task_name_is_reported(home, tmp_path, name):
    (tmp_path / "tasks" / "odd.toml").write_text(f'name = "{name}"\n[files]\nlayout = "folders"\n')
    [problem] = broken_tasks()
    assert "odd.toml: `name` must" in problem


def test_long_and_unknown_names_are_refused(lrbench, home):
    for name in ("a" * 5000, "a" * 5000 + ".toml", "~nobody-of-that-name/x.toml"):
        for command in (["plan", name], ["tasks", name], ["run", name]):
            outcome = lrbench(*command)
            assert outcome.status == 2 and "there is no" in outcome.err


@pytest.mark.parametrize("command", [["transfer", "--snapshot", "stage1"], ["recommend"]])
def test_too_long_transfer_seed_is_refused(lrbench, command):
    outcome = lrbench(*command, "--task", "digits", "--seed", str(10**300))
    assert outcome.status == 2 and "--seed" in outcome.err and "9223372036854775807" in outcome.err


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ('layout = "hub"\nid = "a/b"\nrevision = "1"\nsplits = {}', "`files.splits`: there is no 'train' among []"),
        ('layout = "hub"\nid = "a/b"\nrevision = "1"\nsplits = { train = "t" }', "there is no 'test' among ['train']"),
        ('layout = "torchvision"\ndataset = "CIFAR10"\nsplits = {}', "`files.splits`: there is no 'train' among []"),
        (
            'layout = "torchvision"\ndataset = "CIFAR10"\nsplits = { train = { download = true }, test = {} }',
            "train holds 'download', which lrbench sets",
        ),
        (
            'layout = "torchvision"\ndataset = "CIFAR10"\nsplits = { train = { a = nan }, test = {} }',
            "must be a finite number",
        ),
        ('layout = "table"\nfile = []', "`files.file` must have at least 1 item, not []."),
        ('layout = "folders"\nroot = []', "`files.root` must have at least 1 item"),
        ('layout = "lists"\ntrain = []\ntest = "t.txt"', "`files.train` must have at least 1 item"),
        ('layout = "lists"\ntrain = "../t.txt"\ntest = "t.txt"', "`files.train`: '../t.txt' contains `..`"),
        ('layout = "indexed"\nimages = "a/../../b"', "`files.images`: 'a/../../b' contains `..`"),
        ('layout = "split-folders"\nflat_labels = ["../x"]', "`files.flat_labels.0`: '../x' contains `..`"),
        ('layout = "folders"\nroot = ""', "`files.root`: '' has no name"),
        ('layout = "folders"\nroot = "a\\u0000b"', "`files.root`: 'a\\x00b' holds a control character"),
        (f'layout = "folders"\nroot = "{"a" * 300}"', "is longer than file systems allow"),
        (
            'layout = "folders"\nsplit = { kind = "listed", test = "../l.txt", sha256 = "x" }',
            "'../l.txt' contains `..`",
        ),
    ],
    ids=lambda value: value[:60],
)
def test_unreadable_task_is_refused_with_its_key(home, files, expected):
    (home / "mine.toml").write_text(f'name = "mine"\n[files]\n{files}\n')
    with pytest.raises(InputError) as refused:
        load_task("mine.toml")
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("archive", "expected"),
    [
        ('url = "file:///etc/passwd"', "is not an address that begins with https:// or http://"),
        ('url = "https://example.org/"', "does not end in a file's name"),
        ('url = "https://example.org/.."', "does not end in a file's name"),
        (f'url = "https://example.org/{"x" * 300}"', "does not end in a file's name"),
        ('url = "https://[::1/x"', "is not an address"),
        ('url = "https://e.org/a.tar"\nmirrors = ["ftp://e.org/a.tar"]', "`archives.0.mirrors.0`"),
        ('url = "https://e.org/a.tar"\nunpacks_to = "."', "'.' has no name"),
        ('url = "https://e.org/a.tar"\nunpacks_to = "a.tar"', "is also the downloaded file's name"),
        ('url = "https://e.org/a.tar"\ninner = "*/x"', "must be a file's name, without folders"),
        ('url = "https://e.org/a.tar"\ninto = "a\\u001bb"', "holds a control character"),
    ],
    ids=lambda value: value[:50],
)
def test_unstorable_archive_is_refused(home, archive, expected):
    (home / "mine.toml").write_text(f'name = "mine"\n[files]\nlayout = "folders"\n[[archives]]\n{archive}\n')
    with pytest.raises(InputError) as refused:
        load_task("mine.toml")
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    "dataset", ["VisionDataset", "FakeData", "DatasetFolder", "Cifar10", "wrap_dataset_for_transforms_v2"]
)
def test_invalid_torchvision_class_is_refused(home, dataset):
    (home / "mine.toml").write_text(
        f'name = "mine"\n[files]\nlayout = "torchvision"\ndataset = "{dataset}"\nsplits = {{ train = {{}}, test = {{}} }}\n'
    )
    with pytest.raises(InputError, match=dataset):
        load_task_data(load_task("mine.toml"), [home / "data"])


def test_usual_suite_is_accepted(home):
    (home / "large.toml").write_text(TINY_SUITE.replace('name = "tiny"', 'name = "large"'))
    changes = [f"seeds={list(range(100))}", f"transfer_seeds={list(range(10))}", "schedule.epochs=1000"]
    assert len(load_suite("large.toml", changes).seeds) == 100
    content = {}
    apply_changes(content, ["a.b=1"])
    assert content == {"a": {"b": 1}}
