"""Loss and curvature on training images of the source, for suites that ask for them."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lrbench.config import load_suite, load_task
from lrbench.core.control import Control
from lrbench.core.errors import InputError
from lrbench.data.loading import load_task_data
from lrbench.jobs.plan import make_plan
from lrbench.leaderboard.gathering import gather
from lrbench.models.inference import InputNormalisation
from lrbench.models.networks import create_model
from lrbench.pretraining.source import open_source
from lrbench.store.measures import FIT
from lrbench.store.snapshots import batchnorm_path
from lrbench.transfer.source import select_fit

ONE = [
    "seeds=[0]", 'protocols=["knn"]', 'targets=["tiny-objects"]', 'arms=["step"]', "schedule.epochs=2",
    "schedule.boundaries=[1]", "schedule.rates=[0.1,0.01]", "source_fit.images=40", "source_fit.gradients=true",
    "source_fit.curvature=true", "source_fit.batch=16",
]  # fmt: skip


def test_fit_is_that_of_the_weights(home, place):
    suite = load_suite("tiny.toml", ONE)
    for job in make_plan(suite, place).jobs():
        job.run(suite, place, Control())
    (evidence,) = gather(place.workspace.results, suite)
    assert set(evidence.fit) == set(FIT) - {"noise_scale"} | (set(evidence.fit) & {"noise_scale"})
    assert set(evidence.fit["loss"]) == {(("step", stage), 0) for stage in range(3)}
    path = place.workspace.checkpoints / "tiny" / "step" / "seed0" / "stage2.safetensors"
    model = create_model(suite.model.architecture, suite.model.arguments, classes=4).eval()
    model.load_state_dict(load_file(path) | load_file(batchnorm_path(path)))
    source = open_source(suite.source, suite.input, place.roots, False, place.workspace.cache, Control())
    ((_, chosen),) = select_fit(source.data, 40).parts
    assert len(np.unique(chosen)) == 40
    normalise = InputNormalisation(suite.input.mean, suite.input.std, torch.device("cpu"))
    inputs = normalise(torch.from_numpy(source.train.evaluation(chosen)))
    labels = torch.from_numpy(source.data.splits["train"].labels[chosen])
    loss = nn.functional.cross_entropy(model(inputs), labels).item()
    assert evidence.fit["loss"][("step", 2), 0] == pytest.approx(loss, rel=1e-4)
    squares = sum(float(parameter.detach().double().square().sum()) for parameter in model.parameters())
    assert evidence.fit["weight_norm"][("step", 2), 0] == pytest.approx(squares**0.5, rel=1e-5)
    assert make_plan(suite, place).jobs() == []
    # Another sample is another result, and the snapshots stay.
    more = load_suite("tiny.toml", [*ONE, "source_fit.images=48"])
    assert [job.name for job in make_plan(more, place).jobs()] == [
        f"predict tiny-source with step/seed0/stage{stage}" for stage in range(3)
    ]


def test_other_suites_are_unchanged(home, place):
    plain = load_suite("tiny.toml")
    assert "source_fit" not in plain.model_dump(mode="json")
    asked = load_suite("tiny.toml", ["source_fit.images=20"])
    assert json.loads(asked.model_dump_json())["source_fit"]["images"] == 20
    assert {planned.cell.protocol for planned in make_plan(asked, place).source_cells} == {"source", "source-fit"}


def test_small_sources_give_all_their_images(home):
    data = load_task_data(load_task("tiny-source"), [])
    ((split, chosen),) = select_fit(data, 1000).parts
    assert split == "train" and chosen.tolist() == list(range(96))


def test_fit_is_no_transfer_protocol(lrbench, home):
    with pytest.raises(InputError, match=r"'source-fit' is not a transfer protocol: set source_fit\.images"):
        load_suite("tiny.toml", ['protocols=["source-fit"]'])
    with pytest.raises(InputError, match="at least two batches of 64 images, but images is 100"):
        load_suite("tiny.toml", ["source_fit.images=100", "source_fit.gradients=true"])
    refused = lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-source", "--protocol", "source-fit")
    assert refused.status == 2 and "suites with source_fit.images" in refused.err
