"""Full disks, failing flushes and renames, vanished files and things in the way, at every place that writes.

Each ends in one paragraph that names the file; what was saved stays as it was, nothing is left over, and the next run
comes to what an undisturbed one comes to.
"""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lrbench.config import load_suite, load_task
from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork, LrbenchError
from lrbench.core.workspace import Place, Workspace
from lrbench.data.examples import EvaluationTransform
from lrbench.data.fetch import fetch
from lrbench.data.loading import load_task_data
from lrbench.data.prepare import prepare
from lrbench.data.split_lists import write_image_list
from lrbench.leaderboard import page
from lrbench.leaderboard.figures import Figure
from lrbench.leaderboard.model_card import find_transfers, model_card
from lrbench.models.export import export_snapshot
from lrbench.models.foreign import ImportOptions, import_weights
from lrbench.models.networks import create_model
from lrbench.pretraining.segments import make_snapshot
from lrbench.store.index import load_index
from lrbench.store.snapshots import SnapshotKey, read_metadata
from lrbench.store.suites import write_effective, write_suite_with_results
from lrbench.transfer.protocols.points import Points
from tests import trees
from tests.data.archive_server import ARCHIVE, ArchiveServer, archive_task
from tests.disks import Disk, final_name, on_opening
from tests.helpers import make_home, one_paragraph
from tests.leaderboard.fake import fill, put

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
KEY = SnapshotKey(arm="step", seed=0, stage=1)


@dataclass(frozen=True)
class Scene:
    """A workspace in which something is written.

    Attributes:
        home: The workspace.
        server: A server of archives.
    """

    home: Path
    server: ArchiveServer

    @property
    def place(self) -> Place:
        return Place(workspace=Workspace(root=self.home), roots=(self.home / "data",))


class StopsSoon(Control):
    """Asks to stop after a few updates."""

    left = 5

    def stop_requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def train(scene: Scene) -> None:
    make_snapshot(load_suite("tiny.toml"), KEY, scene.place, Control())


def stop_training(scene: Scene) -> None:
    with pytest.raises(InterruptedWork):
        make_snapshot(load_suite("tiny.toml"), KEY, scene.place, StopsSoon())


def write_suite(scene: Scene) -> None:
    write_effective(scene.place.workspace, load_suite("tiny.toml"))
    write_suite_with_results(scene.place.workspace, load_suite("tiny.toml"))


def write_result(scene: Scene) -> None:
    put(scene.place.workspace, load_suite("tiny.toml"))


def write_pages(scene: Scene) -> None:
    page.write(scene.place.workspace, ["tiny"])


def write_index(scene: Scene) -> None:
    load_index(scene.place.workspace.results, "tiny", scene.place.workspace.cache)


def write_list(scene: Scene) -> None:
    write_image_list(scene.place.workspace.drawn_splits, "mine", "# images", ["a/0.png", "b/1.png"])


def prepare_pixels(scene: Scene) -> None:
    data = load_task_data(load_task("mine.toml"), scene.place.roots)
    transform = EvaluationTransform.of(Input(size=32, crop_fraction=0.875))
    prepare(data, "train", transform, cache=scene.home / "cache")


def keep_points(scene: Scene) -> None:
    points = Points(scene.home / "cache" / "finetune" / "cell.json")
    points.add((0.1, 0.0, 3), {"top1": 0.5}, 1.0)
    points.save_run("run", {"update": 1, "seconds": 1.0, "weights": {"w": torch.ones(300_000)}, "optimiser": {}})


def fetch_data(scene: Scene) -> None:
    fetch(load_task("t.toml"), scene.home / "data", Control())


def export(scene: Scene) -> None:
    path, workspace = scene.home / "checkpoints/foreign/mine.safetensors", Workspace(root=scene.home)
    transfers = find_transfers(path, read_metadata(path), workspace, ())
    export_snapshot(path, scene.home / "out", lambda header, kind: model_card(header, kind, workspace, transfers))


def add_snapshot(scene: Scene) -> None:
    import_weights(
        scene.home / "mine.pth",
        ImportOptions(architecture="resnet18", arguments=SMALL),
        scene.home / "checkpoints" / "foreign",
        "mine",
    )


def have_results(scene: Scene) -> None:
    fill(scene.place.workspace, load_suite("tiny.toml", ["seeds=[0]", 'arms=["step"]', 'protocols=["probe"]']))


def have_images(scene: Scene) -> None:
    for label, name in enumerate("ab"):
        for number in range(3):
            path = scene.home / "data" / "mine" / "train" / name / f"{number}.png"
            trees.save(path, trees.image(label, number), "PNG")
    shutil.copytree(scene.home / "data" / "mine" / "train", scene.home / "data" / "mine" / "test")
    (scene.home / "mine.toml").write_text('name = "mine"\n[files]\nlayout = "split-folders"\nroot = "mine"\n')


def have_parent(scene: Scene) -> None:
    make_snapshot(load_suite("tiny.toml"), SnapshotKey(arm="step", seed=0, stage=0), scene.place, Control())


def have_server(scene: Scene) -> None:
    scene.server.files["/mine.tar.gz"] = ARCHIVE
    archive_task(scene.home, scene.server)


def have_weights(scene: Scene) -> None:
    torch.save(create_model("resnet18", SMALL, classes=7, seed=3).state_dict(), scene.home / "mine.pth")


def have_snapshot(scene: Scene) -> None:
    have_weights(scene)
    add_snapshot(scene)


def have_nothing(scene: Scene) -> None:
    pass


@dataclass(frozen=True)
class Writer:
    """Something that writes.

    Attributes:
        before: What must be there.
        act: What writes; called again after a fault.
        files: Regular expressions of the names of the files written, in order.
    """

    before: Callable[[Scene], None]
    act: Callable[[Scene], None]
    files: tuple[str, ...]


WRITERS = {
    "training": Writer(
        have_parent,
        train,
        (r"stage1\.bn\.safetensors", r"stage1\.safetensors", r"stage1\.state\.pt", r"log\.jsonl", r"timings\.jsonl"),
    ),
    "progress": Writer(have_parent, stop_training, (r"stage1\.progress\.pt",)),
    "suite": Writer(have_nothing, write_suite, (r"suite\.toml", r"suite\.json")),
    "result": Writer(have_nothing, write_result, (r"step-.*\.parquet", r"step-.*\.json")),
    "pages": Writer(
        have_results,
        write_pages,
        (r"tiny\.md", r"README\.md", r"step-.*\.md", r"tiny-.*\.csv", r"tiny-.*\.svg", r"index\.html"),
    ),
    "drawn split": Writer(have_nothing, write_list, (r"mine-.*\.txt",)),
    "pixels": Writer(have_images, prepare_pixels, (r"shard-00000\.arrow", r"about\.json")),
    "points": Writer(have_nothing, keep_points, (r"cell\.json", r"cell\.pt")),
    "download": Writer(have_server, fetch_data, (r"mine\.tar\.gz\.part",)),
    "unpacked": Writer(have_server, fetch_data, (r"1\.txt", r"\.lrbench-fetched\.json")),
    "export": Writer(have_snapshot, export, (r"model\.safetensors", r"config\.json", r"README\.md")),
    "added": Writer(have_weights, add_snapshot, (r"mine\.safetensors",)),
}
PLACES = [(name, pattern) for name, writer in WRITERS.items() for pattern in writer.files]
# Flushed when the whole folder is in place, or not at all.
NOT_RENAMED = {r"timings\.jsonl", r"1\.txt"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    small = Disk(tmp_path / "disk")
    yield small
    small.restore()
    small.close()


@pytest.fixture
def scene(disk: Disk, server: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> Scene:
    drawing = b"drawn"
    monkeypatch.setattr(Figure, "drawings", lambda self, salt, endings: dict.fromkeys(endings, drawing))
    return Scene(make_home(disk.folder, monkeypatch), server)


def contents(home: Path) -> dict[str, bytes]:
    """Every file but locks, timings and the task that names a server."""
    files = {}
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        if path.is_file() and not re.fullmatch(r"\..*\.lock|timings\.jsonl|t\.toml", path.name):
            # Names and content in the cache depend on the images' times.
            name = re.sub("-[0-9a-f]{16}/", "/", name)
            files[name] = b"" if path.suffix == ".pt" or name.startswith("cache/") else path.read_bytes()
    return files


_WHOLE: dict[str, dict[str, bytes]] = {}


def undisturbed(name: str, scene: Scene) -> dict[str, bytes]:
    """Return the files that a writer produces without faults; the workspace is unchanged."""
    if name not in _WHOLE:
        aside = scene.home.parents[1] / "aside"
        shutil.copytree(scene.home, aside)
        WRITERS[name].act(scene)
        _WHOLE[name] = contents(scene.home)
        for path in scene.home.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(aside, scene.home, dirs_exist_ok=True)
    return _WHOLE[name]


def refused(scene: Scene, name: str, named: str) -> LrbenchError:
    """The error that a writer ends in: one paragraph that names the file; what was there before is as it was."""
    before = contents(scene.home)
    with pytest.raises(LrbenchError) as caught:
        WRITERS[name].act(scene)
    message = str(caught.value)
    assert one_paragraph(message) and re.search(named, message), message
    after = contents(scene.home)
    # The log is written before the state.
    assert {name: before[name] for name in before if not name.endswith("log.jsonl")}.items() <= after.items()
    resumed = re.compile(r"(^|/)(mine\.tar\.gz\.part|cache/pixels/\.[^/]*\.part/.*)$")
    assert [path for path in after if ".part" in path and not resumed.search(path)] == []
    return caught.value


def wanted(path: str, pattern: str) -> bool:
    return re.fullmatch(pattern, final_name(path)) is not None


@pytest.mark.parametrize(("name", "pattern"), PLACES)
def test_a_disk_that_fills_up(name: str, pattern: str, disk: Disk, scene: Scene) -> None:
    WRITERS[name].before(scene)
    expected = undisturbed(name, scene)
    filled = []

    def fill_up(path: str) -> None:
        # Archives are unpacked relative to open folders.
        inside = path.startswith(str(disk.folder)) or not os.path.isabs(path)
        if inside and wanted(path, pattern) and not filled:
            filled.append(path)
            disk.fill()
        if inside and disk.refuses and not path.endswith(".lock"):
            raise OSError(disk.refuses, os.strerror(disk.refuses), path)

    with on_opening(fill_up):
        error = refused(scene, name, "no space left on device")
    assert filled and error.exit_status == 1 and "un the same command again" in str(error)
    disk.restore()
    WRITERS[name].act(scene)
    assert contents(scene.home) == expected


@pytest.mark.parametrize(("name", "pattern"), [place for place in PLACES if place[1] not in NOT_RENAMED])
def test_a_flush_that_fails(name: str, pattern: str, scene: Scene, monkeypatch: Any) -> None:
    WRITERS[name].before(scene)
    expected = undisturbed(name, scene)
    real = os.fsync

    def flush(handle: int) -> None:
        if wanted(os.readlink(f"/proc/self/fd/{handle}"), pattern):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", flush)
        error = refused(scene, name, pattern.removesuffix(r"\.part"))
    assert error.exit_status == 1 and "input/output error" in str(error)
    WRITERS[name].act(scene)
    assert contents(scene.home) == expected


@pytest.mark.parametrize("fault", ["error", "vanished"])
@pytest.mark.parametrize(("name", "pattern"), [place for place in PLACES if place[1] not in NOT_RENAMED])
def test_a_rename_that_fails(name: str, pattern: str, fault: str, scene: Scene, monkeypatch: Any) -> None:
    WRITERS[name].before(scene)
    expected = undisturbed(name, scene)
    real = os.replace

    def rename(old: Any, new: Any) -> None:
        if wanted(str(old), pattern):
            if fault == "error":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.unlink(old)
        real(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", rename)
        error = refused(scene, name, pattern.removesuffix(r"\.part"))
    assert error.exit_status == 1
    assert ("vanished" if fault == "vanished" else "input/output error") in str(error)
    WRITERS[name].act(scene)
    assert contents(scene.home) == expected


FOLDERS = {
    "training": "checkpoints",
    "progress": "checkpoints/tiny",
    "suite": "leaderboard/results",
    "result": "leaderboard/results/tiny",
    "pages": "leaderboard/figures",
    "drawn split": "leaderboard/splits",
    "pixels": "cache/pixels",
    "points": "cache/finetune",
    "download": "data",
    "unpacked": "data/mine",
    "export": "out",
    "added": "checkpoints/foreign",
}


@pytest.mark.parametrize("kind", ["file", "loop"])
@pytest.mark.parametrize("name", WRITERS)
def test_something_else_instead_of_a_folder(name: str, kind: str, scene: Scene) -> None:
    WRITERS[name].before(scene)
    expected = undisturbed(name, scene)
    path = scene.home / FOLDERS[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rename(scene.home / "aside")
    path.symlink_to(path) if kind == "loop" else path.write_text("x")
    error = refused(scene, name, re.escape(str(path)))
    assert isinstance(error, InputError)
    path.unlink()
    if (scene.home / "aside").exists():
        (scene.home / "aside").rename(path)
    WRITERS[name].act(scene)
    assert contents(scene.home) == expected


@contextmanager
def read_only(disk: Disk) -> Iterator[None]:
    """Every change on the disk is refused, also to root."""

    def refuse(path: str) -> None:
        if disk.refuses and path.startswith(str(disk.folder)):
            raise OSError(disk.refuses, os.strerror(disk.refuses), path)

    disk.read_only()
    with on_opening(refuse):
        yield
    disk.restore()


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk(name: str, disk: Disk, scene: Scene) -> None:
    WRITERS[name].before(scene)
    expected = undisturbed(name, scene)
    with read_only(disk):
        error = refused(scene, name, "read-only file system")
    assert isinstance(error, InputError)
    WRITERS[name].act(scene)
    assert contents(scene.home) == expected


def test_finished_work_on_a_read_only_disk_is_shown(disk: Disk, scene: Scene, lrbench: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("LRBENCH_HOME", str(scene.home))
    monkeypatch.chdir(scene.home)
    changes = ("--set", "seeds=[0]", "--set", 'arms=["step"]', "--set", 'protocols=["knn"]', "--workers", "1")
    done = lrbench("run", "tiny.toml", *changes)
    assert done.status == 0, done.err
    before = contents(scene.home)
    with read_only(disk):
        for command in (
            ("run", "tiny.toml", *changes),
            ("leaderboard", "tiny"),
            ("leaderboard", "--check"),
            ("transfer", "--snapshot", "tiny/stage1", "--task", "tiny-objects", "--protocol", "knn"),
            ("snapshots", "list"),
        ):
            shown = lrbench(*command)
            assert shown.status == 0, shown.err
    assert contents(scene.home) == before
