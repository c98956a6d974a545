"""Pretraining, transfer and leaderboard from the command line, on files in the official layouts."""

import json

import pytest

from tests import trees

TARGETS = ["caltech256", "cub200", "indoor67", "sketch250"]

SUITE = """
name = "small"
source = "imagenet1k"
targets = ["caltech256", "cub200", "indoor67", "sketch250"]
arms = ["step", "hold"]
protocols = ["probe", "knn"]
seeds = [0]

[model]
architecture = "resnet18"
arguments = { layers = [1, 1, 1, 1], channels = [8, 8, 16, 16] }

[input]
size = 32

[schedule]
epochs = 3
boundaries = [1, 2]
rates = [0.05, 0.005, 0.0005]
batch = 8

[probe]
strengths = 3

[finetune]
rates = [0.01]
decays = [0.0, 1e-4]
updates = 5
batch = 8
"""


@pytest.fixture
def data(home, monkeypatch):
    root = home / "archives"
    trees.imagenet(root)
    trees.caltech256(root, extra=2)
    trees.cub200(root)
    trees.indoor67(root)
    trees.sketch250(root)
    monkeypatch.setenv("LRBENCH_DATA", str(root))
    (home / "small.toml").write_text(SUITE)
    return root


def test_pretrain_transfer_and_leaderboard_on_real_layouts(lrbench, home, data, drawn):
    refused = lrbench("pretrain", "small.toml", "--workers", "1")
    assert refused.status == 2 and "images, expected 1,281,167" in refused.err and "--partial" in refused.err

    pretrained = lrbench("pretrain", "small.toml", "--partial")
    assert pretrained.status == 0, pretrained.err
    assert (home / "checkpoints" / "small" / "hold" / "seed0" / "stage3.safetensors").is_file()

    for task in TARGETS:
        refused = lrbench("transfer", "--snapshot", "stage2", "--task", task)
        assert refused.status == 2 and f"the data of task {task}" in refused.err and "is incomplete" in refused.err
        for protocol in ("probe", "knn", "finetune"):
            done = lrbench(
                "transfer", "--snapshot", "stage2", "--task", task, "--protocol", protocol, "--partial", "--json"
            )
            assert done.status == 0, done.err
            record = json.loads(done.out)
            assert record["partial"] is True and record["task"]["name"] == task
            assert set(record["metrics"]) >= {"top1", "top5", "mean_per_class"}
            assert record["snapshot"]["reference"] == "small/step/seed0/stage2"
    other = lrbench("transfer", "--snapshot", "hold/stage3", "--task", "cub200", "--partial", "--suite", "small")
    assert other.status == 0 and "small/hold/seed0/stage3 → cub200" in other.out
    # Results on birds have a note about overlap with the source.
    assert (
        "cub200: The data set's page warns that its test images may be among ImageNet's training images." in other.err
    )
    compared = lrbench("recommend", "--task", "cub200", "--snapshots", "stage2", "--partial")
    assert compared.status == 0 and "the data is incomplete" in compared.err
    timm = lrbench("transfer", "--snapshot", "timm:resnet10t", "--task", "cub200", "--partial", "--protocol", "knn")
    assert timm.status == 0 and "weights are random" in timm.err

    assert lrbench("leaderboard").status == 0
    page = (home / "leaderboard" / "small.md").read_text()
    details = (home / "leaderboard" / "small-details.md").read_text()
    assert "1 pretraining seed, partial data" in page and "finetune: other transfers" in details
    assert "resnet10t (random weights)" in (home / "leaderboard" / "foreign.md").read_text()


def test_imagenet_suite_runs_all_stages(lrbench, home, data):
    """Smaller `imagenet` with its 30, 60 and 90 epochs, its arms, targets and protocols."""
    smaller = (
        "name=imagenet-small", "seeds=[0]", "input.size=32", "schedule.batch=8", "probe.strengths=3",
        "model.arguments={layers=[1,1,1,1],channels=[8,8,16,16]}", "finetune.rates=[0.01]", "finetune.decays=[0.0]",
        "finetune.updates=3", "finetune.batch=8",
    )  # fmt: skip
    changes = [part for change in smaller for part in ("--set", change)]
    done = lrbench("run", "imagenet", "--partial", *changes)
    assert done.status == 0, done.err
    snapshots = sorted(
        str(path.relative_to(home / "checkpoints" / "imagenet-small"))
        for path in (home / "checkpoints" / "imagenet-small").rglob("stage?.safetensors")
    )
    assert snapshots == [
        "average/seed0/stage2.safetensors", "average/seed0/stage3.safetensors",
        "constant-average/seed0/stage3.safetensors", "constant/seed0/stage3.safetensors",
        "hold/seed0/stage2.safetensors", "hold/seed0/stage3.safetensors", "step/seed0/stage0.safetensors",
        "step/seed0/stage1.safetensors", "step/seed0/stage2.safetensors", "step/seed0/stage3.safetensors",
        *(f"trail/seed0/stage{stage}.safetensors" for stage in range(1, 7)),
    ]  # fmt: skip
    lines = (home / "checkpoints/imagenet-small/step/seed0/log.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert rates == [0.1] * 30 + [0.01] * 30 + [0.001] * 30
    assert len(list((home / "leaderboard/results/imagenet-small").rglob("*.parquet"))) == 9 * 4 * 3 + 7 * 4 * 2 + 16
    again = lrbench("run", "imagenet", "--partial", *changes)
    assert again.status == 0 and "16 of 16 snapshots and 164 of 164 cells are done" in again.err


def test_existing_transfer_is_not_recomputed(lrbench, home, data):
    first = lrbench(
        "transfer", "--snapshot", "timm:test_resnet", "--task", "indoor67", "--partial", "--protocol", "knn"
    )
    assert first.status == 0
    added = home / "weights.safetensors"
    from safetensors.torch import save_file

    from lrbench.models.networks import create_model

    save_file(create_model("test_resnet", {}, classes=5).state_dict(), added)
    path = lrbench("snapshots", "add", added, "--architecture", "test_resnet").out.strip()
    arguments = ("transfer", "--snapshot", path, "--task", "indoor67", "--partial", "--protocol", "knn")
    assert lrbench(*arguments).status == 0
    again = lrbench(*arguments)
    assert again.status == 0 and "nothing was computed" in again.err
    # Without --partial the partial result does not count, and the data is read again.
    assert lrbench(*[argument for argument in arguments if argument != "--partial"]).status == 2


def test_second_snapshot_of_a_task_decodes_nothing(lrbench, home, data, monkeypatch):
    from lrbench.data.layouts.file_images import FileImages
    from lrbench.transfer.target import open_target

    decoded = []
    read = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, index: decoded.append(index) or read(self, index))
    open_target.cache_clear()
    for number, snapshot in enumerate(("timm:resnet10t", "timm:resnet14t")):
        arguments = ("transfer", "--snapshot", snapshot, "--task", "cub200", "--partial", "--protocol", "knn")
        assert lrbench(*arguments).status == 0
        assert bool(decoded) == (number == 0)
        decoded.clear()
        # Like another process, which knows only the files.
        open_target.cache_clear()
