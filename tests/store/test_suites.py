"""Effective suites that are damaged, or that are not regular files."""

import json
import os

import pytest

from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile
from lrbench.leaderboard.gathering import read_suite
from lrbench.store.suites import effective_path, read_effective, write_effective, write_suite_with_results
from tests.helpers import one_paragraph
from tests.leaderboard.fake import put


@pytest.fixture
def effective(place, tiny):
    write_effective(place.workspace, tiny)
    return effective_path(place.workspace, "tiny")


BAD_TOML = [
    (b"name = ", "Invalid value"),
    (b"\xff\xfe", "utf-8"),
    (b"x = " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
    (b"x = " + b"1" * 5000, "digits"),
]


@pytest.mark.parametrize(("content", "message"), BAD_TOML)
def test_damaged_effective_suite_is_refused(effective, lrbench, content, message):
    effective.write_bytes(content)
    with pytest.raises(DamagedFile, match=message):
        read_effective(effective)
    run = lrbench("pretrain", "tiny.toml")
    assert (
        run.status == 2 and one_paragraph(run.err) and "Delete it; the next run of the suite writes it again" in run.err
    )


@pytest.mark.parametrize("kind", ["folder", "pipe", "too large", "another suite's"])
def test_other_file_instead_of_a_suite_is_refused(effective, kind):
    content = effective.read_bytes()
    effective.unlink()
    if kind == "folder":
        effective.mkdir()
    elif kind == "pipe":
        os.mkfifo(effective)
    elif kind == "too large":
        effective.write_bytes(content + b"#" * (1 << 20))
    else:
        effective.write_bytes(content.replace(b'"tiny"', b'"tidy"'))
    message = {"folder": "is a folder", "pipe": "is a pipe", "too large": "bytes, more than"}.get(
        kind, "suite 'tidy', but is in"
    )
    with pytest.raises(InputError, match=message):
        read_effective(effective)


def test_folder_instead_of_a_suite_stops_a_transfer(effective, lrbench):
    effective.unlink()
    effective.mkdir()
    (effective.parent / "step" / "seed0" / "stage1.safetensors").parent.mkdir(parents=True)
    (effective.parent / "step" / "seed0" / "stage1.safetensors").write_bytes(b"")
    run = lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-objects")
    assert run.status == 2 and one_paragraph(run.err) and f"{effective} is a folder" in run.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Expecting"),
        (b"[]", "must be a table"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"name": NaN}', "NaN"),
    ],
)
def test_damaged_suite_with_results_is_refused(place, tiny, lrbench, content, message):
    path = put(place.workspace, tiny).with_name("suite.json")
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=message):
        read_suite(place.workspace.results, "tiny")
    run = lrbench("leaderboard")
    assert run.status == 2 and one_paragraph(run.err) and "Run the suite again to write the file" in run.err
    write_suite_with_results(place.workspace, tiny)
    assert read_suite(place.workspace.results, "tiny") == tiny


def test_suite_of_another_name_with_results_is_refused(place, tiny):
    path = put(place.workspace, tiny).with_name("suite.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "other"}))
    with pytest.raises(DamagedFile, match="describes a suite 'other'"):
        read_suite(place.workspace.results, "tiny")


def test_pipe_instead_of_suite_json_is_replaced(place, tiny):
    path = put(place.workspace, tiny).with_name("suite.json")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a pipe"):
        read_suite(place.workspace.results, "tiny")
    write_suite_with_results(place.workspace, tiny)
    assert path.is_file()
