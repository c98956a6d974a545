from types import SimpleNamespace

import pytest
import timm

from lrbench.config import find_suites, find_tasks, load_suite, load_task
from lrbench.config.schedule import snapshot_keys
from lrbench.config.suite import Input
from lrbench.core.errors import InputError
from lrbench.leaderboard.evidence import fits_null
from lrbench.models.timm_configuration import input_of
from tests.helpers import TINY_SUITE

REAL = {"imagenet1k", "caltech256", "cub200", "indoor67", "sketch250"}


def test_documented_tasks_and_suites_are_registered():
    assert set(find_tasks()) >= REAL | {"toy-source", "toy-objects", "toy-birds", "toy-indoor", "toy-sketch", "digits"}
    assert set(find_suites()) >= {"quick", "imagenet"}


@pytest.mark.parametrize("name", sorted(find_tasks()))
def test_every_shipped_task_loads(name):
    assert load_task(name).name == name


@pytest.mark.parametrize(
    ("name", "train", "test", "classes", "metric"),
    [
        ("imagenet1k", 1_281_167, 50_000, 1000, "top1"),
        ("caltech256", 15_420, 15_187, 257, "mean_per_class"),
        ("cub200", 5_994, 5_794, 200, "top1"),
        ("indoor67", 5_360, 1_340, 67, "mean_per_class"),
        ("sketch250", 16_000, 4_000, 250, "top1"),
        ("sketch250-fold2", 13_500, 6_500, 250, "top1"),
        ("caltech256-random30", 7_710, 22_897, 257, "mean_per_class"),
        ("caltech256-l2sp", 15_420, 5_140, 257, "mean_per_class"),
        ("caltech256-griffin", 7_680, 6_400, 256, "mean_per_class"),
        ("sun397", 19_850, 19_850, 397, "top1"),
        ("caltech101", 3_030, 5_647, 101, "mean_per_class"),
        ("eurosat", 21_600, 5_400, 10, "top1"),
        ("food101", 75_750, 25_250, 101, "top1"),
        ("cifar10", 50_000, 10_000, 10, "top1"),
        ("cifar100", 50_000, 10_000, 100, "top1"),
        ("cars", 8_144, 8_041, 196, "top1"),
        ("aircraft", (3_334, 3_333), 3_333, 100, "mean_per_class"),
        ("dtd", (1_880, 1_880), 1_880, 47, "top1"),
        ("pets", 3_680, 3_669, 37, "mean_per_class"),
        ("flowers102", (1_020, 1_020), 6_149, 102, "mean_per_class"),
        ("places365", 1_803_460, 36_500, 365, "top1"),
        ("inat2021-mini", 500_000, 100_000, 10_000, "top1"),
        ("vtab-clevr-count", (800, 200), 15_000, 8, "top1"),
        ("vtab-retinopathy", (800, 200), 42_670, 5, "top1"),
    ],
)
def test_task_counts_match_published_figures(name, train, test, classes, metric):
    task = load_task(name)
    trained = {"train": train} if isinstance(train, int) else dict(zip(("train", "val"), train, strict=True))
    assert (task.counts, task.classes, task.metric) == ({**trained, "test": test}, classes, metric)


# Smallest and largest number of images per class by split; None where no number is pinned.
BY_CLASS = {
    "imagenet1k": {"train": (732, 1300), "test": (50, 50)},
    "imagenet100": {"train": (732, 1300), "test": (50, 50)},
    "caltech256": {"train": (60, 60), "test": (20, None)},
    "caltech256-objects": {"train": (60, 60), "test": (20, None)},
    "caltech256-random60": {"train": (60, 60), "test": (20, None)},
    "caltech256-random30": {"train": (30, 30), "test": (50, None)},
    "caltech256-l2sp": {"train": (60, 60), "test": (20, 20)},
    "caltech256-griffin": {"train": (30, 30), "test": (25, 25)},
    "cub200": {"train": (29, 30), "test": (11, 30)},
    "indoor67": {"train": (77, 83), "test": (17, 23)},
    "sketch250": {"train": (64, 64), "test": (16, 16)},
    "sketch250-fold0": {"train": (53, 54), "test": (26, 27)},
    "sketch250-fold1": {"train": (53, 54), "test": (26, 27)},
    "sketch250-fold2": {"train": (53, 54), "test": (26, 27)},
    "sun397": {"train": (50, 50), "test": (50, 50)},
    "caltech101": {"train": (30, 30)},
    "food101": {"train": (750, 750), "test": (250, 250)},
    "cifar10": {"train": (5000, 5000), "test": (1000, 1000)},
    "cifar100": {"train": (500, 500), "test": (100, 100)},
    "dtd": {"train": (40, 40), "val": (40, 40), "test": (40, 40)},
    "flowers102": {"train": (10, 10), "val": (10, 10)},
    "places365": {"train": (3068, 5000), "test": (100, 100)},
    "inat2021-mini": {"train": (50, 50), "test": (10, 10)},
    "imagenet-v2": {"test": (10, 10)},
    "imagenet-a": {"test": (3, 100)},
    "imagenet-r": {"test": (51, 430)},
    "imagenet-sketch": {"test": (50, 51)},
}


def test_images_per_class_match_published_bounds():
    pinned = {}
    for name in find_tasks():
        task = load_task(name)
        bounds = {split: (task.least.get(split), task.most.get(split)) for split in {**task.least, **task.most}}
        if bounds:
            pinned[name] = bounds
    assert pinned == BY_CLASS


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("caltech256", {"md5": "67b4f42ca05d46448c6bb8ecd2220f6d", "images": 30_607}),
        ("cub200", {"md5": "97eceeb196236b17998738112f37df78", "images": 11_788}),
        ("indoor67", {"bytes": 2_592_010_240, "images": 15_620}),
        ("sketch250", {"images": 20_000}),
        ("sun397", {"md5": "8ca2778205c41d23104230ba66911c7a"}),
        ("caltech101", {"md5": "3138e1922a9193bfa496528edbbc45d0"}),
        ("eurosat", {"md5": "c8fa014336c82ac7804f0398fcb19387", "images": 27_000}),
    ],
)
def test_archives_have_published_hashes_or_sizes(name, known):
    first = load_task(name).archives[0]
    assert {key: getattr(first, key) for key in known} == known


def test_indoor67_lists_have_official_hashes():
    lists = {
        "TrainImages.txt": "fd987513d0f623c424252770fac3f354",
        "TestImages.txt": "f00bef137f39d51e4894303a7bf4c2d4",
    }
    task = load_task("indoor67")
    assert {archive.url.rpartition("/")[2]: archive.md5 for archive in task.archives[1:]} == lists
    assert task.files.hashes == {
        split: f"md5:{lists[name]}" for split, name in (("train", "TrainImages.txt"), ("test", "TestImages.txt"))
    }


def test_like_with_another_layout_takes_no_keys_of_files(home):
    (home / "mine.toml").write_text('name = "mine"\nlike = "pets"\n[files]\nlayout = "folders"\nroot = "photos"\n')
    task = load_task("mine.toml")
    assert (task.files.layout, task.files.root, task.metric) == ("folders", "photos", load_task("pets").metric)


def test_like_completes_a_task(home):
    path = home / "mine.toml"
    path.write_text(
        'name = "mine"\nlike = "cub200"\ncounts = { train = 3000 }\n[files]\nroot = "birds"\n[about]\nlicence = "Mine."\n'
    )
    mine, other = load_task(str(path)), load_task("cub200")
    assert mine.files == other.files.model_copy(update={"root": "birds"}) and mine.archives == other.archives
    # Other tables are replaced as a whole.
    assert mine.counts == {"train": 3000} and mine.metric == other.metric and mine.classes == 200
    assert mine.about.licence == "Mine." and mine.about.notes == other.about.notes


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        ('"cub20"', "`like` names a registered task, not 'cub20'. Did you mean 'cub200'?"),
        ("3", "`like` names a registered task, not 3. `lrbench tasks` lists them"),
        ('"imagenet100"', "'imagenet100' is itself like 'imagenet1k'. Name that one"),
    ],
)
def test_like_of_an_unknown_task_is_refused(home, like, expected):
    (home / "mine.toml").write_text(f'name = "mine"\nlike = {like}\n')
    with pytest.raises(InputError) as caught:
        load_task(str(home / "mine.toml"))
    assert expected in str(caught.value) and "mine.toml" in str(caught.value)


def test_quick_matches_the_readme():
    suite = load_suite("quick")
    assert suite.seeds == (0, 1, 2)
    assert suite.arms == ("step", "hold", "constant", "average", "constant-average", "trail")
    assert suite.protocols == ("probe", "knn")
    assert len(suite.probe.grid()) == 9
    assert len(suite.targets) == 5


def test_imagenet_suite_has_the_papers_recipe():
    suite = load_suite("imagenet")
    schedule = suite.schedule
    assert (schedule.epochs, schedule.boundaries, schedule.rates) == (90, (30, 60), (0.1, 0.01, 0.001))
    assert (schedule.batch, schedule.momentum, schedule.weight_decay) == (256, 0.9, 1e-4)
    assert "finetune" in suite.protocols and not suite.uses("finetune", "trail")
    # Without eight snapshots that have seen one rate alone C4 could never be decided.
    rows = {(key.arm, key.stage) for key in snapshot_keys(suite, seed=0)}
    assert sum(fits_null(suite, row) for row in rows) >= 8
    assert len(suite.probe.grid()) == 45
    assert suite.probe.grid()[0] == 1e5 and suite.probe.grid()[-1] == 1e-6


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ("batch = 32", "batchs = 32", "schedule.batchs", "Did you mean 'batch'?"),
        ("batch = 32", 'batch = "32"', "schedule.batch", "must be a whole number or all, not '32'."),
        ("boundaries = [3, 5]", "boundaries = [5, 3]", "schedule.boundaries", "must increase"),
        ("boundaries = [3, 5]", "boundaries = [3, 6]", "schedule", "must be before the end"),
        ("rates = [0.1, 0.01, 0.001]", "rates = [0.1, 0.01]", "schedule", "3 stages"),
        ("rates = [0.1, 0.01, 0.001]", "rates = [0.1, 0.2, 0.001]", "schedule.rates", "must decrease"),
        ("rates = [0.1, 0.01, 0.001]", "rates = [0.1, 0.01, 0.0]", "schedule.rates", "greater than 0"),
        ("rates = [0.1, 0.01, 0.001]", "rates = [nan, 0.01, 0.001]", "schedule.rates", ""),
        ("rates = [0.1, 0.01, 0.001]", "rates = [inf, 0.01, 0.001]", "schedule.rates", ""),
        (
            'arms = ["step", "hold", "constant", "average"]',
            'arms = ["step", "average"]',
            "arm 'average'",
            "starts from 'hold'",
        ),
        (
            'arms = ["step", "hold", "constant", "average"]',
            'arms = ["step", "hold", "constant", "constant-average"]',
            "arm 'constant-average'",
            "starts from 'average'",
        ),
        (
            'arms = ["step", "hold", "constant", "average"]',
            'arms = ["step", "hold", "average", "constant-average"]',
            "arm 'constant-average'",
            "starts from 'constant'",
        ),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds", "named twice"),
        (
            '["tiny-objects", "tiny-indoor"]',
            '["tiny-objects", "mine.toml"]',
            "targets",
            "there is no task file",
        ),
        ("strengths = 3", "strengths = 1", "probe", "strengths = 1 needs weakest and strongest"),
        ('source = "tiny-source"', "", "source", "missing"),
    ],
)
def test_suite_errors_name_file_key_and_expectation(home, old, new, key, expected):
    (home / "wrong.toml").write_text(TINY_SUITE.replace(old, new))
    with pytest.raises(InputError) as refused:
        load_suite("wrong.toml")
    message = str(refused.value)
    assert "wrong.toml" in message and key in message and expected in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"folders"', '"folder"', "`files.layout` must be one of folders, split-folders, lists, table, indexed, hub, "
         "torchvision, synthetic, test-folders, test-labels, not 'folder'. Did you mean 'folders'?"),
        ('layout = "folders"', "", "`files.layout` is missing: it is one of folders, "),
        ('root = "x"', "root = 3", "`files.root` must be text (in quotes) or a list (in brackets), not 3."),
        ('root = "x"', 'split = { kind = "random" }', "`files.split.kind` must be one of first, listed, drawn, not 'random'."),
        ('root = "x"', "split = { test = 0.5 }", "`files.split.kind` is missing: it is one of first, listed, drawn."),
        ('"mine"', '"My Data"', "`name` must consist of lowercase letters, digits, `.`, `_` and `-`, not 'My Data'."),
        ("[files]", "counts = { training = 5 }\n[files]", "`counts`: a key must be one of train, val, test, not 'training'. "
         "Did you mean 'train'?"),
        ("[files]", "classes = 1\n[files]", "`classes` must be 2 or more, not 1."),
        ("[files]", "classes = true\n[files]", "`classes` must be a whole number, not true."),
        ("[files]", 'metric = "top-1"\n[files]', "`metric` must be one of top1, mean_per_class, not 'top-1'. Did you mean"),
        ('[files]\nlayout = "folders"\nroot = "x"', 'files = "x"', "`files` must be a table, not 'x'."),
    ],
)  # fmt: skip
def test_task_errors_are_in_plain_words(home, old, new, expected):
    content = 'name = "mine"\n[files]\nlayout = "folders"\nroot = "x"\n'
    assert old in content
    (home / "mine.toml").write_text(content.replace(old, new))
    with pytest.raises(InputError) as refused:
        load_task("mine.toml")
    assert str(refused.value).startswith(f"mine.toml: {expected}")


def test_list_with_wrong_items_is_not_called_empty(home):
    with pytest.raises(InputError) as refused:
        load_suite("tiny.toml", ['arms=["stepp"]'])
    assert str(refused.value).endswith("not 'stepp'. Did you mean 'step'?") and "at least" not in str(refused.value)
    with pytest.raises(InputError, match=r"`seeds` must have at least 1 item, not \[\]\."):
        load_suite("tiny.toml", ["seeds=[]"])


def test_unknown_key_is_refused(home):
    path = home / "mine.toml"
    path.write_text('name = "mine"\nmetrik = "top1"\n\n[files]\nlayout = "folders"\n')
    with pytest.raises(InputError, match=r"mine\.toml.*`metrik` is not a known key.*'metric'"):
        load_task(str(path))


def test_duplicate_task_name_is_refused_with_both_files(home, tmp_path):
    (tmp_path / "tasks" / "twin.toml").write_text('name = "cub200"\n\n[files]\nlayout = "folders"\n')
    with pytest.raises(InputError, match=r"two tasks are called 'cub200'.*cub200\.toml.*twin\.toml"):
        load_task("cub200")
    assert load_task("indoor67").name == "indoor67"


def test_broken_task_file_does_not_affect_others(lrbench, home, tmp_path):
    (tmp_path / "tasks" / "torn.toml").write_text('name = "torn')
    (tmp_path / "tasks" / "nameless.toml").write_text('[files]\nlayout = "folders"\n')
    (tmp_path / "tasks" / "wrong.toml").write_text('name = "wrong"\nmetrik = "top1"\n[files]\nlayout = "folders"\n')
    listed = lrbench("tasks")
    assert listed.status == 0 and "cub200" in listed.out and "\nwrong " not in listed.out
    for words in ("torn.toml is not well-formed TOML", "nameless.toml: the key `name` is missing", "`metrik` is not a"):
        assert words in listed.err
    shown = lrbench("doctor")
    assert shown.status == 0 and "torn.toml is not well-formed" in shown.out and "cannot be read" in shown.out
    assert lrbench("plan", "tiny.toml").status == 0
    unknown = lrbench("tasks", "torn")
    assert unknown.status == 2 and "may be the one" in unknown.err and "torn.toml is not well-formed" in unknown.err
    assert "`metrik` is not a known key" in lrbench("tasks", "wrong").err


def test_errors_mention_sha256sum_and_like(home):
    path = home / "mine.toml"
    path.write_text(
        'name = "mine"\n[files]\nlayout = "folders"\nroot = "m"\nsplit = { kind = "listed", test = "l.txt" }\n'
    )
    with pytest.raises(InputError, match=r"`files\.split\.sha256` is missing \(`sha256sum`"):
        load_task(str(path))
    path.write_text('name = "mine"\nliek = "cub200"\n[files]\nlayout = "folders"\nroot = "m"\n')
    with pytest.raises(InputError, match=r"`liek` is not a known key\. Did you mean 'like'\? Known keys: .*like"):
        load_task(str(path))


def test_file_with_a_registered_name_is_refused(home):
    path = home / "mine.toml"
    path.write_text('name = "digits"\n\n[files]\nlayout = "folders"\n')
    with pytest.raises(InputError, match="their results would mix"):
        load_task(str(path))


def test_identical_copy_of_a_registered_file_is_accepted(home):
    shipped = {"cub200": (find_tasks, load_task), "quick": (find_suites, load_suite)}
    for name, (find, load) in shipped.items():
        copy = home / "copy.toml"
        copy.write_bytes(find()[name].path.read_bytes() + b"# mine\n")
        assert load(str(copy)).name == name
    folder = home.parent / "tasks"
    (folder / "copy.toml").write_bytes(find_tasks()["cub200"].path.read_bytes())
    assert load_task("cub200").name == "cub200" and find_tasks()["cub200"].twin is None


def test_misspelt_name_gets_a_suggestion(home):
    with pytest.raises(InputError, match="Did you mean 'cub200'"):
        load_task("cub20")


def test_set_changes_values_and_validates(home):
    suite = load_suite("tiny.toml", ["schedule.batch=16", "name=other", "probe.strengths=5"])
    assert (suite.schedule.batch, suite.name, suite.probe.strengths) == (16, "other", 5)
    with pytest.raises(InputError, match=r"schedule\.bach"):
        load_suite("tiny.toml", ["schedule.bach=16"])
    with pytest.raises(InputError, match="key=value"):
        load_suite("tiny.toml", ["schedule.batch"])


def test_default_crop_mode_is_not_written():
    suite = load_suite("quick")
    assert "crop_mode" not in suite.model_dump(mode="json")["input"]
    squashed = suite.input.model_copy(update={"crop_mode": "squash"})
    assert Input.model_validate_json(squashed.model_dump_json(), strict=True) == squashed != suite.input


def test_network_input_matches_timms_evaluation():
    named = ("resnet50.a1_in1k", "convnext_base.fb_in22k_ft_in1k_384", "dm_nfnet_f0.dm_in1k")
    inputs = [input_of(SimpleNamespace(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())) for name in named]
    assert [(value.size, value.crop_fraction, value.crop_mode) for value in inputs] == [
        (224, 0.95, "center"), (384, 1.0, "squash"), (192, 0.9, "squash")
    ]  # fmt: skip


def test_error_mentions_a_toml_file_of_that_name(home):
    (home / "mine.toml").write_text('name = "mine"\n[files]\nlayout = "folders"\n')
    with pytest.raises(InputError, match=r"no task called 'mine'\. A file mine\.toml is here: give its path\."):
        load_task("mine")


def test_task_given_as_suite_is_recognised(home):
    (home / "mine.toml").write_text('name = "mine"\n[files]\nlayout = "folders"\n')
    for name in ("mine.toml", "cub200"):
        with pytest.raises(InputError, match=rf"^{name} is a task, not a suite\. `lrbench transfer .* --task {name}`"):
            load_suite(name)
    (home / "all.toml").write_text((home / "tiny.toml").read_text())
    for name in ("all.toml", "quick"):
        with pytest.raises(InputError, match=rf"^{name} is a suite, not a task\. `lrbench run {name}` runs it"):
            load_task(name)
