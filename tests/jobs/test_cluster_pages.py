"""The configuration files in docs/how-to/run-on-a-cluster.md."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

yaml = pytest.importorskip("yaml")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-on-a-cluster.md"


@pytest.fixture(scope="module")
def files():
    texts = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [yaml.safe_load(text) for text in texts]


def of_kind(files, kind):
    return next(file for file in files if file.get("kind") == kind)


def check_pod(pod, needs_gpu):
    (container,) = pod["containers"]
    assert {"name": "LRBENCH_HOME", "value": "/shared/lrbench"} in container["env"]
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == needs_gpu
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["image"].startswith("registry.example.org/lrbench:")


def test_kuberay_job_has_its_keys(files):
    job = of_kind(files, "RayJob")
    assert job["apiVersion"] == "ray.io/v1" and set(job) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(job["spec"]) == {"entrypoint", "shutdownAfterJobFinishes", "backoffLimit", "rayClusterSpec"}
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"} and cluster[
        "authOptions"
    ] == {"mode": "token"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert set(head) == {"rayStartParams", "template"} and head["rayStartParams"] == {"num-cpus": "0"}
    assert set(workers) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    check_pod(head["template"]["spec"], needs_gpu=False)
    check_pod(workers["template"]["spec"], needs_gpu=True)


def test_indexed_job_runs_one_seed_in_each_pod(files):
    spec = of_kind(files, "Job")["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 3
    check_pod(spec["template"]["spec"], needs_gpu=True)


def test_skypilot_task_has_its_keys(files):
    task = next(file for file in files if "kind" not in file)
    assert set(task) == {"name", "num_nodes", "resources", "file_mounts", "envs", "setup", "run"}
    assert set(task["file_mounts"]["/shared"]) == {"name", "store", "mode"}


def test_commands_of_the_page_have_these_options(files):
    from lrbench.cli.app import app

    commands = re.findall(r"^(?:\S+=\S+ )*.*?lrbench (run [^#\n'…]*)", PAGE.read_text(), flags=re.MULTILINE)
    commands += [of_kind(files, "RayJob")["spec"]["entrypoint"].removeprefix("lrbench ")]
    known = {option for parameter in typer.main.get_command(app).commands["run"].params for option in parameter.opts}
    used = {word for command in commands for word in shlex.split(command.replace('"', "")) if word.startswith("--")}
    assert {"--engine", "--seed", "--time", "--cpus"} <= used <= known
