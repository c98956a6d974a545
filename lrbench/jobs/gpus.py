"""The GPUs of this machine, and how many worker processes share one of them."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A worker that waits for the GPU or for images for a larger share of its training time gains nothing from company.
_MOST_WAITING = 0.3
# Free GPU memory that a new worker must have, as a multiple of what the largest one has reserved.
_MEMORY_MARGIN = 1.5
# A CUDA context and its libraries take about this much memory in each process.
_CONTEXT_BYTES = 600 << 20


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one worker uses of its GPU, measured while it trains.

    Attributes:
        waiting: Share of the training time in which the process waits for the GPU or for images. The rest of the time it
            launches kernels, during which a fast GPU may be idle.
        reserved: Bytes of GPU memory that the process has reserved at most.
        free: Bytes of GPU memory that are free.
    """

    waiting: float
    reserved: int
    free: int


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use, as values of CUDA_VISIBLE_DEVICES. torch is not imported.

    A GPU that is listed may still be unusable for torch, which only a process that imports it finds out.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = []
        for name in (part.strip() for part in named.split(",")):
            # CUDA ignores all that follows an invalid entry.
            if name in {"", "-1"}:
                break
            names.append(name)
        return tuple(dict.fromkeys(names))
    if devices := [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdecimal()]:
        return tuple(str(number) for number in range(len(devices)))
    # As under WSL, where there are no such files.
    if (program := shutil.which("nvidia-smi")) is None:
        return ()
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines())))


def more_workers(loads: Sequence[Load | None], most: int) -> int:
    """Return how many workers to add to those that share a GPU.

    Their number is doubled while each spends most of its time launching kernels and memory is plentiful.

    Args:
        loads: Load of each worker on the GPU; None if it has not been measured since the last was added.
        most: Largest number of workers.
    """
    known = [load for load in loads if load is not None]
    if not known or len(known) < len(loads) or max(load.waiting for load in known) > _MOST_WAITING:
        return 0
    needed = _MEMORY_MARGIN * max(load.reserved for load in known) + _CONTEXT_BYTES
    return max(0, min(len(known), most - len(known), int(min(load.free for load in known) / needed)))
