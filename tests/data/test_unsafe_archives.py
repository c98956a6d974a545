"""Archives and tasks that write outside the data root, fill the disk, or contain links and devices."""

import gzip
import io
import os
import stat
import tarfile
import zipfile

import pytest

from lrbench.config import load_task
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError
from lrbench.data.archives.extract import check_only_files_and_folders, extract
from lrbench.data.archives.members import RefusedArchive, SizeBudget
from lrbench.data.fetch import fetch
from tests.data.archive_server import archive_task, make_tar, make_zip, with_archives


def tar_of(*members):
    """Return a tar file with members `(name, type, link target or content)`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, value in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, 0o755
            if kind == tarfile.REGTYPE:
                entry.size = len(value)
                archive.addfile(entry, io.BytesIO(value))
            else:
                entry.linkname = value or ""
                archive.addfile(entry)
    return gzip.compress(buffer.getvalue(), mtime=0)


def offered(home, server, content, name="mine.tar.gz"):
    server.files[f"/{name}"] = content
    return with_archives(archive_task(home, server, name=name), {"md5": None})


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def beyond_path_max(outside):
    """Return the members of CVE-2025-4517: links whose resolved path is longer than PATH_MAX hide their target."""
    long, steps = "d" * 247, "abcdefghijklmnop"
    members, path = [("mine/a/1.txt", tarfile.REGTYPE, b"one")], ""
    for step in steps:
        members.append((os.path.join(path, long), tarfile.DIRTYPE, None))
        members.append((os.path.join(path, step), tarfile.SYMTYPE, long))
        path = os.path.join(path, long)
    link = os.path.join("/".join(steps), "l" * 254)
    members.append((link, tarfile.SYMTYPE, "../" * len(steps)))
    members.append(("escape", tarfile.SYMTYPE, f"{link}/../../{outside}"))
    members.append(("escape/planted.txt", tarfile.REGTYPE, b"planted"))
    return members


def test_links_beyond_path_max_are_refused(home, server):
    (home / "outside").mkdir()
    with pytest.raises(FailureError, match=r"could not be unpacked: its member 'a' is a symbolic link"):
        fetch(offered(home, server, tar_of(*beyond_path_max("outside"))), home / "data", Control())
    assert everything_in(home / "outside") == []
    assert everything_in(home / "data") == [".mine.lock", "mine.tar.gz"]


def test_link_of_one_archive_does_not_redirect_another(home, server):
    """Below `top/` the link stays inside; after `d` is moved it leads to a folder next to the data root."""
    (home / "secret").mkdir()
    server.files["/one.tar.gz"] = tar_of(
        ("top/d/1.txt", tarfile.REGTYPE, b"one"), ("top/d/sec", tarfile.SYMTYPE, "../../secret")
    )
    server.files["/two.txt"] = b"planted"
    task = with_archives(
        archive_task(home, server),
        {"url": f"{server.url}/one.tar.gz", "unpacks_to": "d", "md5": None},
        {"url": f"{server.url}/two.txt", "unpacks_to": None, "into": "d/sec", "md5": None},
    )
    with pytest.raises(FailureError, match="'top/d/sec' is a symbolic link"):
        fetch(task, home / "data", Control())
    # Also if such a link already exists.
    (home / "data" / "d").mkdir()
    (home / "data" / "d" / "sec").symlink_to("../../secret")
    with pytest.raises(InputError, match=r"d/sec .*outside the data root"):
        fetch(task, home / "data", Control())
    assert everything_in(home / "secret") == []


@pytest.mark.parametrize("absolute", [False, True])
def test_nothing_is_unpacked_to_a_tasks_root_outside_the_data(home, server, absolute):
    """Archives are unpacked next to existing data, but not outside the data root."""
    data = home / "deep" / "data"
    images = home / "mine" / "train" / "a"
    images.mkdir(parents=True)
    (images / "1.png").write_bytes(b"")
    (home / ".bashrc").write_text("my own")
    server.files["/.bashrc"] = b"planted"
    (home / "t.toml").write_text(
        f'name = "taking"\n[files]\nlayout = "split-folders"\nroot = "{home if absolute else "../.."}"\n'
        f'[[archives]]\nurl = "{server.url}/mine.tar.gz"\nunpacks_to = "mine"\nimages = 1\n'
        f'[[archives]]\nurl = "{server.url}/.bashrc"\n'
    )
    if absolute:
        server.files["/mine.tar.gz"] = make_tar({"mine/train/a/1.png": b""})
        fetch(load_task("t.toml"), data, Control())
        assert (data / ".bashrc").read_bytes() == b"planted" and (data / "mine").is_dir()
    else:
        with pytest.raises(InputError, match=r"`files\.root`: '\.\./\.\.' contains"):
            load_task("t.toml")
    assert (home / ".bashrc").read_text() == "my own" and not (home / ".bashrc.bad").exists()


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"?", "of an unknown type"),
    ],
)
def test_tar_with_special_members_is_refused(home, server, kind, what):
    content = tar_of(("mine/a/1.txt", tarfile.REGTYPE, b"one"), ("mine/b", kind, "mine/a/1.txt"))
    with pytest.raises(FailureError, match=rf"its member 'mine/b' is {what}.*Unpack it yourself.*{home}/data/mine"):
        fetch(offered(home, server, content), home / "data", Control())
    assert everything_in(home / "data") == [".mine.lock", "mine.tar.gz"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_zip_with_special_members_is_refused(home, server, kind):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mine/a.txt", b"a")
        entry = zipfile.ZipInfo("mine/b")
        entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
        archive.writestr(entry, "a.txt")
    with pytest.raises(FailureError, match=r"its member 'mine/b' is (a symbolic link|a pipe|a device)"):
        fetch(offered(home, server, buffer.getvalue(), "mine.zip"), home / "data", Control())
    assert not (home / "data" / "mine").exists()


@pytest.mark.parametrize("pack", [make_tar, make_zip])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("/etc/passwd", "leads out of it"),
        ("../x.txt", "leads out of it"),
        ("mine/a/../../../x.txt", "leads out of it"),
        ("", "has no name"),
        (".", "has no name"),
        ("mine/a\x1b[2J.txt", "control character"),
        ("mine/a\n.txt", "control character"),
        (f"mine/{'x' * 256}", "longer than"),
        (f"mine/{'é' * 128}", "longer than"),
        ("mine/" + "/".join(["x" * 200] * 6), "longer than"),
        ("mine/" + "/".join(["x"] * 100), "deeper than"),
    ],
)
def test_member_with_an_invalid_name_is_refused(home, server, pack, name, what):
    if pack is make_tar:
        content = make_tar({"mine/a/1.txt": b"one", name: b"x"})
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive, archive.open(zipfile.ZipInfo(name), "w") as member:
            member.write(b"x")
        content = buffer.getvalue()
    with pytest.raises(FailureError, match=rf"could not be unpacked: .*{what}"):
        fetch(
            offered(home, server, content, "mine.tar.gz" if pack is make_tar else "mine.zip"), home / "data", Control()
        )
    assert len(everything_in(home / "data")) == 2


def test_backslashes_in_a_zip_separate_folders(home, server):
    content = make_zip({"mine\\train\\a\\1.txt": b"one", "mine\\test\\": b""})
    fetch(offered(home, server, content, "mine.zip"), home / "data", Control())
    assert (home / "data" / "mine" / "train" / "a" / "1.txt").read_bytes() == b"one"
    assert (home / "data" / "mine" / "test").is_dir()
    out = make_zip({"mine/1.txt": b"", "..\\..\\out.txt": b""})
    with pytest.raises(FailureError, match="leads out of it"):
        fetch(offered(home, server, out, "mine.zip"), home / "other", Control())


def test_dot_folder_and_double_slashes_are_accepted(home, server):
    content = tar_of(
        ("./", tarfile.DIRTYPE, None),
        ("./mine//a/", tarfile.DIRTYPE, None),
        ("./mine//a//1.txt", tarfile.REGTYPE, b"one"),
        ("mine/Icon\r", tarfile.REGTYPE, b"of macOS"),
        ("mine/ü/名.txt", tarfile.REGTYPE, b"two"),
    )
    fetch(offered(home, server, content), home / "data", Control())
    names = [name for name in everything_in(home / "data" / "mine") if ".lrbench" not in name]
    assert names == ["a", "a/1.txt", "ü", "ü/名.txt"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_paths_are_read_from_every_tar_format(home, server, format):
    name = "mine/" + "/".join(["d" * 60] * 3) + "/" + ("f" * 90) + ".txt"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for content in (b"first", b"second"):
            entry = tarfile.TarInfo(name if format != tarfile.USTAR_FORMAT else name.replace("d" * 60, "d" * 40))
            entry.size, entry.mode = len(content), 0o4777
            archive.addfile(entry, io.BytesIO(content))
    fetch(offered(home, server, gzip.compress(buffer.getvalue())), home / "data", Control())
    [path] = [path for path in (home / "data" / "mine").rglob("*.txt") if path.is_file()]
    # The later of two members with one name is kept; permissions are not restored.
    assert path.read_bytes() == b"second" and stat.S_IMODE(path.stat().st_mode) & 0o7111 == 0


@pytest.mark.parametrize("pack", [make_tar, make_zip])
def test_decompression_bomb_is_refused(home, server, monkeypatch, pack):
    monkeypatch.setattr("lrbench.data.archives.members.BASE_BYTES", 1 << 20)
    content, name = {make_tar: (make_tar, "mine.tar.gz"), make_zip: (None, "mine.zip")}[pack]
    if pack is make_zip:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("mine/a.bin", bytes(40 << 20))
        content = buffer.getvalue()
    else:
        content = make_tar({"mine/a.bin": bytes(40 << 20)})
    with pytest.raises(FailureError, match=r"could not be unpacked: it unpacks to more than .* bytes"):
        fetch(offered(home, server, content, name), home / "data", Control())
    assert everything_in(home / "data") == [f".{'mine'}.lock", name]


def test_huge_extended_header_is_refused(home, server):
    entry = tarfile.TarInfo("mine/a.txt")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 40
    content = gzip.compress(tar_bytes(tarfile.TarInfo("mine/b.txt")) + entry.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    with pytest.raises(FailureError, match=r"could not be unpacked: .*extended header of 1,099,511,627,776 bytes"):
        fetch(offered(home, server, content), home / "data", Control())


def tar_bytes(*entries):
    return b"".join(entry.tobuf() for entry in entries)


def test_negative_member_size_is_refused(home, server):
    """CVE-2025-8194: with a negative size, tarfile reads the same header forever."""
    header = bytearray(tarfile.TarInfo("mine/a.txt").tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    content = gzip.compress(tar_bytes(tarfile.TarInfo("mine/b.txt")) + bytes(header) + bytes(1024))
    with pytest.raises(FailureError, match=r"could not be unpacked: .*negative size"):
        fetch(offered(home, server, content), home / "data", Control())


@pytest.mark.parametrize("damage", ["header", "end", "pax"])
def test_tar_damaged_in_the_middle_is_refused(home, server, damage):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("mine/1.txt", "mine/é.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"one"))
    content = bytearray(buffer.getvalue())
    if damage == "header":
        content[1024 + 5] ^= 1
    elif damage == "end":
        del content[1024 + 1024 + 512 + 1 :]
    else:
        content[1024 + 512] = ord("x")
    with pytest.raises(FailureError, match="could not be unpacked"):
        fetch(offered(home, server, gzip.compress(bytes(content))), home / "data", Control())
    assert not (home / "data" / "mine").exists()


def test_link_in_place_of_the_temporary_folder_is_refused(home, server):
    (home / "outside").mkdir()
    (home / "data").mkdir()
    (home / "data" / ".mine.unpacking").symlink_to(home / "outside")
    with pytest.raises(InputError, match=r"\.mine\.unpacking is a link or a file"):
        fetch(offered(home, server, make_tar({"mine/1.txt": b"one"})), home / "data", Control())
    assert everything_in(home / "outside") == [] and not (home / "data" / "mine").exists()


def test_link_in_place_of_the_partial_file_is_refused(home, server):
    (home / "outside.txt").write_text("mine")
    (home / "data").mkdir()
    (home / "data" / "mine.tar.gz.part").symlink_to(home / "outside.txt")
    with pytest.raises(InputError, match=r"mine\.tar\.gz\.part is not a regular file"):
        fetch(offered(home, server, make_tar({"mine/1.txt": b"one"})), home / "data", Control())
    assert (home / "outside.txt").read_text() == "mine"


def test_marker_in_an_archive_is_ignored(home, server):
    mark = ".lrbench-fetched.json"
    content = make_tar({"mine/a/1.txt": b"one", f"mine/{mark}/x": b"", f"mine/a/{mark}": b"{}"})
    fetch(offered(home, server, content), home / "data", Control())
    assert (home / "data" / "mine" / mark).is_file() and not (home / "data" / "mine" / "a" / mark).exists()


def test_zip_at_the_end_of_a_tar_is_extracted_as_a_file(home, server):
    content = tar_bytes(tarfile.TarInfo("mine/1.txt"))
    inner, entry = make_zip({"mine/2.txt": b""}), tarfile.TarInfo("mine/inner.zip")
    entry.size = len(inner)
    content += tar_bytes(entry) + inner.ljust(512, b"\0")
    fetch(offered(home, server, content, "mine.tar"), home / "data", Control())
    assert (home / "data" / "mine" / "inner.zip").read_bytes() == inner


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_zip_compression_is_refused(home, server, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("mine/1.txt", bytes(1000))
    with pytest.raises(FailureError, match=rf"'mine/1\.txt' uses compression method {method}.*Unpack it yourself"):
        fetch(offered(home, server, buffer.getvalue(), "mine.zip"), home / "data", Control())


@pytest.mark.parametrize("link", ["mine", "mine/a", "mine/a/1.txt"])
def test_links_in_the_target_folder_are_not_followed(tmp_path, link):
    """Another process may create a link while an archive is unpacked."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    (outside / "a").mkdir(parents=True)
    (outside / "1.txt").write_text("mine")
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(outside / "1.txt" if link.endswith(".txt") else outside)
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(make_tar({"mine/a/1.txt": b"planted", "mine/a/2.txt": b"planted"}))
    if link.endswith(".txt"):
        # The link itself is replaced with the file.
        extract(path, folder, SizeBudget.for_archive(path), Control())
        assert not (folder / link).is_symlink() and (folder / link).read_bytes() == b"planted"
    else:
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            extract(path, folder, SizeBudget.for_archive(path), Control())
    assert everything_in(outside) == ["1.txt", "a"] and (outside / "1.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["symbolic link", "pipe"])
def test_extracted_tree_is_checked_for_special_files(tmp_path, kind):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("one")
    check_only_files_and_folders(tmp_path)
    os.mkfifo(tmp_path / "a" / "odd") if kind == "pipe" else (tmp_path / "a" / "odd").symlink_to("1.txt")
    with pytest.raises(RefusedArchive, match=f"its member a/odd is a {kind}"):
        check_only_files_and_folders(tmp_path)
