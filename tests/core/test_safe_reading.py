"""Reading files, and showing text, from untrusted sources."""

import errno
import os
import pickle
from pathlib import Path

import pytest

from lrbench.core.errors import FailureError, InputError
from lrbench.core.escaping import for_markdown, for_terminal
from lrbench.core.files import DamagedFile, parse_json, read_bytes, read_json, write_json
from tests.helpers import one_paragraph


def test_pipes_folders_and_devices_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "a pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(InputError, match=f"is {kind}, not a regular file"):
            read_bytes(path)


def test_missing_and_oversized_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")
    (tmp_path / "large").write_bytes(b"12345")
    assert read_bytes(tmp_path / "large", limit=5) == b"12345"
    with pytest.raises(InputError, match="5 bytes, more than the 4"):
        read_bytes(tmp_path / "large", limit=4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1e999}', "too large a number"),
        (b"[-Infinity]", "-Infinity"),
        (b"[" * 100_000, "nested too deeply"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b"\xff", "not UTF-8"),
        (b"1" * 5000, "thousands of digits"),
        (b"{", "Expecting"),
        (b"", "Expecting value"),
    ],
)
def test_unusable_json_error_names_file_and_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=reason) as caught:
        read_json(path, "Delete it.")
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("Delete it.")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("kind", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EINTR])
def test_system_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    def fails_to_remove() -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = tmp_path / "record.json"
    write_json(path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, kind, fails)
        # What was begun cannot be removed either: the first error is the one to tell.
        patched.setattr(Path, "unlink", lambda *_, **__: fails_to_remove())
        with pytest.raises(FailureError, match=os.strerror(number).lower()) as caught:
            write_json(path, 2)
    assert str(caught.value).startswith(f"{path} could not be written: ") and one_paragraph(str(caught.value))
    assert read_json(path, "") == 1


def test_escaped_surrogate_pairs_are_read() -> None:
    assert parse_json('["\\ud83d\\ude00", 1.5]') == ["\U0001f600", 1.5]


def test_for_terminal_escapes_control_sequences() -> None:
    shown = for_terminal("title \x1b]0;pwned\x07 \x9b31m \u202egnp.exe\n\ttab")
    assert shown == "title \\x1b]0;pwned\\x07 \\x9b31m \\u202egnp.exe\n\ttab"


def test_for_markdown_escapes_markup() -> None:
    shown = for_markdown("<img src=x onerror=alert(1)> | `a` [b](c)\n# d")
    assert shown == r"&lt;img src=x onerror=alert(1)&gt; \| \`a\` \[b\](c) # d"
