"""A suite on a Ray cluster whose workers, nodes and drivers are killed."""

import os
import random
import shutil
import signal
import time
from importlib.util import find_spec

import pytest

from tests.helpers import tiny_suite_toml
from tests.jobs import namespace
from tests.jobs.helpers import held_locks
from tests.jobs.ray_cluster import Cluster
from tests.jobs.results import outcomes, weights
from tests.jobs.slurm_cluster import wait_for

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(not namespace.is_possible(), reason="this user may not create namespaces"),
]

KILLS = int(os.environ.get("LRBENCH_TEST_KILLS", "20"))
SUITE = tiny_suite_toml(
    arms=["step"],
    targets=["tiny-objects"],
    protocols=["knn"],
    seeds=[0, 1],
    schedule={"epochs": 110, "boundaries": [100], "rates": [0.1, 0.01]},
)
OPTIONS = ("tiny.toml", "--gpus", "0", "--cpus", "1")


@pytest.fixture(scope="module")
def cluster(shared_home):
    cluster = Cluster(shared_home)
    yield cluster
    cluster.close()


def test_node_without_the_workspace_is_named(cluster, shared_home):
    cluster.start_node("node3", f"mount -t tmpfs tmpfs {shared_home}")
    driver = cluster.run(*OPTIONS, log=shared_home / "refused.log")
    assert driver.wait(300) == 2
    assert f"the node node3 does not see {shared_home}" in " ".join((shared_home / "refused.log").read_text().split())
    cluster.lose_node("node3")


def test_results_survive_lost_workers_nodes_and_drivers(cluster, shared_home, local_home):
    home, rng = shared_home, random.Random(0)
    log = home / "driver.log"
    cluster.start_node("node2")
    driver = None
    kinds = [kind for _ in range(-(-KILLS // 3)) for kind in rng.sample(["worker", "node", "driver"], 3)]
    for kind in kinds[:KILLS]:
        if driver is None or driver.poll() is not None:
            if driver is not None and driver.returncode == 0:
                # All is computed; it is computed again.
                shutil.rmtree(home / "checkpoints")
                shutil.rmtree(home / "leaderboard")
            driver = cluster.run(*OPTIONS, log=log)
        # Jobs that hold the lock of their snapshot train; others still import their libraries.
        wait_for(lambda driver=driver: held_locks(home / "checkpoints") or driver.poll() is not None)
        time.sleep(rng.uniform(0, 2))
        if kind == "worker":
            cluster.lose_worker(rng)
        elif kind == "node":
            cluster.lose_node("node2")
            cluster.start_node("node2")
        else:
            cluster.signal_driver(signal.SIGKILL)
            driver.wait(300)
    if driver.poll() is None:
        cluster.signal_driver(signal.SIGINT)
        assert driver.wait(300) == 130, log.read_text()
        assert log.read_text().endswith("Run the same command again to continue.\n")
    # Two drivers on one suite.
    drivers = [cluster.run(*OPTIONS, log=home / f"driver{number}.log") for number in range(2)]
    assert [driver.wait(900) for driver in drivers] == [0, 0], (home / "driver0.log").read_text()
    local = local_home()
    assert weights(home) == weights(local)
    assert outcomes(home) == outcomes(local)
    assert {record["device"] for record in outcomes(home).values()} == {"cpu"}
