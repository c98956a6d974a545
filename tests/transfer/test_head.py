"""A network's own classifier on further test images of its source."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lrbench.config import load_task
from lrbench.data.examples import Split
from lrbench.data.loading import load_task_data
from lrbench.store.results import read_result
from lrbench.store.snapshots import read_metadata
from lrbench.transfer.head import merge_accepted

TASK = """
name = "{name}"
classes = {classes}
counts = {{ test = {count} }}

[head]
sources = ["tiny-source"]
classes = "classes.txt"
sha256 = "{sha256}"

[files]
{files}
"""


@pytest.fixture
def tested(home, pretrain_tiny):
    """The test images of the tiny suite's source as files, and three tasks of them."""
    pretrain_tiny("step")
    source = load_task_data(load_task("tiny-source"), [home / "data"])
    test, folder = source.splits["test"], home.parent / "tasks"
    content = "".join(f"{name}\n" for name in source.classes)
    (folder / "classes.txt").write_text(content)
    for index, label in enumerate(test.labels):
        for root in ("all", "two") if label in (1, 3) else ("all",):
            path = home / "data" / root / source.classes[label] / f"{index + 1:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(test.images.read(index))).save(path)
    accepted = [[] if index % 10 == 0 else [int(label), 0] for index, label in enumerate(test.labels)]
    labels = json.dumps(accepted)
    (home / "data" / "real.json").write_text(labels)
    for name, classes, count, files in (
        ("all", 4, len(test), 'layout = "test-folders"\nroot = "all"'),
        ("two", 2, int(np.isin(test.labels, (1, 3)).sum()), 'layout = "test-folders"\nroot = "two"'),
        ("real", 4, sum(map(bool, accepted)), 'layout = "test-labels"\nroot = "all"\nlabels = "real.json"\n'
         f'sha256 = "{hashlib.sha256(labels.encode()).hexdigest()}"'),
    ):  # fmt: skip
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        text = TASK.format(name=f"tested-{name}", classes=classes, count=count, sha256=sha256, files=files)
        (folder / f"tested-{name}.toml").write_text(text)
    return home


def _result(lrbench, home, task):
    done = lrbench("transfer", "--snapshot", "stage3", "--task", task, "--protocol", "head", "--json")
    assert done.status == 0, done.err
    return json.loads(done.out)


def test_source_test_images_as_files_have_the_source_accuracy(lrbench, tested):
    record = _result(lrbench, tested, "tested-all")
    header = read_metadata(tested / "checkpoints" / "tiny" / "step" / "seed0" / "stage3.safetensors")
    assert record["metrics"]["top1"] == pytest.approx(header.source_accuracy) and record["train_count"] == 0
    assert record["selection"]["candidates"] == [] and record["chosen"] == {}
    # Of two classes, only the scores of these are compared.
    two = _result(lrbench, tested, "tested-two")
    assert two["task"]["classes"] == 2 and two["metrics"]["top1"] >= 0.5
    [path] = (tested / "leaderboard" / "results" / "tiny").glob("*tested-two.head.*.json")
    assert read_result(path).protocol == "head"
    assert lrbench("leaderboard", "tiny").status == 0


def test_any_accepted_class_is_right(lrbench, tested):
    record = _result(lrbench, tested, "tested-real")
    whole = _result(lrbench, tested, "tested-all")
    assert record["test_count"] == 36 and record["metrics"]["top1"] > whole["metrics"]["top1"] - 0.1
    assert "nothing was computed" in lrbench(
        "transfer", "--snapshot", "stage3", "--task", "tested-real", "--protocol", "head"
    ).err  # fmt: skip


def test_best_accepted_class_decides():
    torch.manual_seed(0)
    scores = torch.randn(200, 12)
    sets = [torch.randperm(12)[: 1 + number % 4].tolist() for number in range(200)]
    columns = {
        f"accepted{column}": np.array([classes[column] if column < len(classes) else -1 for classes in sets])
        for column in range(4)
    }
    labels = np.array([classes[0] for classes in sets])
    split = Split(ids=[""] * 200, labels=labels, images=None, annotations=columns)
    merged = merge_accepted(scores, split)
    for most in (1, 5):
        right = [bool(set(scores[row].topk(most).indices.tolist()) & set(sets[row])) for row in range(200)]
        found = [labels[row] in merged[row].topk(most).indices.tolist() for row in range(200)]
        assert found == right


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--task", "tested-all"),
            "tested-all has only test images, for classifiers of networks trained on tiny-source",
        ),
        (("--task", "tiny-objects", "--protocol", "head"), "tiny-objects has training images of its own"),
        (("--task", "imagenet-v2", "--protocol", "head"), "was pretrained on tiny-source, but imagenet-v2 tests"),
    ],
)
def test_mismatches_are_refused(lrbench, tested, words, message):
    (tested / "data" / "imagenetv2-matched-frequency-format-val" / "0").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tested / "data" / "imagenetv2-matched-frequency-format-val" / "0" / "a.png")
    refused = lrbench("transfer", "--snapshot", "stage3", *words)
    assert refused.status == 2 and message in refused.err


def test_a_network_of_other_classes_is_refused(lrbench, tested):
    refused = lrbench("transfer", "--snapshot", "timm:resnet18", "--task", "tested-all", "--protocol", "head")
    assert refused.status == 2 and "timm:resnet18 has 1,000 outputs, but tested-all tests classifiers" in refused.err
    suite = lrbench("plan", "tiny.toml", "--set", 'protocols=["head"]')
    assert suite.status == 2 and "suites do not have the protocol 'head'" in suite.err
