"""The lowest versions that setup.cfg allows, as constraints of pip: `python tests/lowest_versions.py > lowest.txt`."""

import configparser
import re
from collections.abc import Iterator
from pathlib import Path


def lowest_versions(setup: Path) -> Iterator[str]:
    """`name==version.*` of each requirement, those of the tests included, that says what is the lowest."""
    parser = configparser.ConfigParser()
    parser.read(setup, encoding="utf-8")
    wanted = f"{parser['options']['install_requires']}\n{parser['options.extras_require']['test']}"
    for name, version in re.findall(r"^\s*([\w.-]+)\s*>=\s*([\d.]+)$", wanted, flags=re.MULTILINE):
        yield f"{name}=={version}.*"


if __name__ == "__main__":
    print("\n".join(lowest_versions(Path(__file__).resolve().parent.parent / "setup.cfg")))
