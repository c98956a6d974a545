"""A network, host name, mounts and process tree of their own, for tests that start a cluster on this machine."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_OPTIONS = ["--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def _unshare() -> list[str]:
    # It ends with the test, also if that is killed.
    ending = ["setpriv", "--pdeathsig", "KILL"]
    return [*ending, "unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *_OPTIONS]


def is_possible() -> bool:
    """Return whether this user may create namespaces here."""
    try:
        command = [*_unshare(), "ip", "link", "set", "lo", "up"]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False


@contextmanager
def own_network() -> Iterator[None]:
    """Give this thread, and what it starts, a network with nothing but the loopback device. Only root may do so."""
    libc, network = ctypes.CDLL(None, use_errno=True), 0x40000000
    with open("/proc/thread-self/ns/net") as before:
        assert libc.unshare(network) == 0, os.strerror(ctypes.get_errno())
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(before.fileno(), network) == 0


class Namespace:
    """Processes that see each other and no network; all end with `close`.

    Args:
        setup: Shell commands that run in it first.
        environment: Variables of all its processes.
        folder: Their working folder.
    """

    def __init__(self, setup: str, environment: Mapping[str, str], folder: Path) -> None:
        self.environment, self._folder = dict(environment), folder
        script = f"set -e\nip link set lo up\n{setup}\necho ready\nexec sleep infinity"
        self._process = subprocess.Popen(
            [*_unshare(), "bash", "-c", script], stdout=subprocess.PIPE, env=self.environment, cwd=folder
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        pid = self._process.pid
        self._first = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def start(self, *command: str, log: Path | None = None) -> "subprocess.Popen[bytes]":
        """Start a process in the namespace, with its output in a file."""
        with open(log or os.devnull, "ab") as file:
            return subprocess.Popen(self._entering(command), stdout=file, stderr=file, env=self.environment)

    def run(self, *command: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        """Run a command in the namespace and return its output."""
        return subprocess.run(
            self._entering(command), capture_output=True, text=True, timeout=timeout, env=self.environment, check=False
        )

    def kill(self, *texts: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signal all processes whose command line or variables contain one of these texts, and return their number."""
        processes = self.processes(*texts)
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        return len(processes)

    def processes(self, *texts: str) -> list[int]:
        """Return the processes whose command line or variables contain one of these texts."""
        own = os.stat(f"/proc/{self._first}/ns/pid").st_ino
        processes = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                content = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
                is_member = os.stat(folder / "ns" / "pid").st_ino == own
            except OSError:
                # It has ended.
                continue
            if is_member and any(text.encode() in content for text in texts):
                processes.append(int(folder.name))
        return processes

    def close(self) -> None:
        """End all processes of the namespace."""
        os.kill(self._first, signal.SIGKILL)
        self._process.wait()

    def _entering(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self._first), "--all", "env", "--chdir", str(self._folder), *command]
