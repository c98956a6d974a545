"""Damaged states, progress files, logs and timings, and pipes in their place."""

import json
import os

import pytest
import torch

from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.jobs.cost import update_seconds
from lrbench.pretraining.log import append_timing
from lrbench.pretraining.segments import make_snapshot
from lrbench.pretraining.state import load, save
from lrbench.store.snapshots import progress_path, snapshot_path, state_path
from tests.helpers import one_paragraph
from tests.pretraining.helpers import key, make

LINE = {"stage": 1, "update": 3, "loss": 1.0}


class StopsAt(Control):
    """Asks to stop after so many updates, and collects the warnings."""

    def __init__(self, update):
        super().__init__()
        self.update, self.told = update, []

    def progress(self, done, total, unit):
        if unit == "updates" and done == self.update:
            self.stop()

    def say(self, text):
        self.told.append(text)


@pytest.mark.parametrize(
    "line",
    [
        '{"stage": 1, "update": 3, "loss": NaN}',
        '{"stage": 1, "update": 3, "loss": 1e999}',
        '{"stage": true, "update": 3}',
        '{"stage": 1, "update": 3, "more": [1]}',
        '{"stage": "1", "update": 3}',
        "[1]",
        "[" * 100_000,
        "\udc80",
    ],
)
def test_damaged_log_line_does_not_stop_training(tiny, place, line):
    path = make(tiny, key("step", 1), place)
    log = path.with_name("log.jsonl")
    before = log.read_bytes()
    log.write_bytes(before + f"{line}\n".encode(errors="surrogateescape"))
    control = StopsAt(0)
    make_snapshot(tiny, key("step", 2), place, control)
    assert [text for text in control.told if "Skipped 1 damaged line of" in text]
    assert log.read_bytes().startswith(before) and path.with_name("log.damaged.jsonl").is_file()
    assert [json.loads(text)["stage"] for text in log.read_text().splitlines()] == [1, 1, 1, 2, 2]


def test_pipe_instead_of_log_or_timings_is_reported(tiny, place):
    path = make(tiny, key("step", 0), place)
    for name in ("log.jsonl", "timings.jsonl"):
        path.with_name(name).unlink(missing_ok=True)
        os.mkfifo(path.with_name(name))
        with pytest.raises(InputError, match=rf"{name} is a pipe, not a regular file"):
            make_snapshot(tiny, key("step", 1), place, Control())
        path.with_name(name).unlink()


def test_invalid_timings_are_skipped(tmp_path):
    folder = tmp_path / "tiny" / "step" / "seed0"
    folder.mkdir(parents=True)
    append_timing(folder / "stage1.safetensors", {"updates": 10, "seconds": 5.0})
    with (folder / "timings.jsonl").open("ab") as file:
        file.write(b'{"updates": 1%s, "seconds": 1}\n' % (b"0" * 400))
        file.write(
            b'{"updates": 10, "seconds": NaN}\n{"updates": 10, "seconds": -7}\n\xff\n{"updates": 1' + b"0" * 5000
        )
    other = folder.with_name("seed1")
    other.mkdir()
    os.mkfifo(other / "timings.jsonl")
    assert update_seconds(tmp_path / "tiny") == 0.5


@pytest.mark.parametrize("part", ["state", "progress"])
def test_pipe_instead_of_state_does_not_block(tmp_path, part):
    path = tmp_path / f"stage1.{part}.pt"
    os.mkfifo(path)
    with pytest.raises(InputError, match="is a pipe, not a regular file"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"update": "3"},
        {"update": None},
        {"momentum": 3},
        {"momentum": {"conv1.0.weight": torch.ones(1)}},
        {"kept": []},
    ],
)
def test_state_with_wrong_content_is_damaged(tiny, place, change):
    path = state_path(make(tiny, key("step", 1), place))
    save(path, load(path) | change)
    with pytest.raises(InputError, match=r"stage1\.state\.pt is damaged: it does not fit this network") as caught:
        make_snapshot(tiny, key("step", 2), place, Control())
    assert one_paragraph(str(caught.value))


def test_state_has_a_hash_and_format_2_is_read(tmp_path):
    path = tmp_path / "stage1.state.pt"
    content = {"update": 3, "momentum": {"a": torch.ones(2)}, "records": [{"loss": 0.5}], "none": None}
    save(path, content)
    written = torch.load(path, weights_only=True)
    assert str(load(path)) == str(content)
    for change in ({"update": 4}, {"momentum": {"a": torch.zeros(2)}}, {"records": [{"loss": 0.25}]}, {"more": 1}):
        torch.save(written | change, path)
        with pytest.raises(InputError, match="is damaged: its content does not match its hash"):
            load(path)
    torch.save({"format": 2, **content}, path)
    assert load(path)["update"] == 3
    torch.save(written | {"format": 4}, path)
    with pytest.raises(InputError, match="has format 4; this lrbench reads formats up to 3"):
        load(path)


@pytest.mark.parametrize("mean", [{"conv1.0.weight": torch.ones(1)}, {"a": 3}, []])
def test_mean_of_another_network_is_damaged(tiny, place, mean):
    path = state_path(make(tiny, key("hold", 2), place))
    save(path, load(path) | {"mean": mean})
    with pytest.raises(InputError, match=r"stage2\.state\.pt is damaged: its mean does not fit this network"):
        make_snapshot(tiny, key("average", 2), place, Control())


@pytest.mark.parametrize(
    "change",
    [
        {"update": 10**9},
        {"update": -1},
        {"update": "3"},
        {"mean": {"a": 3}},
        {"tail": {"a": 3}},
        {"tail_count": -1},
        {"loss": float("nan")},
        {"loss": "x"},
        {"kept": {"x": {}}},
        {"kept": torch.ones(2)},
        {"records": [3]},
        {"records": 3},
    ],
)
def test_progress_with_wrong_content_is_discarded(tiny, place, change):
    whole = make(tiny, key("step", 1), place).read_bytes()
    path = snapshot_path(place.workspace.checkpoints, "tiny", key("step", 1))
    path.unlink()
    with pytest.raises(InterruptedWork):
        make_snapshot(tiny, key("step", 1), place, StopsAt(4))
    save(progress_path(path), load(progress_path(path)) | change)
    control = StopsAt(0)
    make_snapshot(tiny, key("step", 1), place, control)
    assert any("is damaged" in text for text in control.told) and path.read_bytes() == whole
