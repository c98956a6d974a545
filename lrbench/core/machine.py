"""The machine that computes: device, cores, memory, library versions and lrbench's revision."""

import os
import re
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any


def device_name(device: Any) -> str:
    """Return the GPU's name, or the type of another device."""
    if device.type != "cuda":
        return str(device.type)
    import torch

    return torch.cuda.get_device_name(device)


def float32_modes(device: Any) -> dict[str, str]:
    """Return the precision of a GPU's float32 convolutions and matrix products; empty for other devices.

    By default torch uses TF32 (10 bits of mantissa) for convolutions on GPUs that have it, and float32 for matrix products.
    """
    if device.type != "cuda":
        return {}
    import torch

    kinds = {True: "tf32", False: "float32"}
    return {
        "convolutions": kinds[torch.backends.cudnn.allow_tf32],
        "products": kinds[torch.backends.cuda.matmul.allow_tf32],
    }


def utc_now() -> str:
    """Return the time in UTC as ISO 8601 with seconds: `2026-11-29T07:15:00Z`. Such texts sort by time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int:
    """Return the memory of this machine or container in bytes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdecimal() else memory


def local_world_size() -> int:
    """Return the number of processes that torchrun started on this machine, 1 without torchrun."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


_sharing = 1


def share_cores(processes: int) -> None:
    """Tell this process how many processes feed GPUs on this machine, itself included."""
    global _sharing
    _sharing = processes


def sharing_processes() -> int:
    """Return how many processes feed GPUs on this machine: the value passed to `share_cores`."""
    return _sharing


def feeding_cores() -> int:
    """Return this process's share of the cores for feeding a GPU."""
    return max(1, available_cores() // max(_sharing, local_world_size()))


DISTRIBUTION = "lrbench-transfer"
"""Name of lrbench for pip; the name `lrbench` belongs to another package there."""


def library_versions() -> dict[str, str]:
    """Return the versions of lrbench, torch, torchvision and timm."""
    return {"lrbench": own_version(), **{name: installed_version(name) for name in ("torch", "torchvision", "timm")}}


def own_version() -> str:
    """Return lrbench's version, or `unknown (not installed)`."""
    return installed_version(DISTRIBUTION)


@lru_cache
def installed_version(name: str) -> str:
    """Return the version of a distribution, or `unknown (not installed)`, as when lrbench runs from its source tree."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown (not installed)"


def requirements() -> list[str]:
    """Return the names of lrbench's required distributions, none when it runs from its source tree."""
    try:
        required = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    return [re.split(r"[ <>=!~;\[]", requirement)[0] for requirement in required if "extra ==" not in requirement]


@lru_cache(maxsize=1)
def source_revision() -> str | None:
    """Return the git revision of lrbench's checkout, with `+` for uncommitted changes; None for an installed package."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    head = _git(checkout, "rev-parse", "HEAD")
    changed = _git(
        checkout, "status", "--porcelain", "--untracked-files=no", "--", "lrbench", "tasks", "benchmark/suites"
    )
    return None if head is None or changed is None else head + ("+" if changed else "")


# A hook of another repository sets them.
_GIT_LOCATION = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"}


def _git(checkout: Path, *arguments: str) -> str | None:
    """Return what git prints of a checkout, stripped; None where git is missing, hangs or refuses."""
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_LOCATION}
    # A killed git says nothing of the checkout, and what a worker writes must not depend on whether one was killed.
    for _ in range(3):
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=checkout, env=environment, capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode >= 0:
            return None if done.returncode else done.stdout.strip()
    return None


def set_cublas_workspace() -> None:
    """Give cuBLAS a workspace of fixed size, which makes it deterministic, in this process and those that it starts.

    Must be called before the first matrix product on a GPU, when torch reads the setting.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
