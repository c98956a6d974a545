"""Files of lrbench's own that are damaged, or something other than files, are refused in words or made again."""

import json
import os

import pytest

from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile
from lrbench.jobs.cost import _update_seconds
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


@pytest.mark.parametrize(("content", "said"), BAD_TOML)
def test_a_damaged_suite_in_use_is_refused(effective, lrbench, content, said):
    effective.write_bytes(content)
    with pytest.raises(DamagedFile, match=said):
        read_effective(effective)
    run = lrbench("pretrain", "tiny.toml")
    assert (
        run.status == 2 and one_paragraph(run.err) and "Delete it; the next run of the suite writes it again" in run.err
    )


@pytest.mark.parametrize("kind", ["folder", "pipe", "too large", "another suite's"])
def test_something_else_in_the_place_of_a_suite_is_named(effective, kind):
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
    said = {"folder": "is a folder", "pipe": "is a pipe", "too large": "bytes, more than"}.get(
        kind, "suite 'tidy', but is in"
    )
    with pytest.raises(InputError, match=said):
        read_effective(effective)


def test_a_folder_in_the_place_of_the_suite_in_use_stops_a_transfer_in_words(effective, lrbench):
    effective.unlink()
    effective.mkdir()
    (effective.parent / "step" / "seed0" / "stage1.safetensors").parent.mkdir(parents=True)
    (effective.parent / "step" / "seed0" / "stage1.safetensors").write_bytes(b"")
    run = lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-objects")
    assert run.status == 2 and one_paragraph(run.err) and f"{effective} is a folder" in run.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "Expecting"),
        (b"[]", "must be a table"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"name": NaN}', "NaN"),
    ],
)
def test_a_damaged_suite_beside_results_is_refused(place, tiny, lrbench, content, said):
    path = put(place.workspace, tiny).with_name("suite.json")
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=said):
        read_suite(place.workspace.results, "tiny")
    run = lrbench("leaderboard")
    assert run.status == 2 and one_paragraph(run.err) and "Run the suite again to write the file" in run.err
    write_suite_with_results(place.workspace, tiny)
    assert read_suite(place.workspace.results, "tiny") == tiny


def test_a_suite_of_another_name_beside_results_is_refused(place, tiny):
    path = put(place.workspace, tiny).with_name("suite.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "other"}))
    with pytest.raises(DamagedFile, match="describes a suite 'other'"):
        read_suite(place.workspace.results, "tiny")


def test_a_pipe_in_the_place_of_the_suite_beside_results_is_replaced(place, tiny):
    path = put(place.workspace, tiny).with_name("suite.json")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a pipe"):
        read_suite(place.workspace.results, "tiny")
    write_suite_with_results(place.workspace, tiny)
    assert path.is_file()


def test_damaged_lines_of_timings_are_passed_over(tmp_path):
    path = tmp_path / "step" / "seed0" / "timings.jsonl"
    path.parent.mkdir(parents=True)
    lines = [b'{"updates": 10, "seconds": 5.0}', b'{"updates": 30, "seconds": 15.0, "processes": 2}']
    damaged = [
        b"\xff", b"{", b"[]", b'{"updates": 10}', b'{"updates": 10, "seconds": NaN}', b'{"updates": 1e999, "seconds": 1}',
        b'{"updates": 10, "seconds": -5}', b'{"updates": 0, "seconds": 5}', b"[" * 100_000, b"1" * 5000,
        b'{"updates": 10, "seconds": 1e999}', b'{"updates": "a", "seconds": 5}',
        b'{"updates": 10, "seconds": 5, "processes": 0}',
    ]  # fmt: skip
    path.write_bytes(b"\n".join([lines[0], *damaged, lines[1]]))
    assert _update_seconds(tmp_path) == pytest.approx((5 + 30) / 40)


def test_a_pipe_in_the_place_of_timings_says_nothing(tmp_path):
    (tmp_path / "step" / "seed0").mkdir(parents=True)
    os.mkfifo(tmp_path / "step" / "seed0" / "timings.jsonl")
    assert _update_seconds(tmp_path) is None
