"""Build the documentation site: `python docs/site/build.py FOLDER` (`pip install -e '.[docs]'`).

Pages stay where they are in the repository, so that their links work there. They are copied with what they link to. Pages of
all options and of the Python interface are generated from the code, and notebooks are executed. A broken link is an error.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api import api_page
from notebooks import execute
from typer.main import get_command

from lrbench.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
_PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE")
_FOLDERS = {
    "docs": ("*.md", "*.png", "*.ipynb"),
    "leaderboard": ("*.md", "*.svg", "*.csv", "*.html", "registrations/*.json"),
    "checkpoints": ("README.md",),
    "tasks": ("*.toml", "splits/*.txt"),
    "benchmark/suites": ("*.toml",),
    "benchmark/studies": ("*.toml",),
}
_RECORD_LINK = re.compile(r"\[([^\]]*)\]\([./]*results/[^)]*\)")


def copy_pages(source: Path) -> None:
    """Copy all pages and what they link to, in the folders of the repository."""
    names = [name for name in _PAGES if (ROOT / name).is_file()]
    for folder, patterns in _FOLDERS.items():
        for pattern in patterns:
            names += [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / folder).rglob(pattern))]
    for name in names:
        if "/results/" not in name and "/site/" not in name:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name.startswith("leaderboard/") and name.endswith(".md"):
                # Thousands of records of single results are not part of the site.
                text = _RECORD_LINK.sub(r"\1", (ROOT / name).read_text(encoding="utf-8"))
                target.write_text(text.replace("(index.html", "(browser.html"), encoding="utf-8")
            elif name == "leaderboard/index.html":
                # README.md becomes the index.
                shutil.copy2(ROOT / name, target.with_name("browser.html"))
            else:
                shutil.copy2(ROOT / name, target)


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and command of every visible command below a group."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for key, child in inner.items():
        if not child.hidden:
            yield from commands(child, f"{name} {key}")


def options_page() -> str:
    """Return a page of every command with its options, from the command line's own help."""
    lines = ["# All options", "", "Generated from `lrbench COMMAND --help`.", ""]
    for name, command in commands(get_command(app), "lrbench"):
        lines += [f"## {name}", "", *(command.help or "").strip().splitlines(), ""]
        rows = []
        for parameter in command.params:
            if getattr(parameter, "hidden", False) or parameter.name == "help":
                continue
            is_argument = parameter.param_type_name == "argument"
            shown = (parameter.metavar or parameter.name or "").upper() if is_argument else ", ".join(parameter.opts)
            value = "" if is_argument or getattr(parameter, "is_flag", False) else f" {parameter.metavar or 'VALUE'}"
            text = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|").replace("<", "&lt;")
            rows.append(f"| `{shown}{value}` | {text} |")
        if rows:
            lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def main() -> None:
    """Build the site into the folder on the command line."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "site").absolute()
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    copy_pages(source)
    (source / "docs" / "reference" / "options.md").write_text(options_page(), encoding="utf-8")
    (source / "docs" / "reference" / "api.md").write_text(api_page(), encoding="utf-8")
    execute(source / "docs" / "notebooks")
    settings = (ROOT / "docs" / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    configuration = folder / "mkdocs.yml"
    configuration.write_text(f"{settings}docs_dir: {source}\nsite_dir: {folder / 'html'}\n", encoding="utf-8")
    # Not with --quiet, under which warnings are not counted.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(configuration)]
    # The theme prints a notice about other products.
    built = subprocess.run(
        command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    if built.returncode:
        problems = [line for line in built.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]
        sys.exit("\n".join(problems[:30]) or built.stderr)
    print(folder / "html" / "index.html")


if __name__ == "__main__":
    main()
