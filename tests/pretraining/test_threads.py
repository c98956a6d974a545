"""Training does not depend on the number of threads or worker processes."""

import pytest
import torch

from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_json
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.cells import Cell, TransferSettings
from lrbench.store.references import resolve_reference
from lrbench.store.results import read_result
from lrbench.store.snapshots import read_metadata, snapshot_path
from lrbench.store.suites import recipe
from lrbench.transfer.cell import Transfer
from tests.pretraining.helpers import key, make


def with_threads(suite, threads):
    return suite.model_copy(update={"training": suite.training.model_copy(update={"threads": threads})})


@pytest.fixture
def computed_with(monkeypatch):
    """Numbers of threads that updates were computed with."""
    numbers = set()
    backward = torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor,
        "backward",
        lambda *given, **named: numbers.add(torch.get_num_threads()) or backward(*given, **named),
    )
    return numbers


def trained(suite, place, threads):
    torch.set_num_threads(threads)
    path = make(suite, key("step", 1), place)
    content = path.read_bytes()
    for part in path.parent.iterdir():
        if part.is_file():
            part.unlink()
    assert torch.get_num_threads() == threads
    return content


def test_snapshot_does_not_depend_on_available_cores(tiny, place, computed_with):
    assert trained(tiny, place, 1) == trained(tiny, place, 3)
    assert computed_with == {1}


def test_threads_of_the_suite_are_recorded(tiny, place, computed_with):
    suite = with_threads(tiny, 2)
    path = make(suite, key("step", 1), place)
    assert computed_with == {2} and read_metadata(path).threads == 2
    # All stages of a run use the same number of threads.
    with pytest.raises(InputError, match="was pretrained with other settings"):
        make_snapshot(tiny, key("step", 2), place, Control())
    assert snapshot_path(place.workspace.checkpoints, "tiny", key("step", 2)).exists() is False


def test_default_threads_do_not_change_the_recipe(tiny):
    assert "threads" not in tiny.model_dump(mode="json")["training"]
    assert recipe(with_threads(tiny, 1)) == recipe(tiny) != recipe(with_threads(tiny, 2))
    settings = TransferSettings.of(tiny)
    assert "threads" not in settings.finetune.model_dump(mode="json")


def test_finetuning_does_not_depend_on_available_cores(tiny, place, computed_with):
    from lrbench.store.suites import write_effective

    write_effective(place.workspace, tiny)
    make(tiny, key("step", 0), place)
    reference = resolve_reference("stage0", place.workspace)
    hashes = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        path = Transfer(reference, TransferSettings.of(tiny), place, Control()).run(
            Cell(task="tiny-objects", protocol="finetune", seed=0)
        )
        hashes.append(
            sha256_json(read_result(path).model_dump(mode="json", exclude={"timings", "computed", "record_sha256"}))
        )
    assert hashes[0] == hashes[1] and computed_with == {1}
