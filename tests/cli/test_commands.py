"""Output of `plan`, `tasks`, `suites` and `doctor`."""

import json
import os
import subprocess
import tomllib
from types import SimpleNamespace

import pytest

from lrbench.cli.usage import explain_usage
from lrbench.config import load_task
from lrbench.jobs.cost import estimate_cost
from lrbench.jobs.plan import make_plan
from lrbench.store.cells import CellStatus, cell_path
from lrbench.store.suites import write_effective
from tests import trees
from tests.helpers import command as command_line
from tests.leaderboard.fake import put


def test_plan_counts_existing_work_and_starts_nothing(lrbench, home):
    shown = lrbench("plan", "tiny.toml")
    assert shown.status == 0 and "0 of 18 snapshots and 0 of 72 cells" in shown.out
    # Shared stages once: 3 + 2 (hold) + 1 (constant) stages a seed of 3, 2, 1; 2, 1; 1 epochs of 96 // 32 updates.
    assert "missing: 60 updates of pretraining" in shown.out
    assert sorted(path.name for path in home.iterdir()) == ["tiny.toml"]
    lrbench("pretrain", "tiny.toml", "--arm", "step", "--seed", "0", "--workers", "1")
    record = json.loads(lrbench("plan", "tiny.toml", "--json").out)
    existing = [snapshot["snapshot"] for snapshot in record["snapshots"] if snapshot["made"]]
    assert existing == ["step/seed0/stage0", "step/seed0/stage1", "step/seed0/stage2", "step/seed0/stage3"]
    assert record["missing_epochs"] == 20 - 6 and record["estimated_seconds"] is None


def test_plan_estimates_the_papers_run(lrbench):
    shown = lrbench("plan", "imagenet")
    assert shown.status == 0 and "78 GPU-hours of pretraining and about 98 of fine-tuning" in shown.out
    record = json.loads(lrbench("plan", "imagenet", "--json").out)
    # 180 epochs of 5,004 updates for three seeds, at 2,470 images a second; 108 cells of 21 runs at most.
    assert record["pretraining_gpu_hours"] == pytest.approx(3 * 180 * 5004 * 256 / 2470 / 3600, rel=1e-3)
    # Of 64 images, launching the kernels of 161 tensors takes longer than their operations.
    assert record["finetuning_gpu_hours"] == pytest.approx(108 * 21 * 5000 * 161 * 0.012 / 62 / 3600, rel=1e-3)
    # 48 snapshots of 102 MB, momentum of 18 of them, the means of `hold` and `constant` in double precision, and `trail`.
    assert 10.2e9 < record["snapshot_bytes"] < 10.8e9 and 6e10 < record["pixel_bytes"] < 9e10


def test_planned_disk_matches_training(lrbench, home):
    estimated = json.loads(lrbench("plan", "tiny.toml", "--json").out)["snapshot_bytes"]
    assert lrbench("pretrain", "tiny.toml").status == 0
    files = [path for path in (home / "checkpoints").rglob("*") if path.suffix in (".safetensors", ".pt")]
    taken = sum(path.stat().st_size for path in files if not path.name.endswith(".bn.safetensors"))
    # A tiny network's files are headers for a good part.
    assert estimated < taken < 1.5 * estimated


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Invalid value for '--seed': 'x' is not a valid integer.", "'--seed' must be a whole number."),
        ("Invalid value for '--seed': -1 is not in the range x>=0.", "'--seed' must be 0 or more."),
        (None, "'--workers' must be 1 or more."),
    ],
)
def test_invalid_numbers_have_one_wording_in_every_parser(lrbench, said, words):
    if said is None:
        error = lrbench("pretrain", "tiny.toml", "--workers", "0").err
        assert "'--seed' must be a whole number." in lrbench("pretrain", "tiny.toml", "--seed", "1.5").err
    else:
        error = explain_usage(SimpleNamespace(format_message=lambda: said))
    assert words in error and "--help` lists its options." in error


def test_negative_seed_of_a_reference_is_refused(lrbench):
    refused = lrbench("plan", "tiny.toml", "--set", "seeds=[0, -1]")
    assert refused.status == 2 and "`seeds.1` must be 0 or more, not -1" in refused.err


def test_plan_reports_a_source_smaller_than_a_batch(lrbench, home):
    planned = lrbench("plan", "tiny.toml", "--set", "schedule.batch=128")
    assert "tiny-source has 96 training images, fewer than one batch of 128" in planned.out
    assert "fewer than one batch" not in lrbench("plan", "tiny.toml").out


def test_wrong_names_in_a_suite_name_the_suite(lrbench, home):
    refused = lrbench("plan", "tiny.toml", "--set", 'targets=["tiny-object"]')
    assert refused.status == 2 and "suite tiny, targets: there is no task called 'tiny-object'" in refused.err
    assert "Did you mean 'tiny-objects'?" in refused.err and "its TOML file to LRBENCH_TASKS" in refused.err
    assert "suite tiny, source: there is no" in lrbench("plan", "tiny.toml", "--set", "source=tiny-sauce").err


def test_misspelt_suite_and_model_get_hints(lrbench, home):
    assert lrbench("pretrain", "tiny.toml", "--arm", "step", "--seed", "0", "--set", "name=of-mine").status == 0
    for command in (("run", "of-mime"), ("transfer", "--suite", "of-mime", "--snapshot", "stage1", "--task", "cub200")):
        refused = lrbench(*command)
        assert refused.status == 2 and "Did you mean 'of-mine'?" in refused.err
    assert "Did you mean 'quick'?" in lrbench("run", "quik").err
    misspelt = ("--set", "name=of-mine", "--set", "model.architecture=resnet181")
    for command in ("plan", "pretrain"):
        refused = lrbench(command, "tiny.toml", *misspelt)
        assert refused.status == 2 and "has no model 'resnet181'. Did you mean 'resnet18" in refused.err


def test_plan_counts_a_users_source(lrbench, home):
    for label in range(2):
        for number in range(20):
            trees.save(home / "data" / "mine" / f"c{label}" / f"{number}.png", trees.image(label, number), "PNG")
    (home / "mine.toml").write_text('name = "mine"\n[files]\nlayout = "folders"\nroot = "mine"\n')
    command = ("plan", "tiny.toml", "--set", "source=mine.toml", "--set", "schedule.batch=8", "--arm", "step")
    narrow = ("--set", "seeds=[0]", "--set", 'protocols=["probe"]')
    # 32 of the 40 images are for training: four updates in each of six epochs.
    assert "missing: 24 updates of pretraining" in lrbench(*command, *narrow).out
    (home / "data" / "mine").rename(home / "data" / "away")
    assert "missing: an unknown number of updates" in lrbench(*command, *narrow).out


def test_missing_data_is_reported_before_training(lrbench, home):
    (home.parent / "tasks" / "mine.toml").write_text('name = "mine"\n[files]\nlayout = "folders"\nroot = "mine"\n')
    narrow = ("--set", 'arms=["step"]', "--set", "seeds=[0]", "--set", 'protocols=["probe"]')
    command = ("tiny.toml", *narrow, "--set", 'targets=["tiny-objects", "mine", "cub200"]')
    planned = lrbench("plan", *command)
    assert planned.status == 0 and "a run cannot start: the data of task mine was not found" in planned.out
    assert set(json.loads(lrbench("plan", *command, "--json").out)["missing_data"]) == {"mine", "cub200"}
    refused = lrbench("run", *command, "--workers", "1")
    assert refused.status == 2 and "the data of task mine was not found" in refused.err
    assert "the data of task cub200 was not found" in refused.err and "Nothing was started" in refused.err
    assert "lrbench pretrain tiny" in refused.err and not list(home.glob("checkpoints/**/*.safetensors"))
    # A cell with a result needs no data.
    assert lrbench("run", "tiny.toml", *narrow, "--workers", "1").status == 0
    for label in range(2):
        for number in range(10):
            trees.save(home / "data" / "mine" / f"c{label}" / f"{number}.png", trees.image(label, number), "PNG")
    own = ("tiny.toml", *narrow, "--set", 'targets=["tiny-objects", "mine"]', "--workers", "1")
    assert lrbench("run", *own).status == 0
    (home / "data" / "mine").rename(home / "data" / "away")
    assert lrbench("run", *own).status == 0


def test_pretrained_suite_is_known_by_name(lrbench, pretrain_tiny, home):
    unknown = lrbench("plan", "tiny")
    assert unknown.status == 2 and "there is no suite called 'tiny'" in unknown.err
    pretrain_tiny("step")
    by_path = lrbench("plan", "tiny.toml")
    (home / "tiny.toml").unlink()
    assert lrbench("plan", "tiny").out == by_path.out
    assert "0 of 4 snapshots to compute" in lrbench("pretrain", "tiny", "--arm", "step", "--seed", "0").err


def test_plan_of_one_arm_lists_only_its_snapshots(lrbench):
    record = json.loads(lrbench("plan", "tiny.toml", "--arm", "constant", "--seed", "1", "--json").out)
    assert [snapshot["snapshot"] for snapshot in record["snapshots"]] == [
        "step/seed1/stage0",
        "step/seed1/stage1",
        "hold/seed1/stage2",
        "constant/seed1/stage3",
    ]
    unknown = lrbench("plan", "tiny.toml", "--arm", "hol")
    assert unknown.status == 2 and "hold" in unknown.err


def test_tasks_lists_every_task_with_its_data(lrbench):
    shown = lrbench("tasks").out
    for name in ("imagenet1k", "caltech256", "cub200", "indoor67", "sketch250", "toy-source", "digits", "tiny-source"):
        assert any(line.startswith(f"{name} ") for line in shown.splitlines())
    rows = {row["name"]: row for row in json.loads(lrbench("tasks", "--json").out)}
    assert rows["digits"]["found"] and not rows["cub200"]["found"]


@pytest.mark.parametrize("name", ["cub200", "digits", "sketch250"])
def test_task_in_full_is_its_toml(lrbench, name):
    shown = lrbench("tasks", name)
    assert shown.status == 0
    content = tomllib.loads(shown.out)
    assert content["name"] == name and "layout" in content["files"]


def test_suites_lists_every_suite_and_shows_one_in_full(lrbench):
    rows = {row["suite"]: row for row in json.loads(lrbench("suites", "--json").out)}
    assert set(rows) == {"quick", "laptop", "standard", "imagenet", "imagenet100"}
    for name, row in rows.items():
        planned = json.loads(lrbench("plan", name, "--json").out)
        assert (row["snapshots"], row["cells"]) == (len(planned["snapshots"]), len(planned["cells"]))
    assert all(name in lrbench("suites").out for name in rows)
    content = tomllib.loads(lrbench("suites", "tiny.toml").out)
    # Defaults are shown too.
    assert content["name"] == "tiny" and content["finetune"]["momentum"] == 0.9
    assert "Did you mean 'standard'?" in lrbench("suites", "standrad").err


def test_wrong_suite_and_check_with_format_are_usage_errors(lrbench, pretrain_tiny, home):
    pretrain_tiny("step")
    wrong = lrbench("snapshots", "list", "tini")
    assert wrong.status == 2 and "Did you mean 'tiny'?" in wrong.err and not wrong.out
    assert lrbench("snapshots", "list", "tiny").out.count("tiny/step/seed0/stage") == 4
    both = lrbench("leaderboard", "--check", "--format", "csv")
    # Missing results are reported first; with results, the conflict of options.
    assert both.status == 2
    assert lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-objects").status == 0
    both = lrbench("leaderboard", "--check", "--format", "csv")
    assert both.status == 2 and "prints no tables. Remove --format" in both.err and not both.out


def test_shared_stage_is_reported_with_its_owner(lrbench):
    assert lrbench("pretrain", "tiny.toml", "--arm", "hold", "--seed", "0").status == 0
    command = ("transfer", "--task", "tiny-objects", "--protocol", "knn", "--snapshot")
    for named in (("hold/stage1",), ("stage1", "--arm", "hold"), ("tiny/hold/stage1",)):
        outcome = lrbench(*command, *named)
        assert outcome.status == 0 and "hold shares stage1 with step; using tiny/step/seed0/stage1" in outcome.err
    for named in ("hold/stage2", "step/stage1", "stage1"):
        assert "in common" not in lrbench(*command, named).err


def test_fetching_synthetic_data_does_nothing(lrbench):
    done = lrbench("data", "fetch", "toy-birds")
    assert done.status == 0 and "nothing to fetch" in done.err


def test_doctor_shows_machine_versions_data_and_suites(lrbench):
    report = json.loads(lrbench("doctor", "--json").out)
    assert {"lrbench", "torch", "torchvision", "timm", "pandas"} <= set(report["versions"])
    assert report["machine"]["device"] and "GiB" in report["machine"]["disk free"]
    assert report["tasks"]["cub200"].startswith("not found") and report["tasks"]["digits"].startswith("found")
    assert report["suites"]["quick"].startswith("would run; 0 of")
    assert report["suites"]["imagenet"].startswith("needs data: imagenet1k, caltech256")
    assert report["folders"]["cache"].startswith("0.0 GB in ")
    assert "machine\n" in lrbench("doctor").out


def test_version_and_help(lrbench):
    assert lrbench("--version").out.startswith("lrbench 0.")
    verbs = ("run", "pretrain", "transfer", "leaderboard", "tasks", "data", "snapshots", "register", "plan", "doctor")
    for verb in verbs:
        shown = lrbench(verb, "--help")
        assert shown.status == 0 and "Usage: lrbench " + verb in shown.out


def test_time_left_is_estimated_by_protocol(place, tiny, lrbench, monkeypatch):
    """First one of two protocols has no timing, then both have."""
    workspace = place.workspace
    write_effective(workspace, tiny)
    put(workspace, tiny, arm="hold", stage=2, timings={"fit": 2.0})
    put(workspace, tiny, arm="hold", stage=2, protocol="finetune", timings={"fit": 500.0})
    put(workspace, tiny, arm="hold", stage=2, target="tiny-indoor", protocol="knn", timings={"fit": 400.0})
    # In a clone, the results come from another machine.
    assert "72 cells (not timed yet)" in lrbench("plan", "tiny.toml").out

    def status(place, reference, cell, settings):
        path = cell_path(place.workspace, reference, "", cell, load_task(cell.task))
        return CellStatus(path=path, is_done=path.is_file() and "indoor" not in path.name)

    monkeypatch.setattr("lrbench.jobs.plan.snapshot_exists", lambda *given: True)
    monkeypatch.setattr("lrbench.jobs.plan.status_before_loading", status)
    assert "71 cells (not timed yet)" in lrbench("plan", "tiny.toml").out
    put(workspace, tiny, arm="hold", stage=2, protocol="knn", timings={"fit": 1.0})
    # 35 cells of each.
    assert "70 cells (about 2 min)" in lrbench("plan", "tiny.toml").out


def test_pace_is_that_of_one_process(place, tiny):
    write_effective(place.workspace, tiny)
    folder = place.workspace.checkpoints / "tiny" / "step" / "seed0"
    folder.mkdir(parents=True)
    seconds = {}
    for processes in (1, 4):
        record = {"stage": 1, "updates": 100, "seconds": 50.0, "processes": processes}
        folder.joinpath("timings.jsonl").write_text(json.dumps(record) + "\n")
        seconds[processes] = estimate_cost(make_plan(tiny, place), place).pretraining_seconds
    assert seconds[4] == 4 * seconds[1] > 0


def test_disk_estimate_counts_only_existing_images(lrbench, home):
    (home.parent / "tasks" / "mine.toml").write_text(
        'name = "mine"\n[files]\nlayout = "split-folders"\nroot = "mine"\n'
    )
    targets = ["--set", 'targets=["tiny-objects", "mine"]']
    without = lrbench("plan", "tiny.toml", *targets)
    assert "the size of mine is unknown" in without.out
    before = json.loads(lrbench("plan", "tiny.toml", *targets, "--json").out)["pixel_bytes"]
    for split in ("train", "test"):
        for number in range(4):
            trees.save(home / "data" / "mine" / split / "a" / f"{number}.png", trees.image(0, number), "PNG")
            trees.save(home / "data" / "mine" / split / "b" / f"{number}.png", trees.image(1, number), "PNG")
    after = json.loads(lrbench("plan", "tiny.toml", *targets, "--json").out)
    # Sixteen images, 32 pixels high and four by three.
    assert after["pixel_bytes"] - before == 16 * 32 * 32 * 4 and after["pixels_unknown"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "transfer --snapshot stage1 --task digits --protocol porbe",
            "Did you mean 'probe'? `lrbench transfer --help`",
        ),
        ("transfer --task digits", "missing option '--snapshot'. `lrbench transfer --help`"),
        ("snapshots ad x", "no such command 'ad'. Did you mean 'add'? `lrbench snapshots --help`"),
        (
            "plan --sett a=1",
            # The second is typer 0.19's.
            "--sett (Possible options: --seed, --set). `lrbench plan --help`"
            "|'--sett'. (Did you mean one of: '--seed', '--set'?). `lrbench plan --help`",
        ),
    ],
)
def test_usage_error_is_one_paragraph(lrbench, words, said):
    done = lrbench(*words.split())
    assert done.status == 2 and not done.out
    (line,) = done.err.strip().splitlines()
    assert (
        line.startswith("lrbench: ")
        and any(wording in line for wording in said.split("|"))
        and "Value error" not in line
    )


def test_quiet_hides_progress_and_notes_but_no_warning(lrbench, home, monkeypatch):
    # `--quiet` sets it for worker processes.
    monkeypatch.setenv("LRBENCH_QUIET", "")
    words = ("transfer", "--snapshot", "timm:test_resnet", "--task", "tiny-objects", "--protocol", "knn")
    quiet = lrbench(*words, "--quiet")
    assert quiet.status == 0 and "top-1" in quiet.out
    assert "its weights are random" in quiet.err and "stored in" not in quiet.err
    monkeypatch.setenv("LRBENCH_QUIET", "")
    assert "nothing was computed" in lrbench(*words).err
    failed = lrbench("transfer", "--quiet", "--snapshot", "nothing", "--task", "tiny-objects")
    assert failed.status == 2 and failed.err.startswith("lrbench: ")


def test_shells_complete_commands_and_options():
    def complete(words, number):
        environment = {
            **os.environ,
            "_LRBENCH_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(number),
        }
        done = subprocess.run(command_line(), env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("lrbench tra", 1) == ["transfer"]
    assert "--snapshot" in complete("lrbench transfer --s", 2)
