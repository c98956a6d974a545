"""What holds the project itself together: the README's commands, the floors, a light command line."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS = [
    "core",
    "config",
    "stats",
    "data",
    "store",
    "models",
    "pretraining",
    "transfer",
    "leaderboard",
    "sharing",
    "studies",
    "jobs",
    "cli",
    "api",
]
"""The packages of lrbench, each of which imports from itself and those before it."""
LIGHT = ("core", "config", "store", "jobs", "cli")
"""Packages that import neither torch nor pandas when they are imported: planning is quick."""


def readme_commands():
    """The commands of the README's first screen."""
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    return [line for line in screen.splitlines() if line.startswith("python3 -m venv")]


def test_the_first_screen_has_the_two_commands_and_ci_runs_them():
    job, tests = readme_commands()
    assert job == "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/lrbench run quick"
    assert tests == "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest -n 2"
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert tests in ci
    assert any(line.endswith(job.split(" && ")[-1]) for line in ci)


def test_every_command_that_the_documents_show_exists():
    pages = [ROOT / "README.md", ROOT / "checkpoints" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    shown = {
        match.group(1)
        for page in pages
        for match in re.finditer(
            r"(?m)(?:^|`)lrbench ((?:data|snapshots|results) [a-z]+|[a-z]+)(?=[ `\n])", page.read_text()
        )
    }
    from typer.main import get_command

    from lrbench.cli.app import app

    top = get_command(app)
    for words in shown:
        command = top
        for word in words.split():
            assert word in command.commands, f"the documents show `lrbench {words}`"
            command = command.commands[word]


def imported(path):
    """Modules of lrbench that a file imports, anywhere in it but for the eyes of a type checker."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lrbench":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lrbench.")]


def test_packages_import_only_those_below():
    for path in (ROOT / "lrbench").rglob("*.py"):
        package = path.relative_to(ROOT / "lrbench").parts[0]
        for other in imported(path) if package in FLOORS else ():
            if other in FLOORS:
                assert FLOORS.index(other) <= FLOORS.index(package), f"{path} imports lrbench.{other}"


def test_every_module_is_in_a_package():
    loose = {path.name for path in (ROOT / "lrbench").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}
    folders = {path.name for path in (ROOT / "lrbench").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(FLOORS)


def test_the_architecture_lists_every_package_in_order():
    listed = re.findall(r"(?m)^\| `([a-z]+)` \|", (ROOT / "ARCHITECTURE.md").read_text())
    assert listed == FLOORS


@pytest.mark.parametrize("arguments", [["--help"], ["transfer", "--help"], ["--version"]])
def test_help_loads_no_heavy_library(arguments):
    code = (
        "import sys\nfrom lrbench.cli import main\nsys.argv = ['lrbench', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pandas', 'numpy', 'timm', 'scipy', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and done.stdout


def test_planning_loads_neither_torch_nor_pandas():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in LIGHT
        for path in sorted((ROOT / "lrbench" / package).glob("*.py"))
    ]
    code = f"import sys, {', '.join(modules)}\nprint({{'torch', 'pandas', 'timm'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_reading_results_loads_neither_torch_nor_statistics(tmp_path):
    shutil.copytree(ROOT / "leaderboard" / "results" / "quick", tmp_path / "leaderboard" / "results" / "quick")
    heavy = {"torch", "timm", "torchvision", "matplotlib", "sklearn", "scipy.stats", "scipy.optimize"}
    code = (
        f"import sys, lrbench\nassert len(lrbench.load_results(sys.argv[1]))\nprint(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dependencies_stand_one_a_line_and_the_users_choice_is_among_them():
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["install_requires"].split("\n")[1:]
    assert all(re.fullmatch(r"[a-z0-9-]+ >= [\d.]+", line) for line in listed)
    names = {line.split()[0] for line in listed}
    assert names >= {
        "torch",
        "torchvision",
        "timm",
        "datasets",
        "scikit-learn",
        "pandas",
        "tabulate",
        "pytest-benchmark",
    }


def test_the_changelog_knows_the_version():
    from lrbench import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text()


def test_the_examples_of_the_documents_run_on_the_committed_results(monkeypatch):
    import doctest

    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("LRBENCH_HOME", raising=False)
    text = (ROOT / "docs" / "reference" / "results.md").read_text()
    # The end of a code fence is not output.
    examples = doctest.DocTestParser().get_doctest(
        text.replace("```", ""), {}, "results.md", "docs/reference/results.md", 0
    )
    outcome = doctest.DocTestRunner(verbose=False).run(examples)
    assert outcome.attempted >= 10 and outcome.failed == 0


def test_gpu_script_runs_all_steps_within_eight_minutes_and_reports_failures(tmp_path):
    script = ROOT / "benchmark" / "speed" / "gpu_suite.sh"
    limits = [int(number) for number in re.findall(r"(?m)^(?:\w+=1 )?step \w+ (\d+)", script.read_text())]
    assert len(limits) == 9 and sum(limits) <= 480
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "ran $*"\ncase "$*" in *probe_path*) exit 3;; esac\n')
    python.chmod(0o755)
    done = subprocess.run(
        [script, tmp_path / "out"], env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    rows = [line.split() for line in (tmp_path / "out" / "table.txt").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ["0"] * 8 + ["3"] and rows[-1][0] == "probe"
    # Every file that a step names exists.
    named = re.findall(r"(?:tests|benchmark)/[\w/]+\.py", script.read_text())
    missing = [path for path in named if not (ROOT / path).is_file()]
    assert missing == [] and "ran benchmark/speed/probe_path.py alone" in done.stdout
