"""Devices of this machine's worker processes: the CPUs, GPUs, and groups of GPUs that pretrain a snapshot together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lrbench.core.errors import InputError
from lrbench.jobs.job import Job, PretrainJob
from lrbench.jobs.preparation import PrepareJob


def prepares(job: Job) -> bool:
    """Return whether a job needs no GPU."""
    return isinstance(job, PrepareJob)


def computes(job: Job) -> bool:
    """Return whether a job uses a GPU if there is one."""
    return not isinstance(job, PrepareJob)


def pretrains(job: Job) -> bool:
    """Return whether a job pretrains a snapshot."""
    return isinstance(job, PretrainJob)


def evaluates(job: Job) -> bool:
    """Return whether a job uses one GPU, also where several pretrain a snapshot."""
    return not isinstance(job, PrepareJob | PretrainJob)


@dataclass(kw_only=True, eq=False)
class Device:
    """A CPU or one or several GPUs, with limits on its worker processes.

    Attributes:
        gpu: Value of CUDA_VISIBLE_DEVICES: a GPU, several, or none. None to leave the variable as it is.
        most: Largest number of workers; lowered when memory runs out.
        takes: Which jobs run on it.
        processes: Processes that pretrain a snapshot together.
        parts: The GPUs of a group, each as a device for other jobs while the group is idle.
        group: The group of which it is a part.
    """

    gpu: str | None
    most: int = 1
    takes: Callable[[Job], bool] = lambda job: True
    processes: int = 1
    parts: "list[Device]" = field(default_factory=list)
    group: "Device | None" = None

    @property
    def is_plain(self) -> bool:
        """True for a single GPU that runs all jobs that use one."""
        return bool(self.gpu) and self.takes is computes


def preparing_device() -> Device:
    """Return the CPUs of a machine with GPUs, for jobs that prepare images."""
    return Device(gpu="", takes=prepares)


def single_gpus(gpus: Sequence[str], most: int) -> list[Device]:
    """Return every GPU as a device.

    Args:
        gpus: Values of CUDA_VISIBLE_DEVICES.
        most: Largest number of workers on each.
    """
    return [Device(gpu=gpu, most=most, takes=computes) for gpu in gpus]


def grouped_gpus(gpus: Sequence[str], size: int) -> list[Device]:
    """Return groups of GPUs that pretrain a snapshot together, and every GPU for other jobs.

    Args:
        gpus: Values of CUDA_VISIBLE_DEVICES.
        size: GPUs of a group.

    Raises:
        InputError: There are fewer GPUs.
    """
    if len(gpus) < size:
        count = f"{len(gpus)} GPU{'' if len(gpus) == 1 else 's'}" if gpus else "no GPU"
        advice = f"Use at most --gpus {len(gpus)}" if len(gpus) > 1 else "Leave the option out"
        raise InputError(f"this machine has {count}, but --gpus {size} asks for {size} for each snapshot. {advice}.")
    devices: list[Device] = []
    for first in range(0, len(gpus), size):
        members = gpus[first : first + size]
        parts = [Device(gpu=gpu, takes=evaluates) for gpu in members]
        if len(members) == size:
            group = Device(gpu=",".join(members), takes=pretrains, processes=size, parts=parts)
            for part in parts:
                part.group = group
            devices.append(group)
        devices += parts
    return devices
