import numpy as np
import pytest

from lrbench.config import load_task
from lrbench.core.errors import InputError
from lrbench.core.files import sha256_bytes
from lrbench.data import synthetic
from lrbench.data.loading import load_task_data
from lrbench.data.synthetic.world import combinations

# The world is part of every published result: a change of one pixel is another world, and needs another version.
PINNED = {
    "toy-source": "c2dcf6170bcaf7ac58a49a43f3832b4e873d59c22142b479c918fa4e48b30fcd",
    "toy-objects": "d264d49398430248a7ad55e95d7efd439c1cac9a9649ac73895f7702f1f004e5",
    "toy-birds": "ccd9814c0a67e14e3478ef790a52c85a12080840a46773d5c272201ede6aabd0",
    "toy-indoor": "638c3c144e99f86f77414112f8b4383723ead4a1932a858e45afd7603debe5ef",
    "toy-sketch": "1e99032eef8e0168cdd7b98ef5c09988c0393ce3d4d0b60a5539f2aacd01cef1",
    "digits": "fa4285b9fad88fee21649ba6c1c452177edcf78adac77f203e613a3395d767df",
}


def content_hash(name):
    data = load_task_data(load_task(name), [])
    whole = b""
    for split in ("train", "test"):
        part = data.splits[split]
        whole += b"".join(part.images.read(index).tobytes() for index in range(len(part)))
        whole += part.labels.astype("<i8").tobytes()
        for key in sorted(part.annotations):
            whole += part.annotations[key].astype("<i8").tobytes()
    return sha256_bytes(whole)


@pytest.mark.parametrize("name", ["toy-source", "toy-objects", "toy-birds", "toy-indoor", "toy-sketch", "digits"])
def test_world_is_the_same_on_every_machine(name):
    assert content_hash(name) == PINNED[name]


def test_source_annotations_describe_the_images():
    data = load_task_data(load_task("toy-source"), [])
    train, test = data.splits["train"], data.splits["test"]
    notes = train.annotations
    assert np.array_equal(train.labels != notes["truth"], notes["wrong"] == 1)
    assert 0.07 < notes["wrong"].mean() < 0.13
    assert 0.45 < notes["complex"].mean() < 0.55
    assert np.array_equal(notes["template"] >= 0, notes["complex"] == 1)
    assert test.annotations["wrong"].sum() == 0 and np.array_equal(test.labels, test.annotations["truth"])


def test_no_target_class_is_a_source_class():
    rows = combinations(0)
    source = {tuple(row) for row in rows[:20]}
    objects = {tuple(row) for row in rows[::-1][:15]}
    assert not source & objects


def test_train_and_test_share_no_image():
    for name in ("toy-source", "toy-objects", "digits"):
        data = load_task_data(load_task(name), [])
        seen = [{split.images.read(index).tobytes() for index in range(len(split))} for split in data.splits.values()]
        assert not seen[0] & seen[1]


def test_unknown_generator_or_option_is_rejected(home, tmp_path):
    for files, message in [
        ('generator = "birdz"\ntrain = 30\ntest = 10', "birdz"),
        ('generator = "birds"\ntrain = 30\ntest = 10\noptions = { wings = 2 }', "wings"),
    ]:
        (home / "odd.toml").write_text(f'name = "odd"\n\n[files]\nlayout = "synthetic"\n{files}\n')
        with pytest.raises(InputError, match=message):
            load_task_data(load_task("odd.toml"), [])


@pytest.mark.parametrize("generator", ["objects", "digits"])
def test_images_that_exceed_memory_are_rejected(home, monkeypatch, generator):
    (home / "large.toml").write_text(
        f'name = "large"\n\n[files]\nlayout = "synthetic"\ngenerator = "{generator}"\nsize = 64\ntrain = 1000\ntest = 20\n'
    )
    monkeypatch.setattr(synthetic, "total_memory", lambda: 20 << 20)
    with pytest.raises(
        InputError, match=r"task large: rendering 1,000 images of 64 px needs \d+ GiB of memory, but this machine"
    ):
        load_task_data(load_task("large.toml"), [])
    monkeypatch.setattr(synthetic, "total_memory", lambda: 1 << 30)
    assert len(load_task_data(load_task("large.toml"), []).splits["train"]) == 1000
