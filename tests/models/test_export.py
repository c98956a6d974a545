"""Exported snapshots and their model cards."""

import json
import tomllib

import pytest
import torch

from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import create_model
from lrbench.store.references import resolve_reference
from lrbench.store.snapshots import identity, read_metadata
from tests.leaderboard.fake import put


def test_list_show_verify_and_export(lrbench, snapshot, home):
    import timm

    assert "tiny/step/seed0/stage0" in lrbench("snapshots", "list").out
    shown = json.loads(lrbench("snapshots", "show", "stage0").out)
    assert shown["sha256"] == identity(snapshot) and shown["batchnorm"] == "re-estimated"
    assert lrbench("snapshots", "verify").status == 0
    assert lrbench("snapshots", "export", "stage0", "--to", "hf", "--out", "exported").status == 0
    model = timm.create_model(f"local-dir:{home / 'exported'}", pretrained=True)
    loaded = load_snapshot(resolve_reference(str(snapshot), Workspace.current())).model
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), loaded(images))
    # It is a snapshot of lrbench's too, whose statistics are built in.
    again = home / "exported" / "model.safetensors"
    assert lrbench("snapshots", "verify", str(again)).status == 0
    assert json.loads(lrbench("snapshots", "show", str(again)).out)["batchnorm"] == "re-estimated"
    # With a deep stem the first layer is not where timm says that it is for the architecture.
    grey = timm.create_model(f"local-dir:{home / 'exported'}", pretrained=True, in_chans=1)
    torch.testing.assert_close(grey.conv1[0].weight, loaded.conv1[0].weight.sum(1, keepdim=True))
    with torch.inference_mode():
        exported = load_snapshot(resolve_reference(str(again), Workspace.current())).model
        torch.testing.assert_close(exported(images), loaded(images))
    card = (home / "exported" / "README.md").read_text()
    assert read_metadata(again).tensors_sha256 in card
    assert "Source: tiny-source" in card and "No results are shown" in card and "rates = [" in card
    assert lrbench("snapshots", "export", "stage0", "--out", "exported").status == 2


def test_model_card_holds_recipe_and_transfers(lrbench, snapshot, home):
    for protocol in ("probe", "knn"):
        arguments = ("transfer", "--snapshot", "stage0", "--task", "tiny-indoor", "--protocol", protocol, "--json")
        record = json.loads(lrbench(*arguments).out)
    # A task of the user's own is shown only where it is named.
    export = ("snapshots", "export", "stage0", "--to", "hf", "--out")
    private = lrbench(*export, "private")
    assert private.status == 0 and "omits results on your own tasks tiny-indoor" in private.err
    card = (home / "private" / "README.md").read_text()
    assert "tiny-indoor" not in card and "No results are shown." in card
    export = (*export[:3], "--task", "tiny-indoor", *export[3:])
    assert lrbench(*export, "card").status == 0
    card = (home / "card" / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("| tiny")]
    assert [row[:2] for row in rows] == [["tiny-indoor", "knn"], ["tiny-indoor", "probe"]]
    # Wilson's interval of 40 images.
    top1, z = record["metrics"]["top1"], 1.95996
    centre, half = top1 + z * z / 80, z * (top1 * (1 - top1) / 40 + z * z / 6400) ** 0.5
    low, high = (100 * (centre + sign * half) / (1 + z * z / 40) for sign in (-1, 1))
    assert rows[0][3] == f"{100 * top1:.2f} [{low:.2f}, {high:.2f}]" and rows[0][4] == "40"
    recipe = card.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(recipe)["schedule"]["boundaries"] == [3, 5]
    # What was measured under its path belongs to no suite, and is this snapshot's too.
    assert lrbench(*arguments[:2], str(snapshot), *arguments[3:]).status == 0
    assert lrbench(*export, "side").status == 0
    rows = [line for line in (home / "side" / "README.md").read_text().splitlines() if line.startswith("| tiny")]
    assert [row.split("|")[-2].strip() for row in rows] == ["of tiny", "of no suite", "of tiny"]
    for path in (home / "leaderboard" / "results" / "tiny").glob("*.json"):
        path.unlink()
    assert lrbench(*export, "alone").status == 0
    assert (home / "alone" / "README.md").read_text().count("| tiny-indoor") == 1
    # Results of other weights under the same name are not this snapshot's.
    for path in (home / "leaderboard" / "results").glob("*/*.json"):
        path.write_text(path.read_text().replace(identity(snapshot), "0" * 64))
    assert lrbench(*export, "other").status == 0
    assert "No results are shown." in (home / "other" / "README.md").read_text()


def test_card_shows_results_on_shipped_tasks(lrbench, snapshot, home, tiny):
    workspace = Workspace(root=home)
    for task in ("digits", "tiny-objects"):
        put(workspace, tiny, stage=0, task={"name": task}, snapshot={"sha256": identity(snapshot)})
    # The same weights under another name.
    put(workspace, tiny, stage=1, task={"name": "digits"}, snapshot={"sha256": identity(snapshot)})
    done = lrbench("snapshots", "export", "stage0", "--to", "hf", "--out", "card")
    assert done.status == 0 and "omits results on your own tasks tiny-objects" in done.err
    card = (home / "card" / "README.md").read_text()
    assert card.count("| digits ") == card.count("value: ") == 1
    assert "75.00 [59.81, 85.81]" in card and "tiny-objects" not in card


@pytest.mark.parametrize(("architecture", "has_batchnorm"), [("test_resnet", True), ("vit_tiny_patch16_224", False)])
def test_card_of_foreign_weights_states_only_what_is_known(lrbench, home, architecture, has_batchnorm):
    torch.save(create_model(architecture, {}, classes=7).state_dict(), home / "mine.pth")
    assert lrbench("snapshots", "add", "mine.pth", "--architecture", architecture).status == 0
    assert lrbench("snapshots", "export", "foreign/mine", "--to", "hf", "--out", "card").status == 0
    card = (home / "card" / "README.md").read_text().partition("## Metadata of the snapshot")[0]
    assert "Weights from elsewhere" in card and "Classes: 7" in card and ("BatchNorm" in card) == has_batchnorm
    assert not any(word in card for word in ("None,", "boundary", "Source:", "Recipe"))


def test_card_escapes_the_file_name(lrbench, home):
    name = "a`<img src=x onerror=alert(1)>.pth"
    torch.save(create_model("resnet10t", {}, classes=7).state_dict(), home / name)
    assert lrbench("snapshots", "add", name, "--architecture", "resnet10t", "--name", "mine").status == 0
    assert lrbench("snapshots", "export", "foreign/mine", "--to", "hf", "--out", "card").status == 0
    title = next(line for line in (home / "card" / "README.md").read_text().splitlines() if line.startswith("# "))
    assert title == r"# resnet10t, snapshot a\`&lt;img src=x onerror=alert(1)&gt;.pth"
