"""A pixel cache that workspaces share."""


def test_workspaces_share_prepared_images(lrbench, home, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    monkeypatch.setenv("LRBENCH_CACHE", str(shared))
    assert lrbench("data", "prepare", "tiny-objects", "--suite", "tiny.toml").status == 0
    files = {path: path.stat().st_mtime_ns for path in (shared / "pixels").rglob("*.arrow")}
    assert files and not (home / "cache" / "pixels").exists()
    other = tmp_path / "other"
    monkeypatch.setenv("LRBENCH_HOME", str(other))
    done = lrbench("data", "prepare", "tiny-objects", "--suite", str(home / "tiny.toml"))
    assert done.status == 0 and str(shared) in done.err
    assert {path: path.stat().st_mtime_ns for path in (shared / "pixels").rglob("*.arrow")} == files
    assert not (other / "cache" / "pixels").exists()


def test_a_file_in_its_place_is_refused(lrbench, home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LRBENCH_CACHE", str(tmp_path / "file"))
    refused = lrbench("data", "prepare", "tiny-objects", "--suite", "tiny.toml")
    assert refused.status == 2 and "LRBENCH_CACHE is" in refused.err and "is a file, not a folder" in refused.err
