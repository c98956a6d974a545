"""Execute the notebooks of docs/notebooks: `python docs/site/notebooks.py FOLDER` writes them as pages with their output."""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_SECONDS = 300


def execute(folder: Path) -> None:
    """Execute every notebook in an empty folder, and write its page and figures to `folder`.

    A notebook sees the committed results as `../../leaderboard`, as in the repository.

    Raises:
        CellExecutionError: A cell raised an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary, "docs", "notebooks")
            place.mkdir(parents=True)
            Path(temporary, "leaderboard").symlink_to(ROOT / "leaderboard")
            notebook = nbformat.read(path, as_version=4)
            NotebookClient(
                notebook,
                timeout=_TIMEOUT_SECONDS,
                startup_timeout=_TIMEOUT_SECONDS,
                resources={"metadata": {"path": str(place)}},
            ).execute()
        text, resources = MarkdownExporter().from_notebook_node(
            notebook, {"output_files_dir": path.stem, "unique_key": path.stem}
        )
        source = f"*This page is [{path.name}]({path.name}), executed.*\n\n"
        (folder / f"{path.stem}.md").write_text(text.replace("\n\n", f"\n\n{source}", 1), encoding="utf-8")
        for name, content in resources["outputs"].items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


if __name__ == "__main__":
    execute(Path(sys.argv[1]).absolute())
