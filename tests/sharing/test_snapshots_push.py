"""Snapshots on the Hub, and the metadata of their cards."""

import shutil

import pytest
from huggingface_hub import ModelCard

from tests.leaderboard.fake import put


def test_snapshot_is_pushed_with_license_and_results(lrbench, snapshot, place, tiny, fake):
    from lrbench.store.snapshots import identity

    put(place.workspace, tiny, stage=0, snapshot={"sha256": identity(snapshot)})
    put(place.workspace, tiny, stage=0, protocol="knn", wrong=4, snapshot={"sha256": identity(snapshot)})
    arguments = ("snapshots", "push", "stage0", "hf://user/net")
    done = lrbench(*arguments, "--task", "tiny-objects", "--license", "apache-2.0", "--public")
    assert done.status == 0 and "models/user/net/commit" in done.out and "no license" not in done.err
    assert fake.private == {"models/user/net": False}
    files = fake.files["models/user/net"]
    assert set(files) == {"model.safetensors", "config.json", "README.md"}
    data = ModelCard(files["README.md"].decode()).data
    assert data.license == "apache-2.0" and data.library_name == "timm"
    knn, probe = data.eval_results
    assert (knn.dataset_type, knn.metric_value, probe.metric_value) == ("tiny-objects", 0.9, 0.75)
    assert probe.metric_name == "top-1 accuracy, probe, transfer seed 0"


def test_card_lists_a_result_under_two_names_once(lrbench, snapshot, place, tiny, home):
    from lrbench.store.snapshots import identity

    put(place.workspace, tiny, stage=0, snapshot={"sha256": identity(snapshot)})
    for name in ("foreign/a", "foreign/b"):
        own = {"arm": None, "stage": None, "pretraining_seed": None, "reference": name, "sha256": identity(snapshot)}
        put(place.workspace, tiny.model_copy(update={"name": "foreign"}), snapshot=own)
    lrbench("snapshots", "export", "stage0", "--to", "hf", "--out", "card", "--task", "tiny-objects")
    results = ModelCard((home / "card" / "README.md").read_text()).data.eval_results
    assert [result.metric_name.rpartition(", ")[2] for result in results] == ["transfer seed 0", "settings of no suite"]


def test_commit_does_not_name_local_folders(lrbench, snapshot, tmp_path, fake, monkeypatch):
    private = tmp_path / "client" / "weights.safetensors"
    private.parent.mkdir()
    for ending in (".safetensors", ".bn.safetensors"):
        shutil.copyfile(snapshot.with_suffix(ending), private.with_suffix(ending))
    messages = []
    monkeypatch.setattr("lrbench.sharing.hub.upload", lambda *_, message, **__: messages.append(message) or "")
    assert lrbench("snapshots", "push", private, "hf://user/net").status == 0
    assert lrbench("snapshots", "push", "stage0", "hf://user/net").status == 0
    assert messages == ["Upload weights", "Upload tiny/step/seed0/stage0"]


def test_card_without_license_or_results_is_valid(lrbench, snapshot, home):
    done = lrbench("snapshots", "export", "stage0", "--to", "hf", "--out", "card")
    assert "states no license" in done.err
    card = ModelCard((home / "card" / "README.md").read_text())
    assert card.data.license is None and card.data.eval_results is None and "lrbench" in card.data.tags


@pytest.mark.parametrize("destination", ["user/net", "hf://datasets/user/net", "hf://net", "hf://user/a--b"])
def test_wrong_addresses_are_refused(lrbench, snapshot, destination):
    done = lrbench("snapshots", "push", "stage0", destination)
    assert done.status == 2 and "Write hf://USER/NAME" in done.err
