"""Bad input ends with one paragraph and a non-zero exit status, and loses no earlier results."""

import errno
import os
import resource

import pytest
import torch

from tests import trees
from tests.helpers import Forked, one_paragraph, run_with_forks

TRANSFER = ("transfer", "--snapshot", "stage1", "--protocol", "knn", "--suite", "tiny", "--task")


@pytest.fixture
def pretrained(lrbench, pretrain_tiny, home):
    """Two snapshots and a result."""
    pretrain_tiny("step")
    done = lrbench(*TRANSFER, "tiny-objects")
    assert done.status == 0, done.err
    return home


def kept(home):
    return {
        str(path): path.read_bytes()
        for pattern in ("checkpoints/**/*.safetensors", "leaderboard/results/**/*.json")
        for path in home.glob(pattern)
    }


@pytest.fixture
def refused(lrbench, pretrained):
    """Run a command that must fail with a status and one paragraph, and change no file."""
    before = kept(pretrained)

    def run(status, *arguments):
        outcome = lrbench(*arguments)
        assert outcome.status == status, outcome.err
        last = outcome.err.strip().splitlines()[-1]
        assert last.startswith("lrbench: ") and one_paragraph(last)
        assert "Traceback" not in outcome.err
        assert before.items() <= kept(pretrained).items()
        return last

    return run


def mine(home, *, train=("a", "b"), test=("a", "b")):
    for split, names in (("train", train), ("test", test)):
        for label, name in enumerate(names):
            for number in range(4):
                path = home / "data" / "mine" / split / name / f"{number}.png"
                trees.save(path, trees.image(label, number), "PNG")
    (home / "mine.toml").write_text('name = "mine"\n\n[files]\nlayout = "split-folders"\nroot = "mine"\n')


def test_missing_data(refused):
    error = refused(2, *TRANSFER, "cub200")
    assert "CUB_200_2011 (no such folder)" in error and "lrbench data fetch cub200" in error


def test_half_copied_data(refused, pretrained):
    trees.cub200(pretrained / "data")
    assert "train images, expected 5,994" in refused(2, *TRANSFER, "cub200")


def test_an_image_that_does_not_decode(refused, pretrained):
    mine(pretrained)
    (pretrained / "data" / "mine" / "train" / "a" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert "train/a/2.png could not be read as an image" in refused(2, *TRANSFER, "mine.toml")


def test_a_task_with_an_empty_class(refused, pretrained):
    mine(pretrained)
    (pretrained / "data" / "mine" / "train" / "c").mkdir()
    assert "'c'" in refused(2, *TRANSFER, "mine.toml")


def test_a_class_missing_from_train(refused, pretrained):
    mine(pretrained, test=("a", "b", "c"))
    assert "class 'c', but no training image" in refused(2, *TRANSFER, "mine.toml")


def test_a_file_where_a_folder_should_be(refused, pretrained):
    (pretrained / "data").mkdir()
    (pretrained / "data" / "CUB_200_2011").write_bytes(b"x")
    assert "CUB_200_2011 is a file" in refused(2, *TRANSFER, "cub200")


def test_workspace_that_cannot_be_created_is_reported(lrbench, monkeypatch):
    monkeypatch.setenv("LRBENCH_HOME", "/proc/nowhere/deeper")
    outcome = lrbench("run", "quick")
    assert outcome.status == 2 and "no folder can be created in /proc. Choose another folder" in outcome.err


@pytest.mark.parametrize("folder", ["cache", "leaderboard", "checkpoints"])
def test_a_file_where_a_workspace_folder_should_be(lrbench, home, folder):
    (home / folder).write_bytes(b"x")
    outcome = lrbench("run", "tiny.toml", "--workers", "1", "--set", "seeds=[0]", "--set", 'arms=["step"]')
    assert outcome.status == 2, outcome.err
    assert f"{folder} is in the way" in outcome.err and "Traceback" not in outcome.err


@pytest.mark.parametrize("damage", ["truncated", "pickle", "architecture"])
def test_a_bad_snapshot(lrbench, pretrained, damage):
    path = pretrained / "checkpoints" / "tiny" / "step" / "seed0" / "stage1.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
        expected = "is truncated or damaged"
    elif damage == "pickle":
        torch.save({"weight": torch.zeros(2)}, path)
        expected = "is a pickle"
    else:
        text = path.read_bytes().replace(b'\\"architecture\\":\\"resnet18\\"', b'\\"architecture\\":\\"resnet50\\"')
        path.write_bytes(text)
        expected = "stage1.safetensors is damaged: "
    before = kept(pretrained)
    outcome = lrbench(*TRANSFER, "tiny-indoor")
    assert outcome.status == 2 and expected in outcome.err and one_paragraph(outcome.err.splitlines()[-1])
    again = lrbench("pretrain", "tiny.toml", "--arm", "step", "--seed", "0", "--workers", "1")
    assert again.status == 2 and expected in again.err
    assert kept(pretrained) == before


def test_a_loss_that_is_not_finite(lrbench, home):
    outcome = lrbench(
        "pretrain", "tiny.toml", "--seed", "0", "--arm", "step", "--workers", "1",
        "--set", "schedule.rates=[1e30, 1e29, 1e28]", "--set", "name=explodes",
    )  # fmt: skip
    assert outcome.status == 1
    last = outcome.err.strip().splitlines()[-1]
    assert "The loss of step/seed0/stage1 became" in last and "learning rate 1e+30" in last and one_paragraph(last)
    assert (home / "checkpoints" / "explodes" / "step" / "seed0" / "stage0.safetensors").is_file()


def run_on_a_full_disk(*arguments):
    """Run lrbench where no file may grow beyond 200 kB, so that writing the next snapshot fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    run_with_forks(*arguments)


def test_a_full_disk(pretrained, lrbench):
    before = kept(pretrained)
    arguments = ("pretrain", "tiny.toml", "--arm", "hold", "--seed", "0", "--workers", "1")
    done = Forked(run_on_a_full_disk, *arguments).finished()
    assert done.status == 1, done.err
    assert "could not be written" in done.err and "Existing files are unchanged" in done.err
    assert "Traceback" not in done.err
    assert kept(pretrained) == before
    again = lrbench(*arguments)
    assert again.status == 0, again.err


def test_other_settings_under_the_same_name(refused):
    error = refused(2, "pretrain", "tiny.toml", "--set", "schedule.batch=16")
    assert "schedule.batch was 32 and is now 16" in error and "--set name=tiny-2" in error


def test_unknown_verb_option_or_task_is_a_usage_error(lrbench):
    assert lrbench("fly").status == 2
    assert lrbench("run", "--fast").status == 2
    assert lrbench("transfer", "--snapshot", "timm:test_resnet", "--task", "cub20").status == 2


def test_debug_shows_a_traceback_with_the_same_status(lrbench):
    for arguments in (("transfer", "--snapshot", "timm:test_resnet", "--task", "cub20"), ("tasks", "nothing")):
        outcome = lrbench(*arguments, "--debug")
        assert outcome.status == lrbench(*arguments).status == 2 and "Traceback" in outcome.err


def test_negative_seed_is_a_usage_error(lrbench):
    assert lrbench("transfer", "--snapshot", "timm:test_resnet", "--task", "tiny-objects", "--seed", "-1").status == 2


def test_unexpected_error_is_a_paragraph_or_a_traceback(lrbench, monkeypatch):
    def breaks(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("lrbench.config.find_tasks", breaks)
    outcome = lrbench("tasks")
    assert outcome.status == 1 and one_paragraph(outcome.err)
    assert "lrbench: Unexpected error: ZeroDivisionError: division by zero. Results already saved" in outcome.err
    debugged = lrbench("tasks", "--debug")
    assert debugged.status == 1 and "Traceback" in debugged.err and "in breaks" in debugged.err


@pytest.mark.parametrize(
    ("number", "filename", "said"),
    [
        (errno.EIO, "a.json", "a.json could not be read or written: input/output error. Check the disk"),
        (errno.ESTALE, "a.json", "a.json could not be read or written: stale file handle. Check the disk"),
        (errno.EINTR, None, "A file could not be read or written: interrupted system call."),
        (errno.EMFILE, 7, "A file could not be read or written: too many open files. Raise this process's limit"),
        (errno.ENFILE, "a.json", "too many open files in system. The whole machine has"),
    ],
)
def test_system_errors_are_explained(lrbench, monkeypatch, number, filename, said):
    def breaks(*_):
        raise OSError(number, os.strerror(number), filename)

    monkeypatch.setattr("lrbench.config.find_tasks", breaks)
    outcome = lrbench("tasks")
    assert outcome.status == 1 and one_paragraph(outcome.err) and said in outcome.err
    assert "Unexpected" not in outcome.err


def test_out_of_memory_is_explained(lrbench, monkeypatch):
    def breaks(*_):
        raise MemoryError

    monkeypatch.setattr("lrbench.config.find_tasks", breaks)
    outcome = lrbench("tasks")
    assert outcome.status == 1 and "lrbench: Out of memory. Results already saved are kept." in outcome.err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("transfer", "--snapshot", "", "--task", "digits"), "--snapshot"),
        (("transfer", "--snapshot", "stage1", "--task="), "--task"),
        (("transfer", "--snapshot", "stage1", "--task", "digits", "--data-root", " "), "--data-root"),
        (("recommend", "--task", "digits", "--snapshots", "stage1", "--snapshots", ""), "--snapshots"),
        (("data", "prepare", "digits", "--suite", ""), "--suite"),
        (("data", "verify", ""), "TASK"),
        (("snapshots", "add", "a.pth", "", "--architecture", "resnet18"), "FILE"),
        (("leaderboard", "--out", ""), "--out"),
    ],
)
def test_empty_values_are_refused(lrbench, home, arguments, name):
    refused = lrbench(*arguments)
    assert refused.status == 2 and one_paragraph(refused.err) and not refused.out
    assert f"lrbench: {name} is empty; a shell variable may be unset." in refused.err


def read_only(monkeypatch, folder):
    """Make the system refuse every change below a folder, as on a read-only file system."""

    def refusing(name, change=lambda *_: True):
        call = getattr(os, name)

        def checked(path, *given, **named):
            if str(path).startswith(str(folder)) and change(path, *given):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return call(path, *given, **named)

        monkeypatch.setattr(os, name, checked)

    refusing("open", lambda path, flags, *_: flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    refusing("mkdir", lambda path, *_: not os.path.isdir(path))
    for name in ("unlink", "replace", "rename", "rmdir"):
        refusing(name)


def test_read_only_home_suffices_for_finished_work(lrbench, pretrained, monkeypatch):
    narrow = ("seeds=[0]", 'arms=["step"]', 'targets=["tiny-objects"]', 'protocols=["knn"]')
    suite = ("tiny.toml", *(word for change in narrow for word in ("--set", change)), "--workers", "1")
    assert lrbench("run", *suite).status == 0
    before = kept(pretrained)
    read_only(monkeypatch, pretrained)
    for arguments in (
        ("run", *suite),
        ("pretrain", *suite),
        (*TRANSFER, "tiny-objects"),
        ("leaderboard",),
        ("leaderboard", "--check"),
    ):
        outcome = lrbench(*arguments)
        assert outcome.status == 0, outcome.err
    refused = lrbench("transfer", "--snapshot", "stage1", "--task", "tiny-objects", "--protocol", "logme")
    assert refused.status == 2 and "cannot be written: read-only file system" in refused.err
    assert kept(pretrained) == before


def test_folder_instead_of_the_suite_file(lrbench, pretrained):
    path = pretrained / "checkpoints" / "tiny" / "suite.toml"
    path.unlink()
    path.mkdir()
    for arguments in (("pretrain", "tiny.toml", "--arm", "step"), ("plan", "tiny"), (*TRANSFER, "tiny-objects")):
        refused = lrbench(*arguments)
        assert refused.status == 2 and one_paragraph(refused.err.splitlines()[-1]) and "Unexpected" not in refused.err


def test_link_loops_are_reported(lrbench, home, monkeypatch):
    (home / "loop").symlink_to("loop")
    (home / "loop.toml").symlink_to("loop.toml")
    monkeypatch.setenv("LRBENCH_HOME", str(home / "loop"))
    commands = [("run", "quick"), ("tasks",), ("snapshots", "list"), ("transfer", "--snapshot", "timm:test_resnet")]
    for arguments in (*commands[:1], commands[2], ("tasks", "loop.toml"), ("plan", "loop.toml")):
        refused = lrbench(*arguments)
        assert "Unexpected" not in refused.err and "Traceback" not in refused.err
        if arguments != ("snapshots", "list"):
            assert refused.status == 2 and "loop" in refused.err
    monkeypatch.delenv("LRBENCH_HOME")
    assert lrbench("tasks", "--data-root", "loop").status == 0


@pytest.mark.parametrize("where", ["variable", "folder"])
def test_a_home_that_is_not_utf8_is_refused(lrbench, home, monkeypatch, where):
    folder = os.fsencode(home) + b"/caf\xe9"
    os.mkdir(folder)
    if where == "variable":
        monkeypatch.setenv("LRBENCH_HOME", os.fsdecode(folder))
    else:
        monkeypatch.delenv("LRBENCH_HOME")
        monkeypatch.chdir(folder)
    for arguments in (("run", "quick"), ("plan", "quick"), ("snapshots", "list"), ("leaderboard",), ("doctor",)):
        refused = lrbench(*arguments)
        assert refused.status == 2 and one_paragraph(refused.err)
        assert "caf\\udce9 is not valid UTF-8. Rename the file or folder, or use another one." in refused.err


@pytest.mark.parametrize("option", ["--snapshot", "--task", "--data-root"])
def test_paths_that_are_not_utf8_are_refused(lrbench, home, option):
    given = {"--snapshot": "timm:test_resnet", "--task": "digits", option: "caf\udce9/x.toml"}
    refused = lrbench("transfer", *(word for pair in given.items() for word in pair))
    assert refused.status == 2 and "caf\\udce9/x.toml is not valid UTF-8" in refused.err


def test_home_of_an_unknown_user_does_not_exist(lrbench, home):
    refused = lrbench("transfer", "--snapshot", "~nobody-here/x.safetensors", "--task", "digits")
    assert refused.status == 2 and "there is no snapshot ~nobody-here/x.safetensors" in refused.err


def test_empty_variables_count_as_unset(lrbench, home, monkeypatch):
    monkeypatch.setenv("LRBENCH_HOME", "")
    for data in ("", ":"):
        monkeypatch.setenv("LRBENCH_DATA", data)
        assert "data/CUB_200_2011" in lrbench("tasks", "cub200").out
    assert str(home) in lrbench("doctor").out


def test_missing_data_root_is_reported(lrbench, home):
    outcome = lrbench("tasks", "--data-root", "nowhere")
    assert outcome.status == 0 and "warning: --data-root nowhere is not a folder" in outcome.err
    (home / "nowhere").mkdir()
    assert "warning" not in lrbench("tasks", "--data-root", "nowhere").err
    assert "warning" not in lrbench("data", "fetch", "digits", "--data-root", "made-later").err


def test_repeated_single_value_option_is_refused(lrbench, home):
    """All options of all commands, read from the commands themselves."""
    from typer.main import get_command

    from lrbench.cli.app import app

    top, checked = get_command(app), 0
    verbs = [((name,), verb) for name, verb in top.commands.items() if not hasattr(verb, "commands")]
    for group in ("data", "snapshots"):
        verbs += [((group, name), verb) for name, verb in top.commands[group].commands.items()]
    for words, verb in verbs:
        for option in verb.params:
            if option.param_type_name != "option" or option.is_flag or option.multiple:
                continue
            refused = lrbench(*words, option.opts[0], "1", option.opts[0], "2")
            assert refused.status == 2 and f"{option.opts[0]} was given 2 times, but it takes one value." in refused.err
            checked += 1
    assert checked > 30
    assert lrbench("tasks", "--json", "--json").status == 0


def test_missing_snapshot_lists_the_existing_ones(lrbench, home):
    folder = home / "checkpoints" / "foreign"
    folder.mkdir(parents=True)
    for name in ("early", "late"):
        (folder / f"{name}.safetensors").write_bytes(b"x")
    command = ("transfer", "--task", "tiny-objects", "--snapshot")
    missed = lrbench(*command, "foreign/lat")
    assert missed.status == 2 and one_paragraph(missed.err)
    assert (
        "there is no snapshot foreign/lat. Did you mean 'foreign/late'? Foreign snapshots: foreign/early" in missed.err
    )
    assert "Did you mean 'foreign/late'?" in lrbench(*command, "forein/late").err
    assert "there is no file weights/epoch3.pth." in lrbench(*command, "weights/epoch3.pth").err
    assert "there is no folder weights/." in lrbench(*command, "weights/").err
    assert "there is no file or folder ./weights." in lrbench(*command, "./weights").err
    assert f"{folder}/ is a folder. Name one snapshot in it." in lrbench("snapshots", "show", f"{folder}/").err


def test_file_without_read_permission_is_reported(lrbench, home, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "mine.toml")

    monkeypatch.setattr("lrbench.config.load_task", refuse)
    refused = lrbench("data", "verify", "mine.toml")
    assert refused.status == 2 and one_paragraph(refused.err)
    assert "mine.toml cannot be read: permission denied. Change its permissions." in refused.err


def test_toml_with_a_byte_order_mark_is_read(lrbench, home):
    (home / "marked.toml").write_bytes(b"\xef\xbb\xbf" + b'name = "marked"\n[files]\nlayout = "folders"\nroot = "x"\n')
    assert "well-formed" not in lrbench("data", "verify", "marked.toml").err
