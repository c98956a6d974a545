"""Pretrained networks of timm and the Hub."""

import pytest
from huggingface_hub import constants
from safetensors.torch import save_file

from lrbench.core.errors import InputError
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import create_model
from lrbench.store.references import resolve_reference


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [10_000_000, 1, 1, 1]}, "is not built, because of its config.json: .* the value '10000000'"),
        ({"layers": [60_000, 1, 1, 1]}, "is not built, because of its config.json: .* more than 20,000 layers"),
        ({"in_chans": 1}, "does not turn images into features and scores"),
    ],
)
def test_hub_configuration_is_checked_before_weights_are_fetched(home, monkeypatch, arguments, message):
    import timm.models

    make = timm.create_model
    monkeypatch.setattr(
        timm.models, "load_model_config_from_hf", lambda name: ({"num_classes": 3}, "resnet18", arguments)
    )

    def create(name, pretrained=False, **others):
        assert not pretrained
        return make("resnet18", num_classes=3, **arguments) if name.startswith("hf-hub:") else make(name, **others)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InputError, match=message):
        load_snapshot(resolve_reference("hf-hub:some/model", Workspace.current()))


def test_timm_model_without_a_tag_has_fixed_random_weights(home):
    one, two = (load_snapshot(resolve_reference("timm:test_resnet", Workspace.current())) for _ in range(2))
    assert one.random and one.batchnorm == "raw" and one.sha256 == two.sha256


def test_offline_weights_come_from_the_cache_or_fail_at_once(home, lrbench, monkeypatch):
    cache = home / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    arguments = ("transfer", "--snapshot", "timm:test_resnet.r160_in1k", "--task", "tiny-objects", "--protocol", "knn")
    missing = lrbench(*arguments)
    assert missing.status == 2 and "could not be fetched or loaded" in missing.err
    assert "Retrying" not in missing.err and len(missing.err.splitlines()) == 1
    folder = cache / "models--timm--test_resnet.r160_in1k"
    weights = folder / "snapshots" / "0123abc" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    save_file(create_model("test_resnet", {}, classes=1000, seed=1).state_dict(), weights)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    cached = lrbench(*arguments)
    assert cached.status == 0 and "Retrying" not in cached.err, cached.err


def test_unknown_model_or_tag_gets_a_suggestion(home):
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        load_snapshot(resolve_reference("timm:resnet18x", Workspace.current()))
    with pytest.raises(InputError, match=r"no weights 'resnet18\.a1_in9k'"):
        load_snapshot(resolve_reference("timm:resnet18.a1_in9k", Workspace.current()))


def test_timm_that_unpickles_fetches_nothing(monkeypatch, home):
    import timm.models

    monkeypatch.setattr(timm.models, "load_state_dict", lambda file, weights_only=False: None)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(InputError, match=r"unpickles what it downloads\. Update timm"):
        load_snapshot(resolve_reference("timm:test_resnet.r160_in1k", Workspace.current()))


def test_offline_setting_of_the_hub_is_restored(monkeypatch):
    from lrbench.models import published

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(published, "_resolves", lambda host: False)
    with published.offline_without_network():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
