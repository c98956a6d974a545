"""Statistics of gradients in the training log."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from lrbench.config.suite import Suite
from lrbench.core.control import Control
from lrbench.core.workspace import Place, Workspace
from lrbench.data.batches import Batches
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model
from lrbench.pretraining.curvature import gradient_statistics
from lrbench.pretraining.source import open_source
from lrbench.store.snapshots import state_path
from tests.pretraining.helpers import key, make, whole_and_resumed


def logged(suite, **training):
    return Suite.model_validate(suite.model_dump() | {"training": {"statistics_batches": 3} | training})


def records(path):
    return [json.loads(line) for line in path.with_name("log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("arguments", [{}, {"drop_rate": 0.3}])
def test_statistics_do_not_change_snapshots(tiny, place, home, arguments):
    content = tiny.model_dump()
    model = content["model"] | {"arguments": content["model"]["arguments"] | arguments}
    suite = Suite.model_validate(content | {"model": model})
    elsewhere = Place(workspace=Workspace(root=home / "elsewhere"), roots=place.roots)
    plain, other = make(suite, key("hold", 2), place), make(logged(suite), key("hold", 2), elsewhere)
    assert plain.read_bytes() == other.read_bytes() and state_path(plain).read_bytes() == state_path(other).read_bytes()
    shared = set(records(plain)[0])
    assert [{name: record[name] for name in shared} for record in records(other)] == records(plain)


def test_statistics_are_those_of_the_weights(tiny, place):
    suite = logged(tiny)
    path = make(suite, key("step", 1), place)
    source = open_source(suite.source, suite.input, place.roots, False, place.workspace.cache, Control())
    labels = source.data.splits["train"].labels
    batches = Batches(pixels=source.train, labels=labels, seed=0, batch=32, size=suite.input.size, augmentation="flip")
    model = create_model(suite.model.architecture, suite.model.arguments, classes=4).eval()
    model.load_state_dict(load_file(path))
    normalise = InputNormalisation(suite.input.mean, suite.input.std, torch.device("cpu"))
    shown = [(normalise(images), targets) for images, targets in map(batches.at, range(3))]
    expected = asdict(gradient_statistics(model, shown, decay=5e-4))
    last = records(path)[-1]
    assert {name for name in last if name.startswith("probe_")} == {f"probe_{name}" for name in expected}
    for name, value in expected.items():
        assert last[f"probe_{name}"] == (None if value is None else pytest.approx(value, rel=1e-4))


def test_interrupted_statistics_have_identical_bytes(tiny, place, home):
    whole, resumed = whole_and_resumed(logged(tiny), place, home)
    assert records(resumed) == records(whole) and resumed.read_bytes() == whole.read_bytes()


def test_single_batch_is_refused(tiny):
    with pytest.raises(ValueError, match="statistics_batches must be 0 or at least 2"):
        logged(tiny, statistics_batches=1)
    assert "statistics_batches" not in tiny.training.model_dump()
