"""What computed: the device, the libraries' versions, and lrbench's own revision."""

import os
import re
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any


def device_name(device: Any) -> str:
    """What the device is called: the GPU's name, or `cpu`."""
    if device.type != "cuda":
        return str(device.type)
    import torch

    return torch.cuda.get_device_name(device)


def arithmetic_of(device: Any) -> dict[str, str]:
    """How a GPU computes what is said to be in single precision; nothing for other devices, which keep to it.

    By torch's defaults convolutions take TF32 (a mantissa of 10 bits) where a GPU has it, and matrix products do not.
    """
    if device.type != "cuda":
        return {}
    import torch

    kinds = {True: "tf32", False: "float32"}
    return {
        "convolutions": kinds[torch.backends.cudnn.allow_tf32],
        "products": kinds[torch.backends.cuda.matmul.allow_tf32],
    }


def cores_here() -> int:
    """How many of this machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_here() -> int:
    """Bytes of memory that this machine, or the container of this process, has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdecimal() else memory


def processes_here() -> int:
    """How many processes torchrun started on this machine; 1 where it started none."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def library_versions() -> dict[str, str]:
    """Versions of what computes: lrbench, torch, torchvision and timm."""
    return {name: installed_version(name) for name in ("lrbench", "torch", "torchvision", "timm")}


def installed_version(name: str) -> str:
    """Version of an installed distribution; for others `unknown (not installed)`, as for lrbench run from its source tree."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown (not installed)"


def requirements() -> list[str]:
    """Names of the distributions that lrbench needs; none where it is run from its source tree."""
    try:
        required = requires("lrbench") or []
    except PackageNotFoundError:
        return []
    return [re.split(r"[ <>=!~;\[]", requirement)[0] for requirement in required if "extra ==" not in requirement]


@lru_cache(maxsize=1)
def source_revision() -> str | None:
    """Git revision of lrbench's own checkout, with `+` after it when files differ; None for an installed package."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, timeout=10)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "lrbench", "tasks", "benchmark/suites"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode or changed.returncode:
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def fix_cublas() -> None:
    """Have cuBLAS give the same bits each time, for which it needs a workspace of a fixed size; here and in started processes.

    torch looks at this at its first product of matrices on a GPU, whether determinism is asked for by then or not.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
