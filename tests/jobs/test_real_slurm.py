"""A suite on a real Slurm: requeued, after the loss of a node, and after a job that fails."""

import json
from pathlib import Path

import pytest

from tests.helpers import tiny_suite_toml
from tests.jobs import namespace, slurm_cluster
from tests.jobs.helpers import held_locks
from tests.jobs.results import outcomes, weights
from tests.jobs.slurm_cluster import Cluster, wait_for

pytestmark = [
    pytest.mark.skipif(
        not slurm_cluster.is_installed(), reason="Slurm (slurmctld, slurmd, slurm-client) is not installed"
    ),
    pytest.mark.skipif(not namespace.is_possible(), reason="this user may not create namespaces"),
]

# Stage 1 trains for several seconds.
SUITE = tiny_suite_toml(
    arms=["step"],
    targets=["tiny-objects"],
    protocols=["knn"],
    seeds=[0],
    schedule={"epochs": 310, "boundaries": [300], "rates": [0.1, 0.01]},
)
STAGE = "pretrain step/seed0/stage1"
FOLDER = Path("checkpoints/tiny/step/seed0")


@pytest.fixture(scope="module")
def cluster(shared_home, tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), shared_home)
    yield cluster
    cluster.close()


def submit(cluster: Cluster, home: Path, *options: str) -> dict[str, str]:
    """Submit what is missing; return the number of the job of every script."""
    status, out, err = cluster.lrbench("run", "tiny.toml", "--engine", "slurm", "--gpus", "0", *options)
    assert status == 0, err
    records = json.loads((home / out.strip() / "jobs.json").read_text())["jobs"]
    return {record["name"]: record["job_id"] for record in records}


def wait_until_it_trains(cluster: Cluster, home: Path, job: str) -> None:
    wait_for(lambda: cluster.job(job)["JobState"] == "RUNNING")
    # A job that holds the lock of its snapshot is past its imports.
    wait_for(lambda: home / FOLDER / ".stage1.safetensors.lock" in held_locks(home / FOLDER))


def test_refusal_of_slurm_is_reported(cluster):
    status, _, err = cluster.lrbench("run", "tiny.toml", "--engine", "slurm", "--gpus", "0", "--partition", "none")
    assert status == 1 and "invalid partition" in err.lower() and "Nothing is submitted" in err


def test_results_survive_a_time_limit_a_lost_node_and_a_failure(cluster, shared_home, local_home):
    home = shared_home
    # Stage 2 cannot be locked.
    obstacle = home / FOLDER / ".stage2.safetensors.lock"
    obstacle.mkdir(parents=True)
    jobs = submit(cluster, home)
    stage = jobs[STAGE]
    wait_until_it_trains(cluster, home, stage)
    # Slurm's warning before a time limit.
    cluster.ask("scancel", "--batch", "--signal=USR1", stage)
    cluster.start_again_now(stage)
    assert (home / FOLDER / "stage1.progress.pt").is_file()
    wait_until_it_trains(cluster, home, stage)
    node = cluster.job(stage)["NodeList"]
    cluster.lose_node(node, stage)
    cluster.start_again_now(stage)
    wait_for(lambda: cluster.job(stage)["JobState"] == "RUNNING")
    assert cluster.job(stage)["NodeList"] != node
    cluster.start_node(node)
    wait_for(cluster.is_empty, 900)
    assert cluster.job(stage)["Restarts"] == "2"
    states = {name: cluster.job(number)["JobState"] for name, number in jobs.items()}
    # A failed job cancels only those that need it.
    assert states.pop("pretrain step/seed0/stage2") == "FAILED"
    assert states.pop("transfer step/seed0/stage2") == "CANCELLED"
    assert set(states.values()) == {"COMPLETED"} and len(states) == 7
    _, out, _ = cluster.lrbench("plan", "tiny.toml")
    assert "failed in Slurm: pretrain step/seed0/stage2 (exit status" in " ".join(out.split())
    obstacle.rmdir()
    # Prepared images may be read without their own jobs.
    assert len(submit(cluster, home, "--no-cache")) == 3, "only what is missing"
    wait_for(cluster.is_empty, 900)
    local = local_home()
    assert weights(home) == weights(local)
    assert outcomes(home) == outcomes(local)
    assert (home / "leaderboard/tiny.md").is_file()


def test_cancelled_job_is_saved_and_stays_cancelled(cluster, shared_home):
    home = shared_home
    for path in (home / FOLDER).glob("stage1.*"):
        path.unlink()
    jobs = submit(cluster, home)
    stage = jobs[STAGE]
    wait_until_it_trains(cluster, home, stage)
    cluster.ask("scancel", *jobs.values())
    wait_for(cluster.is_empty, 900)
    assert cluster.job(stage)["JobState"] == "CANCELLED"
    assert (home / FOLDER / "stage1.progress.pt").is_file()
