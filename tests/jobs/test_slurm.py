"""Submission to Slurm, with programs in its place that record what they are asked."""

import json
import re
import signal
import subprocess
import sys

import pytest

from lrbench.core.errors import InputError
from lrbench.jobs.job import PretrainJob, TransferJob
from lrbench.jobs.preparation import PrepareJob, with_preparation
from lrbench.jobs.slurm_scripts import Script, SlurmOptions, content, divide
from tests.pretraining.helpers import key

RUN, PAGES = ("lrbench", "run", "tiny"), ("lrbench", "leaderboard", "tiny")

SBATCH = """#!/bin/sh
folder=$(dirname "$0")
number=$(($(cat "$folder/number" 2>/dev/null || echo 100) + 1))
if [ -e "$folder/full" ] && [ "$number" -gt "$(cat "$folder/full")" ]; then
    cat "$folder/refusal" >&2; exit 1
fi
echo "$number" > "$folder/number"
echo "$@" >> "$folder/asked"
echo "$number;cluster"
"""
SCANCEL = """#!/bin/sh
folder=$(dirname "$0")
echo "$@" >> "$folder/cancelled"
rm "$folder/full"
"""
SQUEUE = """#!/bin/sh
cat "$(dirname "$0")/states" 2>/dev/null
"""


def jobs_of(seeds=1):
    jobs = []
    for seed in range(seeds):
        first, second = key("step", 1, seed), key("step", 2, seed)
        jobs += [
            PretrainJob(name=f"pretrain {first}", key=first),
            PretrainJob(name=f"pretrain {second}", needs=(f"pretrain {first}",), key=second),
            TransferJob(name=f"transfer {second} to a", needs=(f"pretrain {second}",), key=second, task="a", cells=()),
            TransferJob(name=f"predict s with {second}", needs=(f"pretrain {second}",), key=second, task="s", cells=()),
        ]
    return jobs


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder of programs that stand for Slurm's."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_a_snapshot_has_one_script_for_training_and_one_for_transfers():
    scripts = divide(jobs_of(), RUN, PAGES)
    first, second, transfer, pages = scripts
    assert first.command == (*RUN, "--job", "pretrain step/seed0/stage1") and first.needs == ()
    assert second.needs == (first.name,)
    assert transfer.name == "transfer step/seed0/stage2" and transfer.needs == (second.name,)
    assert transfer.command[3:] == (
        "--job", "transfer step/seed0/stage2 to a", "--job", "predict s with step/seed0/stage2"
    )  # fmt: skip
    assert pages.command == PAGES and pages.needs == (transfer.name,)


def test_images_are_prepared_once_before_they_are_read(tiny):
    jobs = with_preparation(jobs_of(), tiny)
    prepared = [job.name for job in jobs if isinstance(job, PrepareJob)]
    assert prepared == ["prepare tiny-source", "prepare a", "prepare s"]
    scripts = {script.name: script for script in divide(jobs, RUN, PAGES)}
    assert scripts["pretrain step/seed0/stage1"].needs == ("prepare tiny-source",)
    assert set(scripts["transfer step/seed0/stage2"].needs) == {
        "prepare a", "prepare s", "pretrain step/seed0/stage2"
    }  # fmt: skip


def test_only_pretraining_gets_several_gpus(tmp_path, tiny):
    options = SlurmOptions(gpus=4)
    jobs = with_preparation(jobs_of(), tiny)
    gpus, processes = {}, {}
    for script in divide(jobs, RUN, PAGES, gpus=4):
        text = content(script, "tiny", tmp_path, options, {}, tmp_path)
        gpus[script.kind] = re.findall(r"--gpus=(\d)", text)
        processes[script.kind] = "--gpus 4" in text
    assert gpus == {"prepare": [], "pretrain": ["4"], "transfer": ["1"], "leaderboard": []}
    assert [kind for kind, several in processes.items() if several] == ["pretrain"]


def test_large_suites_have_one_script_for_each_seed():
    *seeds, pages = divide(jobs_of(seeds=3), RUN, PAGES, most=9)
    assert [script.command for script in seeds] == [(*RUN, "--seed", str(seed)) for seed in range(3)]
    assert pages.needs == ("seed0", "seed1", "seed2")


def test_script_asks_for_what_was_chosen(tmp_path):
    options = SlurmOptions(gpus=2, cpus=8, partition="gpu", time="4:00:00", others=("account=a b", "constraint=a100"))
    script = Script(name="pretrain step/seed0/stage1", command=("python", "it's"))
    text = content(script, "tiny", tmp_path, options, {"LRBENCH_HOME": "/a b"}, tmp_path)
    for line in ("gpus=2", "cpus-per-task=8", "partition=gpu", "time=4:00:00", "account=a b", "constraint=a100"):
        assert f"#SBATCH --{line}\n" in text
    assert "#SBATCH --requeue" in text and "--signal=B:USR1@" in text
    assert "/pretrain-step-seed0-stage1-%j.log" in text and "export LRBENCH_HOME='/a b'" in text
    pages = content(Script(name="leaderboard", command=("true",)), "tiny", tmp_path, options, {}, tmp_path)
    assert "--gpus" not in pages


@pytest.mark.parametrize("others", ["account", "--account=a", "a b=c", "a=b\n#SBATCH --c=d"])
def test_malformed_options_are_refused(others):
    with pytest.raises(InputError, match="KEY=VALUE"):
        SlurmOptions(others=(others,))


@pytest.mark.parametrize("time", ["11", "11:30", "0:11:00", "1-0", "0-1:2", "1-2:3:4"])
def test_time_limits_are_those_of_sbatch(time):
    assert f"#SBATCH --time={time}" in SlurmOptions(time=time).lines()


@pytest.mark.parametrize(
    ("time", "message"), [("9", "too short"), ("0:09:59", "too short"), ("4 h", "not a time limit")]
)
def test_time_limits_without_time_to_save_are_refused(time, message):
    with pytest.raises(InputError, match=message):
        SlurmOptions(time=time)


@pytest.mark.parametrize(
    ("stops", "number", "requeued"),
    [
        ("save", signal.SIGUSR1, True),
        ("save", signal.SIGTERM, False),
        ("never", signal.SIGUSR1, False),
        ("done", None, False),
    ],
)
def test_script_saves_at_the_warning_and_is_requeued(tmp_path, stops, number, requeued):
    """As under Slurm: a signal reaches the script, which passes it on; a warning asks to start again if work is left."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    program = """import signal, sys, time, pathlib
status = {"save": 130, "never": 0, "done": 2}[sys.argv[2]]
def stop(*_):
    time.sleep(0.5)
    sys.exit(status)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], "started").touch()
time.sleep(0 if sys.argv[2] == "done" else 20)
sys.exit(status)
"""
    command = (sys.executable, "-c", program, str(tmp_path), stops)
    script = tmp_path / "job.sh"
    script.write_text(content(Script(name="a", command=command), "tiny", tmp_path, SlurmOptions(), {}, tmp_path))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"}
    process = subprocess.Popen(["/bin/bash", script], env=environment)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
    if stops != "done":
        process.send_signal(number)
    status = {"save": 130, "never": 0, "done": 2}[stops]
    assert process.wait(timeout=30) == status
    assert (tmp_path / "a.status").read_text() == f"{status}\n"
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 17\n"


ONE = ["tiny.toml", "--set", 'arms=["step"]', "--set", 'targets=["tiny-objects"]', "--set", "seeds=[0]"]


def test_suite_is_submitted_with_dependencies(lrbench, home, slurm):
    done = lrbench("run", *ONE, "--engine", "slurm", "--partition", "gpu")
    assert done.status == 0, done.err
    folder = home / done.out.strip()
    asked = [line.split() for line in (slurm / "asked").read_text().splitlines()]
    recorded = {record["name"]: record for record in json.loads((folder / "jobs.json").read_text())["jobs"]}
    assert len(asked) == len(recorded) == 11
    ids = {name: record["job_id"] for name, record in recorded.items()}
    of = {line[-1].rpartition("/")[2]: line for line in asked}
    parent = ids["pretrain step/seed0/stage1"]
    prepared = ids["prepare tiny-source"]
    assert f"--dependency=afterok:{prepared}:{parent}" in of["pretrain-step-seed0-stage2.sh"]
    assert not any("--dependency" in part for part in of["prepare-tiny-source.sh"])
    assert any(part.startswith("--dependency=afterany:") for part in of["leaderboard.sh"])
    text = (folder / "pretrain-step-seed0-stage2.sh").read_text()
    assert """--set 'arms=["step"]'""" in text and "--job 'pretrain step/seed0/stage2'" in text
    # The plan shows what Slurm still has, and nothing is submitted twice.
    (slurm / "states").write_text(f"{parent} RUNNING\n{ids['leaderboard']} PENDING\n999 RUNNING\n")
    planned = lrbench("plan", *ONE)
    assert "pretrain running" in planned.out and "in Slurm: 1 pending, 1 running" in planned.out
    again = lrbench("run", *ONE, "--engine", "slurm")
    assert again.status == 2 and f"scancel {parent} {ids['leaderboard']}" in again.err
    assert json.loads(lrbench("plan", *ONE, "--json").out)["slurm"] == {
        "pretrain step/seed0/stage1": "RUNNING", "leaderboard": "PENDING"
    }  # fmt: skip


def test_refusal_of_slurm_names_what_is_submitted(lrbench, home, slurm):
    (slurm / "full").write_text("103")
    (slurm / "refusal").write_text("Invalid account")
    done = lrbench("run", *ONE, "--engine", "slurm")
    assert done.status == 1
    assert "Invalid account. 3 of 11 scripts are submitted; `scancel 101 102 103` ends them" in done.err


def test_small_limits_of_slurm_get_one_job_for_each_seed(lrbench, home, slurm):
    (slurm / "full").write_text("103")
    (slurm / "refusal").write_text("AssocMaxSubmitJobLimit")
    done = lrbench("run", "tiny.toml", "--engine", "slurm")
    assert done.status == 0, done.err
    assert (slurm / "cancelled").read_text() == "101 102 103\n"
    assert "One job is submitted for each pretraining seed instead" in done.err
    asked = (slurm / "asked").read_text().splitlines()[3:]
    assert [line.rpartition("/")[2] for line in asked] == ["seed0.sh", "seed1.sh", "leaderboard.sh"]


def test_dry_run_writes_scripts_without_slurm(lrbench, home, monkeypatch):
    monkeypatch.setenv("PATH", str(home))
    done = lrbench("run", *ONE, "--engine", "slurm", "--dry-run", "--sbatch", "account=vision")
    assert done.status == 0, done.err
    scripts = sorted((home / done.out.strip()).glob("*.sh"))
    assert len(scripts) == 11 and all("#SBATCH --account=vision" in path.read_text() for path in scripts)
    refused = lrbench("run", *ONE, "--engine", "slurm")
    assert refused.status == 2 and "no sbatch on this machine" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "pbs"], "no engine 'pbs'. Use local, ray or slurm"),
        (["--partition", "gpu"], "--partition needs --engine slurm"),
        (["--dry-run"], "--dry-run needs --engine slurm"),
    ],
)
def test_options_of_another_engine_are_refused(lrbench, home, arguments, message):
    refused = lrbench("run", *ONE, *arguments)
    assert refused.status == 2 and message in refused.err


@pytest.mark.parametrize("arguments", [("--engine", "slurm"), ("--gpus-per-job", "2")])
def test_processes_of_torchrun_start_no_others(lrbench, home, monkeypatch, arguments):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = lrbench("run", "tiny.toml", *arguments)
    assert refused.status == 2 and "torchrun started this process" in refused.err


def test_scripts_commands_run_their_jobs_alone(lrbench, home):
    early = lrbench("run", *ONE, "--job", "pretrain step/seed0/stage1")
    assert early.status == 2 and "needs `pretrain step/seed0/stage0`, which is not done" in early.err
    for name in ("pretrain step/seed0/stage0", "transfer step/seed0/stage0 to tiny-objects"):
        done = lrbench("run", *ONE, "--job", name, "--workers", "1")
        assert done.status == 0, done.err
    assert list((home / "checkpoints").rglob("stage0.safetensors")) and not (home / "leaderboard" / "tiny.md").exists()
    # A job that is done is in no plan.
    assert lrbench("run", *ONE, "--job", "pretrain step/seed0/stage0").status == 0


def test_node_of_a_job_is_checked_before_it_works(lrbench, home, monkeypatch):
    (home / "data").mkdir()
    dry = lrbench("run", *ONE, "--engine", "slurm", "--dry-run")
    folder = home / dry.out.strip()
    monkeypatch.setenv("LRBENCH_SUBMISSION", str(folder))
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    job = ("run", *ONE, "--job", "pretrain step/seed0/stage9")
    assert lrbench(*job).status == 0
    content = json.loads((folder / "jobs.json").read_text())
    for change, message in (
        ({"roots": ["/none"]}, "the node node7 has no folder /none"),
        ({"versions": {"torch": "1.0"}}, "instead of 1.0. Install the same environment on every node"),
    ):
        (folder / "jobs.json").write_text(json.dumps(content | change))
        refused = lrbench(*job)
        assert refused.status == 2 and message in refused.err
    monkeypatch.setenv("LRBENCH_SUBMISSION", str(folder / "unmounted"))
    refused = lrbench(*job)
    assert refused.status == 2 and "the node node7 does not see" in refused.err


def test_leases_are_chosen_where_locks_are_local(lrbench, home, monkeypatch):
    monkeypatch.setenv("LRBENCH_LOCKS", "flock")
    monkeypatch.setattr("lrbench.core.locks.has_only_local_locks", lambda folder: True)
    dry = lrbench("run", *ONE, "--engine", "slurm", "--dry-run")
    assert "mounted without locks between nodes; leases are used" in dry.err
    script = next((home / dry.out.strip()).glob("pretrain-*.sh"))
    assert "export LRBENCH_LOCKS=lease\n" in script.read_text()
