"""A Ray cluster of several nodes on this machine."""

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.jobs.namespace import Namespace
from tests.jobs.slurm_cluster import wait_for

ADDRESS = "127.0.0.1:6379"
_START = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]


class Cluster:
    """A head, where drivers run, and further nodes.

    Args:
        home: Workspace that the nodes share.
        cores: Jobs that a node runs at a time.
    """

    def __init__(self, home: Path, cores: int = 1) -> None:
        # Paths of sockets are limited to about a hundred bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._home = home
        environment = {
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self._folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "OMP_NUM_THREADS": "1",
            # On a busy machine, niceness would keep jobs from ending.
            "RAY_worker_niceness": "0",
            # Starting a worker costs more than any job: none starts without a job, or ends while it has none.
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_num_workers_soft_limit": "16",
        }
        self.namespace = Namespace("hostname head", environment, home)
        log = self._folder / "head.log"
        self._start = [*_START, f"--num-cpus={cores}"]
        self.namespace.start(*self._start, "--head", "--port=6379", "--include-dashboard=false", log=log)
        wait_for(lambda: _has_started(log))

    def start_node(self, name: str, setup: str = "true") -> None:
        """Start a node, whose GPUs are of another type than those of all others.

        Args:
            name: Its host name.
            setup: Shell commands that run first, in mounts of its own.
        """
        log = self._folder / f"{name}.log"
        log.unlink(missing_ok=True)
        script = f'hostname {name} && {setup} && cd / && exec "$@"'
        self.namespace.start(
            "unshare", "--uts", "--mount", "env", f"TEST_NODE={name}", "bash", "-c", script, name,
            *self._start, f"--address={ADDRESS}", f'--resources={{"accelerator_type:{name}": 1}}', log=log,
        )  # fmt: skip
        wait_for(lambda: _has_started(log))

    def lose_node(self, name: str) -> None:
        """Kill all processes of a node, and wait until Ray notices."""
        assert self.namespace.kill(f"TEST_NODE={name}\0")

    def lose_worker(self, rng: random.Random) -> None:
        """Kill one of the processes that run jobs, if there is one."""
        if processes := self.namespace.processes("ray::perform"):
            with suppress(ProcessLookupError):
                os.kill(rng.choice(processes), signal.SIGKILL)

    def run(self, *arguments: str, log: Path) -> "subprocess.Popen[bytes]":
        """Start `lrbench run` on the head."""
        command = [sys.executable, "-m", "lrbench", "run", *arguments, "--engine", "ray", "--address", ADDRESS]
        return self.namespace.start(*command, log=log)

    def signal_driver(self, number: signal.Signals) -> None:
        """Send a signal to the drivers."""
        self.namespace.kill("-m\0lrbench\0run\0", number=number)

    def close(self) -> None:
        """End all processes."""
        self.namespace.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _has_started(log: Path) -> bool:
    return log.is_file() and "Ray runtime started" in log.read_text()
