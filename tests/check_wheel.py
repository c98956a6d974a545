"""Whether a wheel holds what an installed lrbench reads: `python tests/check_wheel.py lrbench-….whl`."""

import sys
import zipfile
from pathlib import Path

_FOLDERS = {
    "lrbench": "lrbench",
    "tasks": "lrbench/tasks",
    "benchmark/suites": "lrbench/suites",
    "benchmark/studies": "lrbench/study_files",
}
_ENDINGS = {".py", ".toml", ".txt", ".typed", ".html"}


def lacking(wheel: Path, root: Path) -> list[str]:
    """Files of the checkout's packages that are not in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
    wanted = [
        f"{package}/{path.relative_to(root / folder).as_posix()}"
        for folder, package in _FOLDERS.items()
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in _ENDINGS
    ]
    return [name for name in wanted if name not in there]


if __name__ == "__main__":
    missing = lacking(Path(sys.argv[1]), Path(__file__).resolve().parent.parent)
    print(f"{sys.argv[1]}: {'missing ' + ', '.join(missing) if missing else 'whole'}")
    sys.exit(1 if missing else 0)
