"""The revision that snapshots and registrations record."""

import shutil
import subprocess

import pytest

from lrbench.core import machine


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of one commit that lrbench seems to run from."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "checkout"
    (folder / "lrbench" / "core").mkdir(parents=True)
    (folder / "lrbench" / "core" / "machine.py").write_text("first\n")
    settings = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "."], [*settings, "commit", "--quiet", "-m", "First"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    monkeypatch.setattr(machine, "__file__", str(folder / "lrbench" / "core" / "machine.py"))
    machine.source_revision.cache_clear()
    yield folder
    machine.source_revision.cache_clear()


def test_revision_is_the_commit_with_a_mark_for_changes(checkout):
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert machine.source_revision() == commit
    (checkout / "lrbench" / "core" / "machine.py").write_text("second\n")
    machine.source_revision.cache_clear()
    assert machine.source_revision() == f"{commit}+"


def test_revision_is_not_that_of_a_hooks_repository(checkout, tmp_path, monkeypatch):
    expected = machine.source_revision()
    machine.source_revision.cache_clear()
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", str(other)], check=True)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert machine.source_revision() == expected is not None


def test_killed_git_is_asked_again(checkout, tmp_path, monkeypatch):
    expected = machine.source_revision()
    machine.source_revision.cache_clear()
    asked = tmp_path / "asked"
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ -e {asked} ] || {{ touch {asked}; kill -9 $$; }}\nexec {shutil.which("git")} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert machine.source_revision() == expected
    assert asked.exists()


def test_installed_package_has_no_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "lrbench" / "core" / "machine.py"))
    machine.source_revision.cache_clear()
    assert machine.source_revision() is None
    machine.source_revision.cache_clear()
