"""Archives as `lrbench data fetch` unpacks them: nothing is written outside the folder that should appear."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.harness import Target
from tests.fuzz.mutations import mutate_bytes, mutate_json

FILES = {
    "mine/train/a/1.txt": b"one" * 300,
    "mine/train/b/é.txt": b"two",
    "mine/" + "deep/" * 20 + "x" * 100: b"",
    "mine/list.csv": b"a,b\n" * 200,
}
NAMES = [
    b"../../x",
    b"/tmp/x",
    b"mine",
    b"mine/",
    b"",
    b".",
    b"mine/train/a",
    b"a\\..\\..\\x",
    b"mine/\x1b[2J",
    b"\xff\xfe",
]


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo("mine/")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def archive(content: bytes, name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "data" / name
        path.parent.mkdir()
        path.write_bytes(content)
        (folder / "outside.txt").write_text("mine")
        return path

    return make


def mutate_tar(numbers: random.Random, content: bytes) -> bytes:
    """Change a field of a header and correct its checksum; one time in three, bytes."""
    if numbers.random() < 1 / 3:
        return mutate_bytes(numbers, content)
    changed = bytearray(content)
    headers = [start for start in range(0, len(content), 512) if content[start + 257 : start + 262] == b"ustar"]
    start = numbers.choice(headers)
    field = numbers.choice(["name", "name", "type", "size", "mode", "link", "byte", "pax"])
    if field in ("name", "link"):
        name = numbers.choice(NAMES).ljust(100, b"\0")
        at = start if field == "name" else start + 157
        changed[at : at + 100] = name
    elif field == "type":
        changed[start + 156] = numbers.choice(b"0123456789xgLKSVMDN\0\xff")
    elif field == "size":
        sizes = [
            b"0" * 11 + b"\0",
            b"7" * 11 + b"\0",
            b"\x80" + b"\xff" * 11,
            b"\xff" * 12,
            b"-1".ljust(12),
            b"00000000100\0",
        ]
        changed[start + 124 : start + 136] = numbers.choice(sizes)
    elif field == "pax":
        at = start + 512
        changed[at : at + 40] = numbers.choice(
            [b"99999999999 path=x\n", b"0 path=x\n", b"30 size=-5\n", b"\xff" * 40]
        ).ljust(40, b"a")
    else:
        changed[start + numbers.randrange(512)] = numbers.randrange(256)
    changed[start + 148 : start + 156] = b" " * 8
    changed[start + 148 : start + 156] = f"{sum(changed[start : start + 512]):06o}\0 ".encode()
    return bytes(changed)


def mutate_zip(numbers: random.Random, content: bytes) -> bytes:
    """Change a name in the list of members and in the member itself; two times in three, bytes."""
    if numbers.random() < 2 / 3:
        return mutate_bytes(numbers, content)
    name = numbers.choice(list(FILES)).encode()
    return content.replace(
        name, numbers.choice(NAMES).ljust(len(name), numbers.choice([b"/", b"x", b" "]))[: len(name)]
    )


def use(path: Path) -> object:
    from lrbench.config.task import Archive
    from lrbench.core.control import Control
    from lrbench.data.archives.unpack import unpack

    goal = path.parent / "mine"
    described = Archive(url=f"https://example.org/{path.name}", unpacks_to="mine")
    try:
        unpack(path, goal, described, Control(), has_lock=True)
        unpacked = {
            str(entry.relative_to(goal)).encode(errors="surrogateescape").hex(): entry.read_bytes()
            if entry.is_file()
            else None
            for entry in goal.rglob("*")
        }
        assert not any(entry.is_symlink() for entry in goal.rglob("*")), "a link was unpacked"
        return unpacked
    finally:
        around = {entry.name for folder in (path.parent, path.parent.parent) for entry in folder.iterdir()}
        assert around <= {"data", "outside.txt", "mine", path.name}, around
        assert (path.parent.parent / "outside.txt").read_text() == "mine"


def make_mark(folder: Path) -> Path:
    from lrbench.data.archives.marker import MARKER, mark_unpacked

    data = folder / "data" / "mine"
    data.mkdir(parents=True)
    for name in ("train.txt", "test.txt"):
        (data / name).write_text("a/1.png\n")
    (folder / "t.toml").write_text(
        'name = "marked"\n[files]\nlayout = "lists"\nroot = "mine"\ntrain = "train.txt"\ntest = "test.txt"\n'
        '[[archives]]\nurl = "https://example.org/mine.tar"\nunpacks_to = "mine"\n'
    )
    mark_unpacked(data, archive="mine.tar", images=2)
    return data / MARKER


def use_mark(path: Path) -> object:
    """The lists that are no longer as they were unpacked."""
    from lrbench.config import load_task
    from lrbench.data.archives.marker import changed_lists

    task = load_task(str(path.parents[2] / "t.toml"))
    return changed_lists(task, path.parent, [path.parents[1]])


TARGETS = [
    Target(name="unpacked-mark", make=make_mark, mutate=mutate_json, use=use_mark),
    Target(name="archive-tar", make=archive(tar(), "mine.tar"), mutate=mutate_tar, use=use),
    Target(
        name="archive-tgz", make=archive(gzip.compress(tar()), "mine.tgz"), mutate=mutate_bytes, use=use, covered=True
    ),
    Target(
        name="archive-tbz2", make=archive(bz2.compress(tar()), "mine.tbz2"), mutate=mutate_bytes, use=use, covered=True
    ),
    Target(
        name="archive-txz", make=archive(lzma.compress(tar()), "mine.txz"), mutate=mutate_bytes, use=use, covered=True
    ),
    Target(name="archive-zip", make=archive(zipped(), "mine.zip"), mutate=mutate_zip, use=use),
]
