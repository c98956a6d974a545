"""A protocol is one module and one entry of the registry."""

import json

import pytest

from lrbench.config import load_suite
from lrbench.config.protocols import PROTOCOLS, Protocol
from lrbench.jobs.plan import make_plan
from lrbench.transfer.protocols import implementation


@pytest.fixture
def nearest_mean(monkeypatch):
    protocol = Protocol(
        name="nearest-mean",
        version=1,
        help="the class whose mean feature is nearest",
        module="tests.transfer.nearest_mean",
        selects=False,
        logits=False,
    )
    monkeypatch.setitem(PROTOCOLS, protocol.name, protocol)
    return protocol.name


def test_new_protocol_needs_a_module_and_an_entry(nearest_mean, lrbench, pretrain_tiny, home, place):
    pretrain_tiny("step")
    command = ("transfer", "--snapshot", "stage1", "--task", "tiny-objects", "--protocol", nearest_mean)
    done = lrbench(*command, "--json")
    assert done.status == 0, done.err
    record = json.loads(done.out)
    assert (record["protocol"], record["protocol_version"]) == (nearest_mean, 1)
    # Better than chance on four classes.
    assert record["metrics"]["top1"] > 0.25 and "expected_calibration_error" not in record["metrics"]
    assert "nothing was computed" in lrbench(*command).err
    assert lrbench("leaderboard", "tiny").status == 0
    assert f"## {nearest_mean}: other transfers" in (home / "leaderboard" / "tiny-details.md").read_text()
    suite = load_suite("tiny.toml", changes=[f'protocols=["{nearest_mean}"]', 'targets=["tiny-objects"]'])
    done_cells = [cell for cell in make_plan(suite, place).cells if cell.done]
    assert [(str(cell.snapshot), cell.cell.protocol) for cell in done_cells] == [("step/seed0/stage1", nearest_mean)]


def test_unknown_protocol_is_refused_with_a_suggestion(lrbench):
    refused = lrbench("plan", "tiny.toml", "--set", 'protocols=["prob"]')
    assert refused.status == 2
    assert "must be one of probe, knn" in refused.err and "not 'prob'. Did you mean 'probe'?" in refused.err
    assert "must be one of probe, knn" in lrbench("plan", "tiny.toml", "--set", "protocols=[3]").err


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if not protocol.trains])
def test_registered_modules_implement_a_protocol(name):
    module = implementation(name)
    assert callable(module.configure) and callable(module.select) and callable(module.fit)
