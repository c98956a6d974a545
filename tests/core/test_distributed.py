"""The process group that torchrun's environment describes. Stand-ins take the part of GPUs."""

import sys

import pytest
import torch
import torch.distributed

from lrbench.core.distributed import init_process_group
from lrbench.core.errors import InputError


@pytest.mark.parametrize(("gpus", "backend"), [(2, "nccl"), (0, "gloo")])
def test_processes_on_gpus_use_nccl(monkeypatch, gpus, backend):
    asked = []
    for name, value in {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: asked.append(("device", number)))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    # The package has a function of the module's name.
    module = sys.modules["torch.distributed.rendezvous"]
    monkeypatch.setattr(module, "rendezvous", lambda *_, **__: iter([(torch.distributed.HashStore(), 1, 2)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, **_: asked.append(("group", name)))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: asked.append(("end", backend)))
    with init_process_group() as ranks:
        assert not ranks.is_main and ranks.claim("a") and not ranks.claim("a")
    assert asked == [*([("device", 1)] if gpus else []), ("group", backend), ("end", backend)]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(InputError, match=r"2 processes .* which has 1 GPU: .* \(--nproc-per-node 1\)"),
        init_process_group(),
    ):
        pass
