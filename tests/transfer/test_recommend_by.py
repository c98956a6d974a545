"""`lrbench recommend` by other protocols, and of many snapshots."""

import json
import re

import pytest

from lrbench.config.suite import Input
from lrbench.models.networks import create_model
from lrbench.store.snapshots import SnapshotMetadata, write_snapshot

pytestmark = pytest.mark.usefixtures("small_probe_grid")


@pytest.fixture
def networks(home):
    """Two untrained networks of different size, and a list that names them and a broken file."""
    for name, seed in (("resnet10t", 1), ("test_resnet", 2)):
        weights = create_model(name, {}, classes=4, seed=seed).state_dict()
        metadata = SnapshotMetadata(architecture=name, classes=4, input=Input(size=32))
        write_snapshot(home / "checkpoints" / "foreign" / f"{name}.safetensors", weights, metadata)
    (home / "broken.safetensors").write_bytes(b"no tensors")
    (home / "models.txt").write_text("# all\nforeign/resnet10t\nbroken.safetensors\nforeign/test_resnet\n")
    return ("--task", "tiny-objects", "--snapshots", "models.txt")


def rows(out):
    """The first column of the table that a command printed, after the rank."""
    table = out.split("\n\n")[0].splitlines()[2:]
    return [line.split()[1] for line in table]


def test_every_protocol_may_rank(lrbench, home, networks):
    by_logme = lrbench("recommend", *networks, "--by", "logme", "--json")
    assert by_logme.status == 2 and "1 of 3 snapshots failed. broken.safetensors: " in by_logme.err
    ranked = json.loads(by_logme.out)
    assert ranked["lead"] is None and ranked["ranked_by"]["protocol"] == "logme"
    assert ranked["ranked"][0]["logme"] > ranked["ranked"][1]["logme"]
    assert not list(home.glob("leaderboard/results/foreign/*.probe.*"))
    by_knn = json.loads(lrbench("recommend", *networks, "--by", "knn", "--json").out)
    assert by_knn["ranked_by"] == {"protocol": "knn", "images": 48, "validation": 8, "folds": 5}
    scores = [row["score"] for row in by_knn["ranked"][:2]]
    assert scores == sorted(scores, reverse=True) and by_knn["lead"] is not None
    few = ("--set", "finetune.updates=4", "--set", "finetune.rates=[0.01]", "--set", "finetune.decays=[0.0]")
    tuned = lrbench("recommend", *networks, "--by", "finetune", *few, "--top", "1")
    assert "[1/1] finetune of foreign/" in tuned.err and "is the only snapshot that was fine-tuned" in tuned.out
    assert "fine-tuning's top-1 on 8 validation images, which are few" in tuned.out
    refused = lrbench("recommend", *networks, "--set", "finetune.updates=4")
    assert refused.status == 2 and "does not read `finetune`" in refused.err


def test_table_is_sorted_by_cost(lrbench, networks):
    first = json.loads(lrbench("recommend", *networks, "--by", "logme", "--json").out)["ranked"]
    costs = {row["snapshot"]: row for row in first if row["problem"] is None}
    assert costs["foreign/test_resnet"]["parameters"] < costs["foreign/resnet10t"]["parameters"]
    assert all(row["multiply_adds"] > 0 and row["images_per_second"] > 0 for row in costs.values())
    for sort, key in (("multiply-adds", "multiply_adds"), ("speed", "images_per_second")):
        expected = sorted(costs, key=lambda name: costs[name][key], reverse=sort == "speed")
        shown = lrbench("recommend", *networks, "--by", "logme", "--sort", sort).out
        assert rows(shown) == [*expected, "broken.safetensors"] and "come from earlier results" in shown
        assert "has the largest LogME" in shown and "which is not an accuracy" in shown


def test_report_is_written_next_to_the_output(lrbench, home, networks, drawn):
    done = lrbench("recommend", *networks, "--by", "logme", "--report", "out", "--figures", "pdf")
    assert done.status == 2 and "wrote out/report.md, report.html" in done.err
    page = (home / "out" / "report.html").read_text()
    assert "broken.safetensors" in page and "LogME reads all 48 training" in page
    assert (home / "out" / "figures" / "recommendation-cost.pdf").is_file()
    refused = lrbench("recommend", *networks, "--figures", "pdf")
    assert refused.status == 2 and "Add --report DIR" in refused.err


def test_transfer_of_a_list_keeps_what_works(lrbench, home, networks):
    command = ("transfer", "--task", "tiny-objects", "--snapshot", "models.txt", "--protocol", "knn")
    done = lrbench(*command, "--sort", "parameters")
    assert done.status == 2 and "1 of 3 transfers failed. broken.safetensors: " in done.err.splitlines()[-1]
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["foreign/test_resnet", "foreign/resnet10t"]
    assert re.search(r"snapshot +top-1 % +parameters +multiply-adds +images/s", lines[0])
    assert "[3/3] foreign/test_resnet → tiny-objects (knn)" in done.err and "measured on this machine" in done.err
    assert len(list(home.glob("leaderboard/results/foreign/*.knn.*.json"))) == 2
