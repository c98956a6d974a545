"""A Slurm cluster of two nodes on this machine, from Debian's packages slurmctld, slurmd and slurm-client."""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.jobs.namespace import Namespace

Value = TypeVar("Value")

# Where the packages are unpacked. They need not be installed.
_ROOT = Path(os.environ.get("LRBENCH_TEST_SLURM", "/"))

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost=head
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=2
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=3
KillWait=60
MinJobAge=3600
NodeName=node[1-2] NodeHostname=head Port=[17001-17002] CPUs=1
PartitionName=main Nodes=ALL Default=YES
"""


def _daemon(name: str) -> Path | None:
    paths = (_ROOT / "usr/sbin" / file for file in (name, f"{name}-wlm"))
    return next((path for path in paths if path.is_file()), None)


def is_installed() -> bool:
    """Return whether the daemons and programs of Slurm are here."""
    return all(_daemon(name) for name in ("slurmctld", "slurmd", "slurmstepd")) and (_ROOT / "usr/bin/sbatch").exists()


def wait_for(ask: Callable[[], Value], seconds: float = 300) -> Value:
    """Return the first answer that is true."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"still {answer!r} after {seconds:.0f} s"
        time.sleep(0.1)
    return answer


class Cluster:
    """Two nodes with one core each.

    Args:
        folder: Folder of its files.
        home: Workspace that the nodes share.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        library = next((_ROOT / "usr/lib").glob("*/slurm-wlm"))
        for name in ("sbin", "state"):
            (folder / name).mkdir()
        # slurmd starts it by the path that it was compiled with.
        shutil.copy2(_daemon("slurmstepd") or "", folder / "sbin/slurmstepd")
        configuration = folder / "slurm.conf"
        configuration.write_text(_CONFIGURATION.format(plugins=library, folder=folder))
        # Names are resolved only on a machine with an address that is not a loopback one.
        (folder / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 head node1 node2\n")
        setup = f"""
hostname head
ip address add 10.77.0.1/32 dev lo
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/sbin /usr/sbin
"""
        environment = {
            **os.environ,
            "SLURM_CONF": str(configuration),
            "LD_LIBRARY_PATH": f"{library}:{library.parent}",
            "PATH": f"{_ROOT}/usr/bin:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        self.namespace = Namespace(setup, environment, home)
        self._start("slurmctld")
        for node in ("node1", "node2"):
            self.start_node(node)
        wait_for(lambda: self.ask("sinfo", "--noheader", "--states=idle", "--format=%D").strip() == "2")

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, which remembers no job."""
        shutil.rmtree(self._folder / f"spool-{node}", ignore_errors=True)
        self._start("slurmd", "-N", node)

    def lose_node(self, node: str, job: str) -> None:
        """Kill the daemon of a node and everything of a job that runs there."""
        # Those first that would report the death of the others.
        for text in (f"{_daemon('slurmd')}\0-D\0-N\0{node}\0", f"slurmstepd: [{job}.", f"SLURMD_NODENAME={node}\0"):
            assert self.namespace.kill(text), text

    def ask(self, *command: str) -> str:
        """Run a program of Slurm and return what it prints."""
        done = self.namespace.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def lrbench(self, *arguments: str) -> tuple[int, str, str]:
        """Run lrbench on the log-in node; return its status and output."""
        done = self.namespace.run(sys.executable, "-m", "lrbench", *arguments)
        return done.returncode, done.stdout, done.stderr

    def job(self, number: str) -> dict[str, str]:
        """Return what Slurm knows of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.ask("scontrol", "show", "job", number)))

    def is_empty(self) -> bool:
        """Return whether no job waits or runs."""
        return not self.ask("squeue", "--noheader").strip()

    def start_again_now(self, number: str) -> None:
        """Let a job that was requeued start soon, not after Slurm's two minutes."""
        wait_for(lambda: self.job(number)["JobState"] == "PENDING")
        # Credentials of the first start that was ended are revoked by the second.
        self.ask("scontrol", "update", f"JobId={number}", "StartTime=now+3")

    def close(self) -> None:
        """End all processes."""
        self.namespace.close()

    def _start(self, name: str, *arguments: str) -> None:
        log = self._folder / f"{name}{''.join(arguments)}.out"
        self.namespace.start(str(_daemon(name)), "-D", *arguments, log=log)
