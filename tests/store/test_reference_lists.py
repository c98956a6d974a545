"""Many references: files with one on each line, and folders."""

import pytest

from lrbench.core.errors import InputError
from lrbench.store.reference_lists import is_several, resolve_references


def test_list_names_one_reference_on_each_line(home, place):
    (home / "weights").mkdir()
    (home / "weights" / "b.safetensors").write_bytes(b"")
    (home / "weights" / "b.bn.safetensors").write_bytes(b"")
    (home / "models.txt").write_text("\ufeff# networks\ntimm:test_resnet\n\n  weights  \ntimm:resnet14t.a_b\n")
    texts = ["timm:resnet14t.a_b", "models.txt", "models.txt"]
    named = resolve_references(texts, place.workspace)
    expected = ["timm:resnet14t.a_b", "timm:test_resnet", "weights/b.safetensors"]
    assert list(named) == expected and [reference.text for reference in named.values()] == expected
    assert is_several("models.txt", place.workspace) and is_several("weights", place.workspace)
    assert not is_several("timm:test_resnet", place.workspace)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"timm:test_resnet\n\nhf-hub:nobody\n", "models.txt, line 3: 'hf-hub:nobody' names no model"),
        (b"missing/folder/\n", "models.txt, line 1: there is no folder missing/folder/"),
        (b"# nothing\n\n", "models.txt names no snapshots"),
        (b"\xff\xfe\x00", "models.txt is not UTF-8 text"),
        (None, "there is no file models.txt"),
    ],
)
def test_unusable_list_is_refused_with_its_line(home, place, content, message):
    if content is not None:
        (home / "models.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        resolve_references(["models.txt"], place.workspace)
