"""The Python interface: networks of any library, without files."""

import os
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
from torch import nn

import lrbench as package
from lrbench.core.errors import InputError
from lrbench.models.networks import create_model
from lrbench.store.results import read_result

QUICK = {"probe.strengths": 3}


class Plain(nn.Module):
    """A network of no library: two convolutions and a classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2)
        )
        self.out = nn.Linear(12, 7)

    def forward(self, images):
        return self.out(self.body(images).mean(dim=(2, 3)))


class Wrapped(nn.Module):
    """A network that returns an object, as those of transformers do."""

    def __init__(self):
        super().__init__()
        self.inner = Plain()

    def forward(self, images):
        return SimpleNamespace(pooler_output=self.inner.body(images).mean(dim=(2, 3)), maps=self.inner.body(images))


def evaluate(model, task="tiny-objects", **options):
    return package.evaluate(model, task, **{"settings": QUICK, "progress": False} | options)


def test_a_plain_module_is_probed_on_what_its_last_layer_receives(home):
    module = Plain().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    files = sorted(home.rglob("*"))
    result = evaluate(package.Model(module=module, size=32))
    assert 0 <= result.interval[0] <= result.accuracy <= result.interval[1] <= 1
    assert result.result.snapshot.reference == "python:Plain" and result.result.test_count == 40
    frame = result.predictions
    assert len(frame) == 40 and (frame["label"] == frame["prediction"]).mean() == pytest.approx(result.metrics["top1"])
    assert f"{100 * result.accuracy:.1f} %" in repr(result)
    # Nothing is written, and the network is as it was.
    assert sorted(home.rglob("*")) == files and module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_functions_give_features_of_any_output(home):
    by_function = [
        evaluate(package.Model(module=Wrapped(), size=32, features=read)).metrics
        for read in (
            lambda module, images: module(images).pooler_output,
            # Maps are averaged over positions.
            lambda module, images: module(images).maps,
        )
    ]
    assert by_function[0] == by_function[1] == evaluate(package.Model(module=Plain(), size=32)).metrics


def test_a_timm_network_and_a_reference_agree_with_the_command(lrbench, home, small_probe_grid):
    done = lrbench("transfer", "--snapshot", "timm:resnet10t", "--task", "tiny-objects")
    assert done.status == 0, done.err
    [path] = (home / "leaderboard" / "results" / "foreign").glob("*.json")
    by_name = evaluate("timm:resnet10t", settings=None)
    assert by_name.metrics == read_result(path).metrics and by_name.chosen == read_result(path).chosen
    torch.manual_seed(1)
    module = create_model("resnet10t", {}, classes=5, seed=3)
    stated = evaluate(package.Model(module=module, size=32), settings=None)
    assert stated.result.preprocessing["interpolation"] == "bicubic"


@pytest.mark.parametrize("protocol", ["knn", "fewshot", "logme"])
def test_protocols_on_frozen_features_take_modules(home, protocol):
    assert (
        evaluate(package.Model(module=Plain(), size=32), protocol=protocol, settings=None).result.protocol == protocol
    )


def test_a_module_is_finetuned_with_a_new_classifier(home):
    settings = {"finetune.updates": 4, "finetune.rates": [0.01], "finetune.decays": [0.0], "finetune.batch": 8}
    module = Plain()
    before = module.out.weight.clone()
    result = evaluate(package.Model(module=module, size=32), protocol="finetune", settings=settings)
    assert result.chosen["learning_rate"] == 0.01 and torch.equal(module.out.weight, before)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Wrapped(), "the features of Wrapped are SimpleNamespace, not a tensor"),
        (lambda: package.Model(module=Plain(), size=4), "size"),
        (lambda: package.Model(module=nn.Sequential(nn.Conv2d(4, 4, 3)), size=32), "fails on inputs of shape"),
        (lambda: "timm:", "names no model"),
        (lambda: "python:missing_module:build", "missing_module cannot be imported"),
        (lambda: "python:os:missing", "os has no function 'missing'"),
        (lambda: "python:os:getpid", "returned int. Return a torch.nn.Module"),
        (lambda: "python:os.path", "names no function"),
    ],
)
def test_wrong_models_are_refused_with_the_reason(home, model, message):
    with pytest.raises(InputError, match=message):
        evaluate(model())


def test_wrong_protocols_settings_and_tasks_are_refused(home):
    module = package.Model(module=Plain(), size=32)
    with pytest.raises(InputError, match="there is no protocol 'linear'"):
        evaluate(module, protocol="linear")
    with pytest.raises(InputError, match="does not read `finetune`"):
        evaluate(module, settings={"finetune.updates": 3})
    with pytest.raises(InputError, match="tiny-object"):
        evaluate(module, "tiny-object")


def test_modules_are_compared_and_twins_refused(home):
    names = ["narrow", "other"]
    models = [package.Model(module=Plain(), size=32, name=name) for name in names]
    with torch.no_grad():
        models[1].module.body[0].weight.mul_(-1)
    comparison = package.recommend("tiny-objects", models, settings=QUICK, progress=False)
    assert isinstance(comparison.table, pandas.DataFrame) and set(comparison.table["model"]) == set(names)
    assert comparison.best in names and comparison.verdict in repr(comparison)
    assert np.isfinite(comparison.table["validation"].to_numpy(float)).all()
    assert (comparison.table["parameters"] == 1116).all() and (comparison.table["images_per_second"] > 0).all()
    by_logme = package.recommend("tiny-objects", models, by="logme", report=home / "report", progress=False)
    assert "by LogME" in (home / "report" / "report.html").read_text()
    assert by_logme.best == comparison.table.sort_values("logme")["model"].iloc[-1]
    with pytest.raises(InputError, match="not ranked by 'linear'"):
        package.recommend("tiny-objects", models, by="linear", progress=False)
    (home / "file").write_text("")
    for wrong, message in (
        ({"top": 0}, "at least 1, not 0"),
        ({"margin": float("nan")}, "100 points, not nan"),
        ({"seed": -1}, "the seed must be a whole number"),
        ({"report": home / "file" / "report"}, "cannot be written"),
        ({"by": "logme", "settings": {"knn.neighbours": [1]}}, "knn.neighbours=.1.: logme does not read"),
    ):
        with pytest.raises(InputError, match=message):
            package.recommend("tiny-objects", models, **wrong, progress=False)
    with pytest.raises(InputError, match="two networks are called python:narrow"):
        package.recommend("tiny-objects", [models[0], models[0]], progress=False)


def test_a_function_named_on_the_command_line_gives_the_network(lrbench, home, monkeypatch, small_probe_grid):
    (home / "own_network.py").write_text(
        "import lrbench\nfrom tests.api.test_api import Plain\n\n"
        "def build():\n    return lrbench.Model(module=Plain(), size=32)\n"
    )
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != os.getcwd()])
    done = lrbench("transfer", "--snapshot", "python:own_network:build", "--task", "tiny-objects")
    assert done.status == 0, done.err
    [path] = (home / "leaderboard" / "results" / "foreign").glob("*.json")
    assert read_result(path).metrics == evaluate(package.Model(module=Plain(), size=32), settings=None).metrics


def test_suites_run_as_on_the_command_line(home, capfd):
    code = (
        "import lrbench\n"
        "if __name__ == '__main__':\n"
        "    options = {'workers': 1, 'seed': 0, 'progress': False}\n"
        "    paths = lrbench.pretrain('tiny.toml', arms=['step'], **options)\n"
        "    settings = {'arms': ['step', 'hold'], 'protocols': ['knn'], 'targets': ['tiny-objects']}\n"
        "    frame = lrbench.run('tiny.toml', settings=settings | {'name': 'small'}, **options)\n"
        "    print(len(paths), len(frame), sorted(set(frame['arm'])), callable(lrbench.pretrain))\n"
    )
    (home / "script.py").write_text(code)
    # Worker processes import the script, too.
    runpy.run_path(str(home / "script.py"), run_name="__main__")
    # Stages 0 to 3 of `step`; with `hold`, two more snapshots. Each is transferred to one target and predicts the source.
    assert capfd.readouterr() == ("4 12 ['hold', 'step'] True\n", "")


def test_examples_of_the_reference_run(home, monkeypatch, small_probe_grid):
    text = (Path(__file__).parents[2] / "docs" / "reference" / "python.md").read_text()
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", text)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        if "lrbench.run" not in block:
            # A smaller task, which takes a tenth of the time.
            exec(compile(block.replace('"toy-objects"', '"tiny-objects"'), "python.md", "exec"), names)
    assert names["result"].accuracy > 0 and names["comparison"].best  # type: ignore[attr-defined]
